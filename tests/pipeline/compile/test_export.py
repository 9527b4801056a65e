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


class Inner(nn.Module):
    def forward(self, x):
        return torch.expm1(x)


def test_an_operator_that_the_exporter_does_not_know_is_refused_by_name(capfd):
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(nn.ReLU(), Inner()))
    with pytest.raises(CompileError, match=r"layer '1.1' \(expm1\) cannot be written as ONNX"):
        export_forward(module, {"x": torch.zeros(2, 1, 2, 2)})
