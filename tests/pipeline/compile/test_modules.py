import pytest
import torch
from torch import nn

from pipeline.compile.builder import CompileError
from pipeline.compile.inputs import check_forward
from pipeline.compile.modules import group_count, prepare_module
from pipeline.compile.values import CouplingError


def net_with(norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Sequential(norm, nn.ReLU()), nn.Flatten(), nn.Linear(128, 3))


def worn(norm):
    """A normalisation that has seen data and was trained."""
    with torch.no_grad():
        for value in [*norm.parameters(), norm.running_mean]:
            value.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    return norm


def test_batch_norm_in_training_mode_is_refused_with_both_cures():
    with pytest.raises(
        CouplingError, match=r"layer '1.0' \(BatchNorm2d\) .*GroupNorm \(--replace-batchnorm\), or freeze"
    ):
        prepare_module(net_with(nn.BatchNorm2d(8)))


def test_batch_norm_is_replaced_by_group_norm_with_its_parameters_under_their_names(check_step):
    module = net_with(worn(nn.BatchNorm2d(8, eps=1e-3)))
    replaced = prepare_module(module, replace_batchnorm=True)
    norm = replaced[1][0]
    assert isinstance(norm, nn.GroupNorm)
    assert (norm.num_groups, norm.eps) == (2, 1e-3)
    assert [name for name, _ in replaced.named_parameters()] == [name for name, _ in module.named_parameters()]
    assert all(torch.equal(a, b) for a, b in zip(replaced.parameters(), module.parameters(), strict=True))
    assert isinstance(module[1][0], nn.BatchNorm2d)
    check_step(replaced, (3, 1, 4, 4), 3)


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (3, 1), (4, 1), (7, 1), (8, 2), (24, 6), (30, 6), (64, 16), (256, 32), (514, 2)]
)
def test_groups_divide_the_channels_and_are_not_too_small(channels, groups):
    assert group_count(channels) == groups


@pytest.mark.parametrize("is_trained", [True, False])
def test_batch_norm_in_evaluation_mode_keeps_its_statistics(check_step, is_trained):
    module = net_with(worn(nn.BatchNorm2d(8)))
    module[1][0].eval().requires_grad_(is_trained)
    prepared = prepare_module(module)
    names = [name for name, value in prepared.named_parameters() if value.requires_grad]
    assert ("1.0.weight" in names) == is_trained
    x = torch.randn(3, 1, 4, 4)
    torch.testing.assert_close(prepared(x), module.eval()(x))
    if is_trained:
        check_step(prepared, (3, 1, 4, 4), 3)


def test_frozen_batch_norm_folds_into_few_operators(compile_module):
    module = net_with(worn(nn.BatchNorm2d(8)))
    module[1][0].eval().requires_grad_(False)
    compiled = compile_module(prepare_module(module), (3, 1, 4, 4))
    operators = [node.op_type for node in compiled.evaluate_model.graph.node]
    assert "Sqrt" not in operators
    assert operators.count("Mul") == 1


@pytest.mark.parametrize("norm", [nn.Identity(), nn.GroupNorm(2, 8), nn.BatchNorm2d(8).eval()])
def test_a_replacement_of_nothing_is_refused(norm):
    with pytest.raises(CompileError, match="there is no BatchNorm in training mode to replace, and one in evaluation"):
        prepare_module(net_with(norm), replace_batchnorm=True)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Dropout(0.1), r"'1.0' \(Dropout\) drops values at random.*set p=0 or call .eval\(\) on it"),
        (nn.Dropout2d(0.1), r"'1.0' \(Dropout2d\) drops values"),
        (nn.AlphaDropout(0.1), r"'1.0' \(AlphaDropout\) drops values"),
        (nn.MultiheadAttention(8, 2, 0.1), r"'1.0' \(MultiheadAttention\) drops values .*set dropout=0"),
        (nn.LSTM(8, 8), r"'1.0' \(LSTM\) is recurrent"),
        (nn.GRUCell(8, 8), r"'1.0' \(GRUCell\) is recurrent"),
        (nn.LazyLinear(3), r"'1.0' \(LazyLinear\) has no parameters yet; run the module once first"),
        (nn.InstanceNorm2d(8, track_running_stats=True), r"'1.0' \(InstanceNorm2d\) keeps running statistics"),
    ],
)
def test_a_layer_that_is_random_recurrent_or_unfinished_is_refused_by_name(layer, message):
    with pytest.raises(CompileError, match=f"layer {message}"):
        prepare_module(net_with(layer))


