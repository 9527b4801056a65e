import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.compile.builder import GraphBuilder
from pipeline.compile.convolution_gradient import input_gradient
from pipeline.compile.window import window_of


@st.composite
def draw_convolution(draw) -> tuple[nn.Conv2d, tuple[int, int, int]]:
    """A convolution with its own kernel, stride, padding and dilation on each axis, and the input it takes."""
    groups = draw(st.integers(1, 3))
    inputs, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    kernel, stride, dilation = (draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) for _ in range(3))
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    assume(all(s + 2 * p >= d * (k - 1) + 1 for s, p, d, k in zip(size, padding, dilation, kernel, strict=True)))
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=draw(st.booleans()))
    return conv, (inputs, *size)


class Before(nn.Module):
    """A layer behind a pointwise one (which needs the layer's dX) and before a linear one."""

    def __init__(self, layer: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.first = nn.Conv2d(shape[0], shape[0], 1)
        self.layer = layer
        features = layer(torch.zeros(1, *shape)).numel()
        self.classifier = nn.Linear(features, 3)

    def forward(self, x):
        return self.classifier(self.layer(torch.relu(self.first(x))).flatten(1))


@settings(max_examples=40)
@given(st.data())
def test_every_convolution_differentiates_as_in_torch(check_step, data):
    torch.manual_seed(0)
    conv, shape = data.draw(draw_convolution())
    check_step(Before(conv, shape), (data.draw(st.integers(1, 4)), *shape), 3)


@pytest.mark.parametrize(
    ("conv", "size"),
    [
        pytest.param(nn.Conv2d(4, 4, 3, 2, 1, groups=4), 8, id="depthwise, stride that does not divide"),
        pytest.param(nn.Conv2d(4, 4, 5, 3, 2, groups=4), 7, id="depthwise, stride 3"),
        pytest.param(nn.Conv2d(4, 4, 3, 1, 1, groups=4), 5, id="depthwise, odd"),
        pytest.param(nn.Conv2d(4, 4, 3, 1, 1, groups=4, bias=False), 4, id="depthwise without bias"),
        pytest.param(nn.Conv2d(4, 4, 3, 2, 1, groups=4, bias=False), 7, id="depthwise without bias, strided"),
        pytest.param(nn.Conv2d(4, 4, 3, 1, 2, 2, groups=4, bias=False), 6, id="depthwise without bias, dilated"),
        pytest.param(nn.Conv2d(4, 4, 3, 1, 1, groups=4, bias=False), 9, id="depthwise without bias, more positions"),
        pytest.param(nn.Conv2d(4, 8, 3, 1, 1, groups=4), 5, id="depthwise with a multiplier"),
        pytest.param(nn.Conv2d(4, 6, 1), 5, id="pointwise"),
        pytest.param(nn.Conv2d(4, 6, 1, 2), 5, id="pointwise, strided"),
        pytest.param(nn.Conv2d(4, 6, 1, 1, 1), 5, id="pointwise, padded"),
        pytest.param(nn.Conv2d(4, 1, 3, 1, 1), 4, id="one output channel"),
        pytest.param(nn.Conv2d(4, 6, 5), 5, id="one output position"),
    ],
)
@pytest.mark.parametrize("batch", [1, 5])
def test_the_convolutions_of_phones_differentiate_as_in_torch(check_step, conv, size, batch):
    check_step(Before(conv, (4, size, size)), (batch, 4, size, size), 3)


@pytest.mark.parametrize(
    "conv",
    [
        pytest.param(nn.Conv2d(4, 4, (3, 2), 1, (2, 1), groups=4), id="a kernel of its own on each axis"),
        pytest.param(nn.Conv2d(4, 8, 3, (2, 1), 1, groups=4), id="strided on the rows, two outputs a channel"),
        pytest.param(nn.Conv2d(4, 4, 3, 1, (2, 1), (2, 1), groups=4, bias=False), id="dilated on the rows"),
    ],
)
def test_depthwise_convolutions_over_narrow_rows_differentiate_as_in_torch(check_step, compile_module, conv):
    module = Before(conv, (4, 12, 3))
    check_step(module, (2, 4, 12, 3), 3)
    turned = [n for n in compile_module(module, (2, 4, 12, 3)).evaluate_model.graph.node if n.op_type == "Transpose"]
    assert [list(node.attribute[0].ints) for node in turned] == [[0, 1, 3, 2]] * 3  # x, weight and result


def test_a_one_dimensional_convolution_differentiates_as_in_torch(check_step):
    module = nn.Sequential(nn.Conv1d(2, 4, 3, 2, 1), nn.ReLU(), nn.Conv1d(4, 4, 3, groups=4), nn.Flatten())
    check_step(nn.Sequential(*module, nn.Linear(12, 3)), (4, 2, 9), 3)


def operators_of(weight_shape, x_shape, out, *, stride=1, padding=0, groups=1) -> set[str]:
    """Operators that compute dX of a square convolution."""
    attributes = {"pads": [padding] * 4, "strides": [stride] * 2, "dilations": [1, 1], "group": groups}
    graph = GraphBuilder()
    weight = graph.input("w", weight_shape)
    dy = graph.input("dy", (x_shape[0], weight_shape[0], out, out))
    tensor = input_gradient(graph, window_of(attributes, weight), dy, weight, x_shape)
    assert tensor.shape == x_shape
    return {node.op_type for node in graph.to_model({"o": tensor}, "test").graph.node}


def test_a_pointwise_convolutions_gradient_is_a_matrix_product():
    assert operators_of((6, 4, 1, 1), (2, 4, 5, 5), 5) == {"MatMul", "Transpose", "Reshape", "Identity"}


def test_without_a_stride_the_input_gradient_is_a_convolution_with_the_mirrored_kernel():
    dense = operators_of((4, 4, 3, 3), (2, 4, 17, 17), 17, padding=1)
    assert dense == {"Reshape", "Transpose", "Slice", "Conv", "Identity"}
    depthwise = operators_of((4, 1, 3, 3), (2, 4, 6, 6), 6, padding=1, groups=4)
    assert depthwise == {"Reshape", "Slice", "Conv", "Identity"}


def test_a_depthwise_layer_over_few_positions_is_a_product_with_a_matrix_for_each_channel():
    depthwise = operators_of((4, 1, 3, 3), (2, 4, 5, 5), 5, padding=1, groups=4)
    assert depthwise == {"Reshape", "Transpose", "MatMul", "Cast", "Identity"}


@pytest.mark.parametrize(
    ("size", "changes"),
    [
        pytest.param(17, {"stride": 2, "padding": 1, "out": 9}, id="stride"),
        pytest.param(17, {"padding": 3, "out": 21}, id="padding wider than the kernel"),
        pytest.param(5, {"padding": 1, "out": 5}, id="few positions"),
    ],
)
def test_otherwise_it_is_a_transposed_convolution(size, changes):
    assert operators_of((4, 4, 3, 3), (2, 4, size, size), **changes) == {"ConvTranspose", "Identity"}


def test_the_reach_is_what_the_outputs_read_of_the_padded_input():
    graph = GraphBuilder()
    attributes = {"pads": [1, 0, 2, 0], "strides": [2, 1], "dilations": [3, 1], "group": 1}
    window = window_of(attributes, graph.input("w", (1, 1, 3, 2)))
    assert window.span.tolist() == [6, 1]
    assert window.reach(np.array([4, 5])).tolist() == [13, 6]
    assert (window.begin.tolist(), window.end.tolist()) == ([1, 0], [2, 0])
