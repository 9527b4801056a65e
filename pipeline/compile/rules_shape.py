"""Lowering rules for what moves values without changing them, and for the shape arithmetic that folds away."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from onnx import numpy_helper

from pipeline.compile.builder import GraphBuilder
from pipeline.compile.lower import Node, Rule
from pipeline.compile.placement import expanded, joined, transposed
from pipeline.compile.rules_elementwise import plain, to_shape, unsummed
from pipeline.compile.values import ExampleSum, Materialised, Outer, Plain, Value, reshape


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
    first, second = (tuple(known(node, value)) for value in inputs)
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
    asked = [int(size) for size in known(node, inputs[1])]
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
    axes = tuple(known(node, inputs[1]))
    return (to_shape(graph, node, value, np.expand_dims(np.empty(value.shape), axes).shape),)


def squeeze(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Squeeze, with constant axes or every axis of size one."""
    value = _present(node, inputs[0])
    axes = tuple(known(node, inputs[1])) if len(inputs) > 1 else None
    return (to_shape(graph, node, value, np.empty(value.shape).squeeze(axes).shape),)


def transpose(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Transpose; on gradients of parameters too."""
    value = _present(node, inputs[0])
    order = node.attributes.get("perm") or list(reversed(range(len(value.shape))))
    if isinstance(value, Outer) and order == [1, 0]:
        return (Outer(value.right, value.left),)
    if isinstance(value, ExampleSum):
        shares = graph.op("Transpose", value.per_example(graph), perm=[0, *(axis + 1 for axis in order)])
        return (Materialised(shares),)
    return (transposed(graph, value, order),)


def concat(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Concat inside each example, shared values with a row for each place in the batch included; on gradients too."""
    axis = node.attributes["axis"] % len(_present(node, inputs[0]).shape)
    if all(isinstance(value, ExampleSum) for value in inputs):
        shares = [value.per_example(graph) for value in inputs if isinstance(value, ExampleSum)]
        return (Materialised(graph.op("Concat", *shares, axis=axis + 1)),)
    values = [unsummed(node, value) for value in inputs]
    return (joined(graph, node, values, axis),)


def expand(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Expand to a constant shape; on gradients of parameters too."""
    value, shape = inputs[0], known(node, inputs[1])
    if isinstance(value, ExampleSum):
        shares = value.per_example(graph)
        wide = np.broadcast_shapes(value.shape, shape)
        spread = reshape(graph, shares, (shares.shape[0], *(1,) * (len(wide) - len(value.shape)), *value.shape))
        return (Materialised(graph.op("Expand", spread, graph.constant(np.array([shares.shape[0], *wide])))),)
    return (expanded(graph, node, unsummed(node, value), shape),)


def identity(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value | None]:
    """Identity."""
    return (inputs[0],)


def _constant(graph: GraphBuilder, value: np.ndarray[Any, Any]) -> Plain:
    return Plain(graph.constant(value), is_batched=False)


def _present(node: Node, value: Value | None) -> Value:
    if value is None:
        raise node.refused("lacks an input")
    return value


def known(node: Node, value: Value | None) -> list[int]:
    """A list of numbers that is known when compiling."""
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
