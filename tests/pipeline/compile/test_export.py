import pytest
import torch
from torch import nn

from pipeline.compile.builder import CompileError
from pipeline.compile.export import export_forward, gradient_graph
from pipeline.network import build_module
from search.architecture import Architecture, Stage, Stem
from search.layers import layers_of

SMALL = Architecture((1, 6, 6), 3, Stem(2), (Stage("inverted", 2),), normalization="group")


def test_the_forward_graph_keeps_the_modules_parameter_names_and_order():
    module = build_module(layers_of(SMALL))
    forward = export_forward(module, {"x": torch.zeros(2, 1, 6, 6)})
    assert list(forward.parameters) == [name for name, _ in module.named_parameters()]
    assert set(forward.parameters) <= {initializer.name for initializer in forward.model.graph.initializer}


def test_the_batch_is_fixed():
    forward = export_forward(build_module(layers_of(SMALL)), {"x": torch.zeros(5, 1, 6, 6)})
    (x,) = forward.model.graph.input
    assert [dim.dim_value for dim in x.type.tensor_type.shape.dim] == [5, 1, 6, 6]


def test_the_gradient_graph_computes_a_gradient_for_each_parameter(capfd):
    forward = export_forward(build_module(layers_of(SMALL)), {"x": torch.zeros(2, 1, 6, 6)})
    computed = {name for node in gradient_graph(forward).graph.node for name in node.output}
    assert {f"{name}_grad" for name in forward.parameters} <= computed
    assert capfd.readouterr() == ("", "")  # the builder logs a page


def test_differentiating_leaves_the_forward_graph_as_it_was():
    forward = export_forward(build_module(layers_of(SMALL)), {"x": torch.zeros(2, 1, 6, 6)})
    before = forward.model.SerializeToString(deterministic=True)
    gradient_graph(forward)
    assert forward.model.SerializeToString(deterministic=True) == before


class WithSpare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        return self.used(x.flatten(1))


def test_parameters_that_forward_does_not_use_have_no_gradient_in_the_graph():
    forward = export_forward(WithSpare(), {"x": torch.zeros(2, 1, 2, 2)})
    assert list(forward.parameters) == ["used.weight", "used.bias", "spare.weight", "spare.bias"]
    computed = {name for node in gradient_graph(forward).graph.node for name in node.output}
    assert "used.weight_grad" in computed
    assert "spare.weight_grad" not in computed


def test_an_operator_without_a_gradient_is_refused_by_name():
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.LPPool2d(2, 1), nn.Flatten(), nn.Linear(8, 2))
    forward = export_forward(module, {"x": torch.zeros(2, 1, 2, 2)})
    with pytest.raises(CompileError, match=r"layer '1': ORT Training cannot differentiate it: .* Sign; replace"):
        gradient_graph(forward)


def test_parameters_of_equal_values_stay_apart_in_evaluation_mode():
    module = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.LayerNorm(4)).eval()
    model = export_forward(module, {"x": torch.zeros(2, 4)}).model
    held = [initializer.name for initializer in model.graph.initializer]
    assert set(held) == {name for name, _ in module.named_parameters()}
    assert [value.name for value in model.graph.input] == ["x"]


class WithDefaults(nn.Module):
    def __init__(self, **names) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        for name, value in names.items():
            self.register_parameter(name, value)

    def forward(self, first, second=None, scale=2.0, *, is_negated=False):
        y = scale * self.linear(first if second is None else second)
        return -y if is_negated else y


def test_arguments_with_defaults_keep_them():
    module = WithDefaults()
    module.forward = module.forward  # as somebody who replaced it
    own = vars(module)["forward"]
    assert [value.name for value in export_forward(module, {"x": torch.zeros(2, 4)}).model.graph.input] == ["x"]
    assert vars(module)["forward"] is own
    del module.forward
    export_forward(module, {"x": torch.zeros(2, 4)})
    assert "forward" not in vars(module)


def test_an_input_that_forward_does_not_use_is_told():
    inputs = {"x.first": torch.zeros(2, 4), "x.second": torch.zeros(2, 4)}
    with pytest.raises(CompileError, match="forward does not use its input 'first'; leave it out"):
        export_forward(WithDefaults(), inputs)


@pytest.mark.parametrize(
    "names",
    [("x",), ("logits",), ("logits_grad",), ("scale", "scale_grad")],
    ids=lambda names: names[-1],
)
def test_a_parameter_with_the_name_of_another_value_is_refused(names):
    module = WithDefaults(**{name: nn.Parameter(torch.ones(2)) for name in names})
    with pytest.raises(CompileError, match=f"'{names[-1]}' is the name of another value of the graphs; name that"):
        export_forward(module, {"x": torch.zeros(2, 4)})


def test_frozen_values_are_read_once_and_only_what_is_large_and_finite():
    module = nn.Sequential(nn.Linear(64, 70), nn.Linear(70, 2))
    module[0].requires_grad_(False)
    forward = export_forward(module, {"x": torch.zeros(2, 64)})
    assert list(forward.frozen_inputs) == ["0.weight"]
    assert torch.equal(torch.tensor(forward.frozen_inputs["0.weight"]), module[0].weight)
    assert forward.frozen_inputs is forward.frozen_inputs


class Inner(nn.Module):
    def forward(self, x):
        return torch.expm1(x)


def test_an_operator_that_the_exporter_does_not_know_is_refused_by_name(capfd):
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(nn.ReLU(), Inner()))
    with pytest.raises(CompileError, match=r"layer '1.1' \(expm1\) cannot be written as ONNX"):
        export_forward(module, {"x": torch.zeros(2, 1, 2, 2)})
