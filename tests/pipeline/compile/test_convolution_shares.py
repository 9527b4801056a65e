import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from pipeline.compile.builder import GraphBuilder
from pipeline.compile.convolution_shares import weight_shares
from pipeline.compile.window import window_of

CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def of(x, weight, *, batch=2, stride=1, padding=0, dilation=1, groups=1) -> dict:
    """A convolution of x [channels, ...] with a weight [out, in / groups, ...], the same numbers on every axis."""
    rank = len(x) - 1
    each = {"stride": stride, "padding": padding, "dilation": dilation}
    each = {name: (value,) * rank if isinstance(value, int) else value for name, value in each.items()}
    return {"x": (batch, *x), "weight": weight, "groups": groups, **each}


def shares_of(case, graph):
    """The rule's shares, from inputs dy, x and weight."""
    attributes = {
        "pads": [*case["padding"], *case["padding"]],
        "strides": case["stride"],
        "dilations": case["dilation"],
        "group": case["groups"],
    }
    weight = graph.input("weight", case["weight"])
    x = graph.input("x", case["x"])
    dy = graph.input("dy", tuple(torch_output(case, torch.zeros(case["x"]), torch.zeros(case["weight"])).shape))
    return weight_shares(graph, window_of(attributes, weight), dy, x, weight)


def torch_output(case, x, weight):
    settings = {name: case[name] for name in ("stride", "padding", "dilation", "groups")}
    return CONVOLUTIONS[weight.ndim - 2](x, weight, **settings)


def check(case) -> None:
    """Shares, squared norms and weighted sum are torch's, one example after the other."""
    graph = GraphBuilder()
    shares = shares_of(case, graph)
    assert shares.shape == case["weight"]
    factors = graph.input("factors", case["x"][:1])
    outputs = {
        "shares": shares.per_example(graph),
        "squares": shares.squared_norms(graph),
        "total": shares.weighted_sum(graph, factors),
    }
    model = graph.to_model(outputs, "test")
    rng = np.random.default_rng(0)
    feeds = {tensor.name: rng.standard_normal(tensor.shape).astype(np.float32) for tensor in graph.inputs}
    used = {value.name for value in model.graph.input}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(list(outputs), {name: value for name, value in feeds.items() if name in used})
    expected = []
    for x, dy in zip(*(torch.from_numpy(feeds[name]).double() for name in ("x", "dy")), strict=True):
        weight = torch.from_numpy(feeds["weight"]).double().requires_grad_()
        expected += torch.autograd.grad(torch_output(case, x[None], weight), weight, dy[None])
    truth = torch.stack(expected).numpy()
    scale = np.abs(truth).max() + 1
    np.testing.assert_allclose(found[0], truth, atol=1e-5 * scale)
    np.testing.assert_allclose(found[1], (truth**2).reshape(len(truth), -1).sum(1), rtol=1e-4)
    np.testing.assert_allclose(found[2], np.tensordot(feeds["factors"], truth, 1).ravel(), atol=2e-5 * scale)


@st.composite
def draw_case(draw) -> dict:
    """Any convolution of one, two or three axes."""
    rank = draw(st.sampled_from([1, 2, 2, 3]))
    groups = draw(st.integers(1, 3))
    inputs, outputs = draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    on_axes = [draw(st.tuples(*[st.integers(low, 3)] * rank)) for low in (1, 1, 1, 0)]
    kernel, stride, dilation, padding = on_axes
    size = draw(st.tuples(*[st.integers(1, 6)] * rank))
    assume(all(s + 2 * p >= d * (k - 1) + 1 for s, p, d, k in zip(size, padding, dilation, kernel, strict=True)))
    x, weight, batch = (groups * inputs, *size), (outputs, inputs, *kernel), draw(st.integers(1, 3))
    return of(x, weight, batch=batch, stride=stride, padding=padding, dilation=dilation, groups=groups)


@settings(max_examples=30)
@given(draw_case())
def test_every_convolutions_shares_are_those_of_torch(case):
    check(case)