def test_dropout_out_of_use_is_left_out(check_step):
    for dropout in (nn.Dropout(0.0), nn.Dropout(0.5).eval()):
        prepared = prepare_module(net_with(dropout))
        assert isinstance(prepared[1][0], nn.Identity)
    check_step(prepared, (3, 1, 4, 4), 3)


def test_attention_in_evaluation_mode_drops_nothing():
    module = nn.Sequential(nn.MultiheadAttention(8, 2, 0.1).eval())
    assert prepare_module(module)[0].dropout == 0
    assert module[0].dropout == 0.1


def test_a_transformer_in_evaluation_mode_is_trained_as_without_dropout(check_step):
    encoder = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.1, batch_first=True)
    module = nn.Sequential(nn.Unflatten(1, (3, 4)), encoder, nn.Flatten(), nn.Linear(12, 3)).eval()
    check_step(prepare_module(module), (3, 12), 3)


class DropPath(nn.Module):
    """Leaves an example's branch out at random, as in "Deep Networks with Stochastic Depth", arXiv:1603.09382."""

    def forward(self, x):
        if not self.training:
            return x
        return x * (torch.rand(len(x), *(1 for _ in x.shape[1:])) > 0.1) / 0.9


class Functional(nn.Module):
    def forward(self, x):
        x = nn.functional.dropout(x, 0.1, training=self.training)
        q = x.flatten(2).transpose(1, 2)
        p = 0.1 if self.training else 0.0
        return nn.functional.scaled_dot_product_attention(q, q, q, dropout_p=p).transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize("layer", [DropPath(), Functional()], ids=["path", "functional"])
def test_what_drops_in_training_alone_is_compiled_in_evaluation_mode_and_refused_in_training(check_step, layer):
    module = net_with(layer)
    with pytest.raises(CompileError, match=r"draws random numbers at test_modules\.py"):
        check_forward(prepare_module(module.train()), {"x": torch.zeros(3, 1, 4, 4)}, 3)
    check_step(prepare_module(module.eval()), (3, 1, 4, 4), 3)


def test_a_layer_used_twice_is_replaced_in_both_places():
    norm = nn.BatchNorm2d(8)
    prepared = prepare_module(nn.Sequential(norm, nn.ReLU(), norm), replace_batchnorm=True)
    assert prepared[0].weight is prepared[2].weight
    assert isinstance(prepared[2], nn.GroupNorm)


def test_the_module_itself_may_be_what_is_replaced():
    assert isinstance(prepare_module(nn.BatchNorm2d(8), replace_batchnorm=True), nn.GroupNorm)
    with pytest.raises(CompileError, match="layer 'the module'"):
        prepare_module(nn.Dropout(0.5))


def test_every_layer_keeps_its_own_mode():
    module = net_with(nn.Dropout(0.0))
    module[1].eval()
    prepared = prepare_module(module)
    assert (prepared.training, prepared[1].training, prepared[3].training) == (True, False, True)
    assert (module.training, module[1].training) == (True, False)


class NormThenReLU(nn.BatchNorm2d):
    def forward(self, x):
        return torch.relu(super().forward(x))


class Halving(nn.Dropout):
    def forward(self, x):
        return x * 0.5


def hooked(layer):
    layer.register_forward_hook(lambda _layer, _x, found: found.relu())
    return layer


def parametrized(layer):
    nn.utils.parametrize.register_parametrization(layer, "weight", nn.Softplus())
    return layer


@pytest.mark.parametrize(
    ("layer", "what"),
    [
        (NormThenReLU(8).eval(), "a forward of its own"),
        (Halving(0.5).eval(), "a forward of its own"),
        (hooked(nn.BatchNorm2d(8).eval()), "hooks"),
        (hooked(nn.Dropout(0.5).eval()), "hooks"),
        (parametrized(nn.BatchNorm2d(8).eval()), "parametrizations"),
    ],
)
def test_a_layer_that_does_more_than_torchs_own_is_not_replaced_silently(layer, what):
    with pytest.raises(CompileError, match=f"layer '1.0' .* has {what}, which replacing it would lose"):
        prepare_module(net_with(layer))


def test_a_subclass_is_not_replaced_by_group_norm():
    with pytest.raises(CompileError, match="a forward of its own"):
        prepare_module(net_with(NormThenReLU(8)), replace_batchnorm=True)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_module_that_cannot_be_copied_is_refused_with_the_cure():
    module = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 3)))
    module(torch.zeros(1, 3))
    with pytest.raises(CompileError, match=r"cannot be copied: .*parametrizations.weight_norm"):
        prepare_module(module)
