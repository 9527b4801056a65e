import numpy as np
import pytest
import torch
from torch import nn

from pipeline.compile.builder import CompileError, GraphBuilder
from pipeline.compile.rules_shape import RULES
from pipeline.compile.values import CouplingError, Materialised, Outer, Plain

FIXED = torch.arange(256.0).reshape(4, 4, 4, 4)


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda x: x.reshape(x.shape[0], 2, 2, 16), id="reshape with the batch's size"),
        pytest.param(lambda x: x.reshape(-1, 8, 8), id="reshape with -1"),
        pytest.param(lambda x: x.unsqueeze(2).squeeze(2), id="unsqueeze and squeeze"),
        pytest.param(lambda x: x.permute(0, 2, 3, 1) * torch.arange(4.0), id="transpose"),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_change_of_shape_differentiates_as_in_torch(check_step, sandwich, function, batch):
    check_step(sandwich(function), (batch, 1, 4, 4), 3)


class Turned(nn.Module):
    """A parameter that changes its shape before it is used, so that its gradient's shares do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 8))

    def forward(self, x):
        return x * self.weight.t().reshape(1, 4, 4, 1).squeeze(0).unsqueeze(0)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_gradient_of_a_reshaped_parameter_takes_the_parameters_shape(check_step, sandwich, batch):
    torch.manual_seed(0)
    check_step(sandwich(Turned()), (batch, 1, 4, 4), 3)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        pytest.param(
            lambda x: x.reshape(2, 8, 4, 4).reshape(4, 4, 4, 4),
            r"Reshape. reshapes .* which cuts the example axis in pieces",
            id="reshape",
        ),
        pytest.param(lambda x: torch.cat([x, x], 0), "Concat. joins examples", id="concat"),
        pytest.param(
            lambda x: x * torch.cat([x, FIXED], 1).mean(1, keepdim=True),
            "Concat. joins examples with values",
            id="other",
        ),
    ],
)
def test_moving_the_example_axis_is_refused_by_name(compile_module, sandwich, function, message):
    with pytest.raises(CouplingError, match=f"layer 'middle' .{message}"):
        compile_module(sandwich(function), (4, 1, 4, 4))


def shared(graph: GraphBuilder, value) -> Plain:
    return Plain(graph.constant(np.array(value)), is_batched=False)


@pytest.mark.parametrize(
    ("first", "second", "axes"),
    [
        ([2, 3, 4], [2, 3, 4], ([], [])),
        ([2, 3, 4], [4], ([], [1, 0])),
        ([2, 3, 4], [3, 1], ([], [2, 0])),
        ([1, 3, 1], [2, 3, 4], ([2, 0], [])),
        ([], [2], ([0], [])),
        ([1, 4], [3, 1], ([0], [1])),
    ],
)
def test_broadcast_gradient_args_are_the_axes_that_were_broadcast(make_node, first, second, axes):
    graph = GraphBuilder()
    inputs = [shared(graph, np.array(shape, np.int64)) for shape in (first, second)]
    found = RULES["BroadcastGradientArgs"](graph, make_node("BroadcastGradientArgs"), inputs)
    assert tuple(value.tensor.constant.tolist() for value in found) == axes


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes", "expected"),
    [
        ("Shape", [np.zeros((2, 3))], {}, [2, 3]),
        ("Size", [np.zeros((2, 3))], {}, 6),
        ("Reshape", [np.arange(6), [0, -1]], {}, [[0], [1], [2], [3], [4], [5]]),
        ("Flatten", [np.arange(4).reshape(1, 2, 2)], {"axis": 2}, [[0, 1], [2, 3]]),
        ("Unsqueeze", [np.arange(2), [-1, 0]], {}, [[[0], [1]]]),
        ("Squeeze", [np.zeros((1, 2, 1))], {}, [0, 0]),
        ("Squeeze", [np.zeros((1, 2, 1)), [-1]], {}, [[0, 0]]),
        ("Transpose", [np.arange(6).reshape(2, 3)], {}, [[0, 3], [1, 4], [2, 5]]),
        ("Concat", [np.array([1]), np.array([2])], {"axis": 0}, [1, 2]),
        ("Expand", [np.array([1, 2]), [2, 2]], {}, [[1, 2], [1, 2]]),
        ("Identity", [np.array([5])], {}, [5]),
    ],
)
def test_shape_arithmetic_on_constants_folds_away(make_node, op_type, inputs, attributes, expected):
    graph = GraphBuilder()
    (found,) = RULES[op_type](graph, make_node(op_type, **attributes), [shared(graph, value) for value in inputs])
    assert found.tensor.constant.tolist() == expected
    assert not found.is_batched


def test_shares_of_a_gradient_are_reshaped_and_transposed_behind_the_example_axis(make_node):
    graph = GraphBuilder()
    left, right = (graph.input(name, shape) for name, shape in (("a", (5, 4, 2)), ("b", (5, 4, 3))))
    flat, *_ = RULES["Reshape"](graph, make_node("Reshape"), [Outer(left, right), shared(graph, [6])])
    assert flat.tensor.shape == (5, 6)
    shares = Materialised(graph.input("shares", (5, 4, 3, 2)))
    turned, *_ = RULES["Transpose"](graph, make_node("Transpose", perm=[1, 0, 2]), [shares])
    assert turned.tensor.shape == (5, 3, 4, 2)


def test_transposing_a_product_of_each_example_swaps_its_sides(make_node):
    graph = GraphBuilder()
    product = Outer(graph.input("a", (5, 4, 2)), graph.input("b", (5, 4, 3)))
    turned, *_ = RULES["Transpose"](graph, make_node("Transpose", perm=[1, 0]), [product])
    assert turned == Outer(product.right, product.left)


def test_a_shape_that_depends_on_the_examples_is_refused(make_node):
    graph = GraphBuilder()
    asked = Plain(graph.input("s", (2,), np.int64), is_batched=False)
    with pytest.raises(CompileError, match=r"layer 'layer' .Reshape. takes a shape that is not known"):
        RULES["Reshape"](graph, make_node("Reshape"), [shared(graph, np.zeros((2, 3))), asked])