CASES = {
    "moved both ways": of((8, 6, 5), (8, 8, 3, 3), padding=1),
    "moved both ways, without padding": of((6, 7, 6), (8, 6, 5, 5)),
    "moved both ways, dilated, grouped": of((8, 9, 8), (8, 4, 3, 3), padding=2, dilation=2, groups=2),
    "strided on the columns alone": of((8, 6, 7), (8, 8, 3, 3), padding=1, stride=(1, 2)),
    "strided": of((4, 8, 8), (6, 4, 3, 3), padding=1, stride=2),
    "few input channels": of((2, 6, 6), (8, 2, 3, 3), padding=1),
    "one input channel": of((1, 6, 6), (8, 1, 3, 3), padding=1),
    "padded beyond the kernel": of((4, 3, 3), (4, 4, 3, 3), padding=4),
    "depthwise": of((4, 6, 5), (4, 1, 3, 3), padding=1, groups=4),
    "depthwise, strided": of((4, 8, 8), (4, 1, 3, 3), padding=1, stride=2, groups=4),
    "depthwise with a multiplier": of((4, 5, 5), (8, 1, 3, 3), padding=1, groups=4),
    "depthwise, dilated": of((4, 7, 7), (4, 1, 3, 3), padding=2, dilation=2, groups=4),
    "depthwise, one weight a channel": of((4, 5, 5), (4, 1, 1, 1), groups=4),
    "pointwise": of((4, 5, 5), (6, 4, 1, 1)),
    "pointwise, few positions": of((8, 2, 2), (16, 8, 1, 1)),
    "few positions": of((16, 3, 3), (16, 16, 3, 3), padding=1, stride=2),
    "one position": of((4, 3, 3), (5, 4, 3, 3)),
    "one axis": of((4, 9), (6, 4, 3), padding=1),
    "one axis, depthwise": of((4, 9), (4, 1, 3), padding=1, groups=4),
}


@pytest.mark.parametrize("name", CASES)
def test_the_convolutions_of_phones_have_the_shares_of_torch(name):
    check(CASES[name])


@pytest.mark.parametrize(
    ("name", "slices", "products"),
    [
        ("moved both ways", 6, {"MatMul": 1, "Mul": 2}),  # three moves of x, three of dY, instead of nine of x
        ("strided", 9, {"MatMul": 1}),
        ("few input channels", 9, {"MatMul": 1}),
        ("one input channel", 9, {"MatMul": 1}),
        ("depthwise", 6, {"Mul": 11, "ReduceSum": 9}),
        ("depthwise, strided", 0, {"Conv": 1}),
        ("pointwise", 0, {"MatMul": 1}),
    ],
)
def test_the_shares_are_written_out_as_the_shapes_ask(name, slices, products):
    graph = GraphBuilder()
    shares = shares_of(CASES[name], graph)
    assert shares.form == "materialised"
    nodes = [node.op_type for node in graph.to_model({"o": shares.per_example(graph)}, "test").graph.node]
    assert nodes.count("Slice") == slices
    assert {kind: nodes.count(kind) for kind in ("MatMul", "Mul", "ReduceSum", "Conv") if kind in nodes} == products


@pytest.mark.parametrize("name", ["pointwise, few positions", "few positions"])
def test_over_few_positions_they_are_one_product(name):
    graph = GraphBuilder()
    shares = shares_of(CASES[name], graph)
    nodes = [node.op_type for node in graph.to_model({"o": shares.per_example(graph)}, "test").graph.node]
    assert (nodes.count("MatMul"), nodes.count("Mul")) == (1, 0)


def test_over_one_position_they_are_never_written_out():
    name, graph = "one position", GraphBuilder()
    shares = shares_of(CASES[name], graph)
    assert shares.form == "ghost norm"
    outputs = {
        "n": shares.squared_norms(graph),
        "s": shares.weighted_sum(graph, graph.input("f", CASES[name]["x"][:1])),
    }
    model = onnx.shape_inference.infer_shapes(graph.to_model(outputs, "test"))
    sizes = [np.prod([dim.dim_value for dim in v.type.tensor_type.shape.dim]) for v in model.graph.value_info]
    assert max(sizes) < CASES[name]["x"][0] * np.prod(CASES[name]["weight"])
