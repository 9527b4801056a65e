import onnx
import pytest
import torch
from torch import nn

from pipeline.compile.export import export_forward, gradient_graph
from pipeline.compile.rewrite import carry, write_pads


def forward_of(*layers: nn.Module) -> onnx.ModelProto:
    return export_forward(nn.Sequential(*layers), {"x": torch.zeros(2, 4, 6, 6)})


def test_carried_operators_are_read_back_with_their_attributes():
    forward = forward_of(nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4, 0.25), nn.Hardswish())
    assert {node.domain for node in carry(forward.model).graph.node} == {"", "org.pytorch.aten"}
    gradient = gradient_graph(forward)
    found = {node.op_type: node for node in gradient.graph.node if node.domain == "handheld"}
    assert set(found) == {"GroupNorm", "GroupNormGrad", "HardSwish", "HardSwishGrad"}
    for name in ("GroupNorm", "GroupNormGrad"):
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in found[name].attribute}
        assert attributes == {"num_groups": 2, "epsilon": 0.25}
    assert list(found["GroupNormGrad"].input[1:]) == list(found["GroupNorm"].input)
    assert list(found["GroupNormGrad"].output[1:]) == ["1.weight_grad", "1.bias_grad"]


def test_only_gradients_that_somebody_needs_are_asked_for():
    norm = nn.GroupNorm(2, 4).requires_grad_(False)
    gradient = gradient_graph(forward_of(nn.Conv2d(4, 4, 1), norm))
    (node,) = (node for node in gradient.graph.node if node.op_type == "GroupNormGrad")
    assert not any(node.output[1:])


def test_the_gradient_of_a_pool_gets_the_pools_input():
    forward = forward_of(nn.Conv2d(4, 4, 1), nn.MaxPool2d(2))
    (pool,) = (node for node in forward.model.graph.node if node.op_type == "MaxPool")
    (node,) = (node for node in gradient_graph(forward).graph.node if node.op_type == "MaxPoolGrad")
    assert node.input[2] == pool.input[0]


@pytest.mark.parametrize(("padding", "pads"), [("same", [0, 2, 1, 2]), ("valid", [0, 0, 0, 0]), ((1, 2), [1, 2, 1, 2])])
def test_a_convolutions_padding_is_written_in_numbers(padding, pads):
    model = forward_of(nn.Conv2d(4, 4, (2, 3), dilation=(1, 2), padding=padding)).model
    assert write_pads(model) is model
    (conv,) = (node for node in model.graph.node if node.op_type == "Conv")
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in conv.attribute}
    assert attributes["pads"] == pads
    assert "auto_pad" not in attributes
