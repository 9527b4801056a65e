"""Lowering rules for what moves values without changing them, and for the shape arithmetic that folds away."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from onnx import numpy_helper

from pipeline.compile.builder import GraphBuilder
from pipeline.compile.lower import Node, Rule
from pipeline.compile.rules_elementwise import apply, plain, to_shape
from pipeline.compile.values import ExampleSum, Materialised, Plain, Value


def constant(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """A Constant node."""
    return (_constant(graph, numpy_helper.to_array(node.attributes["value"])),)


def shape_of(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Shape: known, since the batch is fixed."""
    return (_constant(graph, np.array(_present(node, inputs[0]).shape, np.int64)),)


def size_of(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Size: known, since the batch is fixed."""
    return (_constant(graph, np.array(prod(_present(node, inputs[0]).shape), np.int64)),)


def broadcast_gradient_args(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value, Value]:
    """com.microsoft BroadcastGradientArgs: the axes over which each of two broadcast operands' gradient is summed."""
    first, second = (tuple(_known(node, value)) for value in inputs)
    rank = max(len(first), len(second))
    padded = [(1,) * (rank - len(shape)) + shape for shape in (first, second)]
    axes = [
        [i for i in range(rank) if own[i] == 1 and (other[i] != 1 or i < rank - len(shape))]
        for own, other, shape in ((padded[0], padded[1], first), (padded[1], padded[0], second))
    ]
    a, b = (_constant(graph, np.array(sorted(found, reverse=True), np.int64)) for found in axes)
    return a, b


def reshape_rule(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Reshape, with 0 and -1 resolved; on gradients of parameters too."""
    value = _present(node, inputs[0])
    old = value.shape
    asked = [int(size) for size in _known(node, inputs[1])]
    if not node.attributes.get("allowzero", 0):
        asked = [old[i] if size == 0 else size for i, size in enumerate(asked)]
    rest = prod(old) // max(1, prod(size for size in asked if size != -1))
    return (to_shape(graph, node, value, tuple(rest if size == -1 else size for size in asked)),)


def flatten(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Flatten to two axes."""
    value = _present(node, inputs[0])
    axis = node.attributes.get("axis", 1) % (len(value.shape) + 1)
    return (to_shape(graph, node, value, (prod(value.shape[:axis]), prod(value.shape[axis:]))),)


def unsqueeze(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Unsqueeze with constant axes."""
    value = _present(node, inputs[0])
    axes = tuple(_known(node, inputs[1]))
    return (to_shape(graph, node, value, np.expand_dims(np.empty(value.shape), axes).shape),)


def squeeze(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Squeeze, with constant axes or every axis of size one."""
    value = _present(node, inputs[0])
    axes = tuple(_known(node, inputs[1])) if len(inputs) > 1 else None
    return (to_shape(graph, node, value, np.empty(value.shape).squeeze(axes).shape),)


def transpose(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Transpose that leaves the example axis in front; on gradients of parameters too."""
    value = _present(node, inputs[0])
    order = node.attributes.get("perm") or list(reversed(range(len(value.shape))))
    if isinstance(value, ExampleSum):
        shares = graph.op("Transpose", value.per_example(graph), perm=[0, *(axis + 1 for axis in order)])
        return (Materialised(shares),)
    data = plain(node, value)
    if data.is_batched and order[0] != 0:
        raise node.coupled("moves the example axis")
    return (Plain(graph.op("Transpose", data.tensor, perm=order), data.is_batched),)


def concat(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Concat of values that all belong to the examples, or all to none."""
    values = [plain(node, value) for value in inputs]
    axis = node.attributes["axis"] % len(values[0].shape)
    kinds = {value.is_batched for value in values}
    if len(kinds) == 2 or (True in kinds and axis == 0):
        raise node.coupled("joins examples with something else along the example axis")
    return (Plain(graph.op("Concat", *(value.tensor for value in values), axis=axis), kinds == {True}),)


def expand(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Expand to a constant shape."""
    data = plain(node, inputs[0])
    target = tuple(_known(node, inputs[1]))
    if target == data.shape:
        return (data,)
    return (apply(graph, node, "Expand", data, _constant(graph, np.array(target, np.int64))),)


def identity(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value | None]:
    """Identity."""
    return (inputs[0],)


def _constant(graph: GraphBuilder, value: np.ndarray[Any, Any]) -> Plain:
    return Plain(graph.constant(value), is_batched=False)


def _present(node: Node, value: Value | None) -> Value:
    if value is None:
        raise node.refused("lacks an input")
    return value


def _known(node: Node, value: Value | None) -> list[int]:
    known = plain(node, value).tensor.constant
    if known is None:
        raise node.refused("takes a shape that is not known when compiling")
    return [int(item) for item in known.reshape(-1)]


RULES: dict[str, Rule] = {
    "Constant": constant,
    "Shape": shape_of,
    "Size": size_of,
    "BroadcastGradientArgs": broadcast_gradient_args,
    "Reshape": reshape_rule,
    "Flatten": flatten,
    "Unsqueeze": unsqueeze,
    "Squeeze": squeeze,
    "Transpose": transpose,
    "Concat": concat,
    "Expand": expand,
    "Identity": identity,
}
