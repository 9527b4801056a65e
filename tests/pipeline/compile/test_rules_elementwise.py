import pytest
import torch
from torch import nn

from pipeline.compile.builder import CompileError
from pipeline.compile.values import CouplingError
from tests.pipeline.compile.nets import Net


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(torch.relu, id="relu"),
        pytest.param(torch.abs, id="abs"),
        pytest.param(torch.exp, id="exp"),
        pytest.param(torch.erf, id="erf"),
        pytest.param(lambda x: torch.log(x * x + 1), id="log"),
        pytest.param(lambda x: torch.sqrt(x * x + 1), id="sqrt"),
        pytest.param(lambda x: torch.reciprocal(x * x + 1), id="reciprocal"),
        pytest.param(lambda x: -x, id="neg"),
        pytest.param(lambda x: x**3, id="pow"),
        pytest.param(lambda x: 2 - x, id="sub"),
        pytest.param(lambda x: x / 3 + x, id="div by constant"),
        pytest.param(lambda x: 1 / (2 + x * x), id="div of constant"),
        pytest.param(lambda x: x / (1 + x.abs().mean((2, 3), keepdim=True)), id="div by a value of each example"),
        pytest.param(lambda x: torch.clamp(x, -0.3, 0.2), id="clip"),
        pytest.param(lambda x: torch.minimum(x, 0.5 * x * x), id="min"),
        pytest.param(lambda x: torch.maximum(x, 0.5 * x * x), id="max"),
        pytest.param(lambda x: torch.where(x > 0.1, x, 0.3 * x), id="where"),
        pytest.param(lambda x: x * x.mean(1, keepdim=True), id="mul broadcast within examples"),
        pytest.param(lambda x: x + x.sum((2, 3), keepdim=True), id="add broadcast within examples"),
        pytest.param(lambda x: x - x.mean((1, 2, 3), keepdim=True), id="mean of each example"),
        pytest.param(lambda x: x * x.sum(-1, keepdim=True).sum(-2, keepdim=True), id="sum"),
        pytest.param(lambda x: torch.softmax(x, 1), id="softmax over channels"),
        pytest.param(lambda x: torch.softmax(x, -1), id="softmax over a row"),
        pytest.param(lambda x: x * x.logsumexp(1)[:, None], id="logsumexp"),
        pytest.param(lambda x: x * x.logsumexp((1, -1), keepdim=True), id="logsumexp of axes that stay"),
        pytest.param(lambda x: x * x.norm(dim=1)[:, None], id="norm"),
        pytest.param(lambda x: x * x.norm(p=1, dim=(1, -1))[:, None, :, None], id="norm of order 1"),
        pytest.param(
            lambda x: x * torch.linalg.vector_norm(x, dim=2, keepdim=True), id="norm along an axis that stays"
        ),
    ],
)
@pytest.mark.parametrize("batch", [1, 4])
def test_an_elementwise_operator_differentiates_as_in_torch(check_step, sandwich, function, batch):
    check_step(sandwich(function), (batch, 1, 4, 4), 3)


class Affine(nn.Module):
    """Parameters that broadcast over the examples in each way that broadcasting knows."""

    def __init__(self) -> None:
        super().__init__()
        self.scalar = nn.Parameter(torch.tensor(1.5))
        self.row = nn.Parameter(torch.randn(4))
        self.channel = nn.Parameter(torch.randn(4, 1, 1))
        self.all = nn.Parameter(torch.randn(1, 4, 4, 4))
        self.divisor = nn.Parameter(2 + torch.rand(1, 4, 1, 1))

    def forward(self, x):
        return self.scalar * (x * self.row + self.channel) / self.divisor - self.all


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_parameters_may_broadcast_over_examples_in_any_way(check_step, sandwich, batch):
    torch.manual_seed(0)
    check_step(sandwich(Affine()), (batch, 1, 4, 4), 3)


def test_a_shared_factor_scales_the_gradient_of_a_parameter_example_by_example(check_step, sandwich):
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 1, 1))

        def forward(self, x):
            return x * (-(self.weight * 3) / 2)

    torch.manual_seed(0)
    check_step(sandwich(Scaled()), (3, 1, 4, 4), 3)


@pytest.mark.parametrize(
    ("middle", "message"),
    [
        pytest.param(lambda x: x - x.mean(0), "'middle' .ReduceMean. averages over the batch", id="mean"),
        pytest.param(lambda x: x - x.mean(), "'middle' .ReduceMean. averages over the batch", id="mean of all"),
        pytest.param(lambda x: x / x.sum(0), "'middle' .Div. uses a sum over the examples", id="sum"),
        pytest.param(lambda x: x + x.sum(0), "'middle' .Add. adds a sum over examples", id="added sum"),
        pytest.param(lambda x: x * x.sum(0), "'middle' .Mul. multiplies a sum over examples", id="scaled sum"),
        pytest.param(nn.Softmax(0), "'middle' .Softmax. normalises over the batch", id="softmax"),
        pytest.param(
            lambda x: x + x.mean((1, 2)), "'middle' .Add. broadcasts examples against each other", id="broadcast"
        ),
    ],
)
def test_a_layer_that_mixes_examples_is_refused_by_name(compile_module, sandwich, middle, message):
    with pytest.raises(CouplingError, match=f"layer {message}.*GroupNorm for BatchNorm"):
        compile_module(sandwich(middle), (4, 1, 4, 4))


def test_a_layer_whose_operator_has_no_rule_is_refused_by_name(compile_module, sandwich):
    with pytest.raises(CompileError, match="layer 'middle' needs operator Atan, which has no rule; replace"):
        compile_module(sandwich(torch.atan), (4, 1, 4, 4))


def test_whole_numbers_and_truth_values_compare_and_are_chosen_as_in_torch(check_step):
    def weights(x):
        low, high = x >= 2, x <= 5
        chosen = torch.where(low, (x == 3) != high, low ^ (x.int() < 7))
        return torch.where(chosen & ~(x != 4) | (x > 6), x - 9, x.flip(1)).float()

    net = Net(lambda self, x: self.out((self.table(x) * weights(x)[..., None]).mean(1)), table=nn.Embedding(9, 4))
    net.out = nn.Linear(4, 3)
    check_step(net, (5, 4), 3, num_ids=9)


@pytest.mark.parametrize("divided", [lambda x: 20 // (x + 5), lambda x: 20 % (x + 5), lambda x: x // -1])
def test_whole_numbers_are_divided_by_safe_constants_alone(compile_module, divided):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(20, 3)

        def forward(self, x):
            return self.table(divided(x)).mean(1)

    with pytest.raises(CompileError, match=r"divides whole numbers by one that may be 0 or -1; divide by a constant"):
        compile_module(Net(), (2, 4), dtype=torch.int64)
