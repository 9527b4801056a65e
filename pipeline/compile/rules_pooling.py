"""Lowering rules for pooling layers, and for whatever maps each spatial axis linearly."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from onnx import TensorProto

from pipeline.compile.builder import GraphBuilder, Tensor
from pipeline.compile.lower import Node, Rule
from pipeline.compile.rules_elementwise import plain
from pipeline.compile.values import Plain, Value, reshape

_WINDOW = ("kernel_shape", "strides", "pads", "dilations", "ceil_mode")


def max_pool(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
    """MaxPool with the position of each maximum, the first of equal ones, where somebody asks for it."""
    x = plain(node, inputs[0])
    attributes = {name: node.attributes[name] for name in _WINDOW if name in node.attributes}
    outputs = graph.ops("MaxPool", x.tensor, num_outputs=len(node.outputs), **attributes)
    return tuple(Plain(output, x.is_batched) for output in outputs)


def max_pool_grad(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Gradient dx of MaxPool: each dy to the position of its maximum, added where windows overlap."""
    dy, positions, x = (plain(node, value) for value in inputs)
    places = _inside_examples(graph, node, positions.tensor, x.shape)
    if not _overlaps(node) and _tiles(node, dy.shape, x.shape):
        kernel = node.attributes["kernel_shape"]
        spread = graph.op("MaxUnpool", dy.tensor, places, kernel_shape=kernel, strides=kernel)
        return (Plain(spread, dy.is_batched),)
    flat = graph.constant(np.array([-1], np.int64))
    nothing = graph.op("ConstantOfShape", graph.constant(np.array([prod(x.shape)], np.int64)))
    index, values = (graph.op("Reshape", value, flat) for value in (places, dy.tensor))
    spread = graph.op("ScatterElements", nothing, index, values, axis=0, reduction="add")
    return (Plain(reshape(graph, spread, x.shape), dy.is_batched),)


def global_average_pool(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """GlobalAveragePool."""
    x = plain(node, inputs[0])
    mean = graph.op("ReduceMean", x.tensor, axes=list(range(2, len(x.shape))), keepdims=1)
    return (Plain(mean, x.is_batched),)


def axis_maps(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """The last axes of x, each times its own constant matrix [in, out]: average pooling of every kind."""
    x, *matrices = (plain(node, value) for value in inputs)
    known = [matrix.tensor.constant for matrix in matrices]
    ratios = [_mean_of_neighbours(matrix) for matrix in known]
    if all(ratios):
        return (Plain(graph.op("AveragePool", x.tensor, kernel_shape=ratios, strides=ratios), x.is_batched),)
    return (Plain(_map_axes(graph, x.tensor, known), x.is_batched),)


def axis_maps_grad(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value | None, ...]:
    """Gradient dx of AxisMaps: dy times each matrix transposed."""
    dy, _, *matrices = (plain(node, value) for value in inputs)
    transposed = [np.asarray(matrix.tensor.constant).T for matrix in matrices]
    return (Plain(_map_axes(graph, dy.tensor, transposed), dy.is_batched),)


def extreme(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """ReduceMax and ReduceMin within each example."""
    x = plain(node, inputs[0])
    axes = node.attributes["axes"]
    if x.is_batched and 0 in axes:
        raise node.coupled("takes an extreme over the batch")
    found = graph.op(node.op_type, x.tensor, axes=axes, keepdims=node.attributes.get("keepdims", 1))
    return (Plain(found, x.is_batched),)


def extreme_grad(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Gradient dx of amax and amin: dy in equal parts to all positions that hold the extreme, as in torch."""
    dy, x = (plain(node, value) for value in inputs)
    axes = node.attributes["axes"]
    found = graph.op(node.op_type.removesuffix("Grad"), x.tensor, axes=axes, keepdims=1)
    is_extreme = graph.op("Cast", graph.op("Equal", x.tensor, found), to=TensorProto.FLOAT)
    count = graph.op("ReduceSum", is_extreme, graph.constant(np.array(axes, np.int64)), keepdims=1)
    part = graph.op("Div", reshape(graph, dy.tensor, count.shape), count)
    return (Plain(graph.op("Mul", is_extreme, part), x.is_batched),)


def first_extreme(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """The maximum or minimum along one axis."""
    kind = "ReduceMax" if node.op_type.startswith("FirstMax") else "ReduceMin"
    return extreme(graph, replace(node, op_type=kind), inputs)


def first_extreme_grad(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Gradient dx of max and min along one axis: dy to the first position that holds the extreme, as in torch."""
    dy, x = (plain(node, value) for value in inputs)
    (axis,) = node.attributes["axes"]
    kind = "ArgMax" if node.op_type.startswith("FirstMax") else "ArgMin"
    position = graph.op(kind, x.tensor, axis=axis, keepdims=1)
    places = np.arange(x.shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(x.shape))])
    is_first = graph.op("Cast", graph.op("Equal", position, graph.constant(places)), to=TensorProto.FLOAT)
    return (Plain(graph.op("Mul", is_first, reshape(graph, dy.tensor, position.shape)), x.is_batched),)


def _map_axes(graph: GraphBuilder, x: Tensor, matrices: Sequence[Any]) -> Tensor:
    """x [..., in_1, in_2] to [..., out_1, out_2]; the last axis is the right factor, the one before it the left."""
    if len(matrices) > 1:
        x = graph.op("MatMul", graph.constant(np.transpose(matrices[-2]), np.float32), x)
    return graph.op("MatMul", x, graph.constant(matrices[-1], np.float32))


def _inside_examples(graph: GraphBuilder, node: Node, positions: Tensor, x: tuple[int, ...]) -> Tensor:
    """The positions, with the first of its window, as in torch, where a window holds nothing but NaN or -inf.

    ONNX Runtime's kernel finds no maximum there, and tells a position before the channel: that of another example.
    """
    num_axes, out = len(x) - 2, positions.shape[2:]
    one = [1] * num_axes
    strides, dilations = (node.attributes.get(name, one) for name in ("strides", "dilations"))
    begin = node.attributes.get("pads", [0] * num_axes)[:num_axes]
    firsts = np.zeros([1] * num_axes, np.int64)
    for axis, size in enumerate(x[2:]):
        starts = np.arange(out[axis]) * strides[axis] - begin[axis]
        starts = np.where(starts < 0, starts % dilations[axis], starts)
        firsts = firsts * size + starts.reshape([-1 if i == axis else 1 for i in range(num_axes)])
    channels = np.arange(prod(x[:2]), dtype=np.int64).reshape(*x[:2], *one) * prod(x[2:])
    first_of_channel = graph.constant(channels)
    # ONNX Runtime 1.19 dies when it opens a graph in which MaxUnpool's positions come from GreaterOrEqual.
    is_found = graph.op("Greater", positions, graph.constant(channels - 1))
    return graph.op("Where", is_found, positions, graph.op("Add", first_of_channel, graph.constant(firsts)))


def _mean_of_neighbours(matrix: Any) -> int:
    """k where the matrix averages each k values in turn, else 0."""
    size, out = matrix.shape
    ratio = int(size // out)
    blocks = np.kron(np.eye(out), np.full((ratio, 1), 1 / ratio)) if ratio else None
    return ratio if blocks is not None and blocks.shape == matrix.shape and np.allclose(matrix, blocks) else 0


def _overlaps(node: Node) -> bool:
    attributes = node.attributes
    kernel = attributes["kernel_shape"]
    dilations = attributes.get("dilations", [1] * len(kernel))
    strides = attributes.get("strides", [1] * len(kernel))
    return any(d > 1 or s < k for k, s, d in zip(kernel, strides, dilations, strict=True))


def _tiles(node: Node, out: tuple[int, ...], x: tuple[int, ...]) -> bool:
    """Whether the windows lie side by side and cover x exactly."""
    kernel = node.attributes["kernel_shape"]
    sizes = tuple(size * k for size, k in zip(out[2:], kernel, strict=True))
    return node.attributes.get("strides") == kernel and sizes == x[2:] and not any(node.attributes.get("pads", []))


RULES: dict[str, Rule] = {
    "MaxPool": max_pool,
    "MaxPoolGrad": max_pool_grad,
    "GlobalAveragePool": global_average_pool,
    "AxisMaps": axis_maps,
    "AxisMapsGrad": axis_maps_grad,
    "ReduceMax": extreme,
    "ReduceMin": extreme,
    "ReduceMaxGrad": extreme_grad,
    "ReduceMinGrad": extreme_grad,
    **dict.fromkeys(("FirstMax", "FirstMin"), first_extreme),
    **dict.fromkeys(("FirstMaxGrad", "FirstMinGrad"), first_extreme_grad),
}
