"""Lowering rules for elementwise arithmetic, comparisons and reductions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from pipeline.compile.builder import GraphBuilder, Tensor
from pipeline.compile.lower import Node, Rule
from pipeline.compile.values import ExampleSum, Materialised, Plain, Value, reshape


def elementwise(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Any operator that acts position by position, with broadcasting."""
    return (apply(graph, node, node.op_type, *(plain(node, value) for value in inputs), **node.attributes),)


def scale(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Mul, Div and Neg: on gradients of parameters too, whose shares scale one by one."""
    first = inputs[0]
    if isinstance(first, ExampleSum):
        return (_on_shares(graph, node, first, inputs[1:]),)
    if node.op_type == "Mul" and isinstance(inputs[1], ExampleSum):
        return (_on_shares(graph, node, inputs[1], inputs[:1]),)
    return elementwise(graph, node, inputs)


def add(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Add and Sum: of plain values, or of several gradients of one parameter."""
    sums = [value for value in inputs if isinstance(value, ExampleSum)]
    if not sums:
        return elementwise(graph, node, inputs)
    if len(sums) != len(inputs) or len({value.shape for value in sums}) > 1:
        raise node.coupled("adds a sum over examples to something else")
    return (Materialised(graph.op("Sum", *(value.per_example(graph) for value in sums))),)


def relu_grad(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Gradient dX of Relu: dY where Y > 0."""
    dy, y = (plain(node, value) for value in inputs)
    zero = Plain(graph.constant(0.0, np.float32), is_batched=False)
    is_positive = apply(graph, node, "Cast", apply(graph, node, "Greater", y, zero), to=TensorProto.FLOAT)
    return (apply(graph, node, "Mul", dy, is_positive),)  # ONNX Runtime's Where takes seven times as long on a CPU


def div_grad(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value | None, ...]:
    """Gradients of C = A / B: dC / B, and -dC A / B^2; each summed to its operand's shape."""
    dc, a, b = (plain(node, value) for value in inputs)
    quotient = apply(graph, node, "Div", dc, b)
    da = sum_to(graph, node, quotient, a.shape) if node.outputs[0] else None
    if len(node.outputs) == 1 or not node.outputs[1]:
        return (da,)
    product = apply(graph, node, "Mul", quotient, apply(graph, node, "Div", a, b))
    return da, sum_to(graph, node, apply(graph, node, "Neg", product), b.shape)


def scale_by_tensor(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """com.microsoft Scale: multiply or divide by a scalar of any type."""
    data, factor = (plain(node, value) for value in inputs)
    operator = "Div" if node.attributes.get("scale_down", 0) else "Mul"
    return (apply(graph, node, operator, data, apply(graph, node, "Cast", factor, to=TensorProto.FLOAT)),)


def reduce_sum(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """ReduceSum; over the examples it leaves each one's share."""
    data = plain(node, inputs[0])
    axes = _axes(node, inputs, data.tensor)
    return (_sum(graph, data, axes, keepdims=bool(node.attributes.get("keepdims", 1))) if axes else data,)


def reduce_mean(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """ReduceMean within each example."""
    data = plain(node, inputs[0])
    axes = _axes(node, inputs, data.tensor) or tuple(range(len(data.shape)))
    if data.is_batched and 0 in axes:
        raise node.coupled("averages over the batch")
    keepdims = node.attributes.get("keepdims", 1)
    return (Plain(graph.op("ReduceMean", data.tensor, axes=list(axes), keepdims=keepdims), data.is_batched),)


def softmax(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Softmax within each example."""
    data = plain(node, inputs[0])
    axis = _softmax_axis(node, data)
    return (Plain(graph.op("Softmax", data.tensor, axis=axis), data.is_batched),)


def softmax_grad(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """com.microsoft SoftmaxGrad_13: dX = (dY - sum of dY Y) Y."""
    dy, y = (plain(node, value) for value in inputs)
    axis = graph.constant(np.array([_softmax_axis(node, y)], np.int64))
    product = apply(graph, node, "Mul", dy, y)
    total = Plain(graph.op("ReduceSum", product.tensor, axis, keepdims=1), product.is_batched)
    return (apply(graph, node, "Mul", apply(graph, node, "Sub", dy, total), y),)


def batch_normalization(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Refuse BatchNormalization; ORT Training would silently rewrite it to batch statistics."""
    raise node.coupled("normalises with the statistics of the batch")


def apply(graph: GraphBuilder, node: Node, op_type: str, *values: Plain, **attributes: Any) -> Plain:
    """An elementwise operator on plain values, with broadcasting inside each example.

    Raises:
        CouplingError: When broadcasting would put the example axis of a value beside another axis.
    """
    result = graph.op(op_type, *(value.tensor for value in values), **attributes)
    batched = [value for value in values if value.is_batched]
    if any(len(value.shape) != len(result.shape) or value.shape[0] != result.shape[0] for value in batched):
        raise node.coupled("broadcasts examples against each other")
    return Plain(result, bool(batched))


def sum_to(graph: GraphBuilder, node: Node, value: Plain, shape: tuple[int, ...]) -> Value:
    """Undo broadcasting: sum `value` to `shape` (the gradient of an operand that was broadcast)."""
    padded = (1,) * (len(value.shape) - len(shape)) + shape
    axes = tuple(i for i, (wide, narrow) in enumerate(zip(value.shape, padded, strict=True)) if wide != narrow)
    return to_shape(graph, node, _sum(graph, value, axes, keepdims=True) if axes else value, shape)


def to_shape(graph: GraphBuilder, node: Node, value: Value, shape: tuple[int, ...]) -> Value:
    """Reshape a value of any kind; the example axis stays where it is."""
    if isinstance(value, ExampleSum):
        if value.shape == shape:
            return value
        shares = value.per_example(graph)
        return Materialised(reshape(graph, shares, (shares.shape[0], *shape)))
    if value.is_batched and shape[:1] != value.shape[:1]:
        if value.shape[0] == 1:
            # A batch of one: what ORT Training need not sum over the examples is that sum already.
            return Materialised(reshape(graph, value.tensor, (1, *shape)))
        raise node.coupled(f"reshapes {list(value.shape)} to {list(shape)}, which moves the example axis")
    return Plain(reshape(graph, value.tensor, shape), value.is_batched)


def plain(node: Node, value: Value | None) -> Plain:
    """The value as one without sums over examples.

    Raises:
        CouplingError: When it is such a sum: what follows would depend on several examples at once.
    """
    if value is None:
        raise node.refused("lacks an input")
    if not isinstance(value, Plain):
        raise node.coupled("uses a sum over the examples of the batch")
    return value


def _sum(graph: GraphBuilder, data: Plain, axes: tuple[int, ...], *, keepdims: bool) -> Value:
    kept = [1 if i in axes else size for i, size in enumerate(data.shape)]
    shape = tuple(size for i, size in enumerate(kept) if keepdims or i not in axes)
    within = [i for i in axes if data.shape[i] > 1 and not (data.is_batched and i == 0)]
    summed = data.tensor
    if within:
        summed = graph.op("ReduceSum", summed, graph.constant(np.array(within, np.int64)), keepdims=1)
    if data.is_batched and 0 in axes:
        return Materialised(reshape(graph, summed, (data.shape[0], *shape)))
    return Plain(reshape(graph, summed, shape), data.is_batched)


def _axes(node: Node, inputs: Sequence[Value | None], data: Tensor) -> tuple[int, ...]:
    rank = len(data.shape)
    raw: Any = node.attributes.get("axes")
    if raw is None and len(inputs) > 1 and inputs[1] is not None:
        raw = plain(node, inputs[1]).tensor.constant
        if raw is None:
            raise node.refused("sums over axes that are not known when compiling")
    if raw is None or len(raw) == 0:
        return () if node.attributes.get("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted(int(axis) % rank for axis in raw))


def _softmax_axis(node: Node, data: Plain) -> int:
    axis = int(node.attributes.get("axis", -1)) % len(data.shape)
    if data.is_batched and axis == 0:
        raise node.coupled("normalises over the batch")
    return axis


def _on_shares(graph: GraphBuilder, node: Node, share: ExampleSum, others: Sequence[Value | None]) -> Value:
    factors = [plain(node, other) for other in others]
    shares = share.per_example(graph)
    result = graph.op(node.op_type, shares, *(factor.tensor for factor in factors))
    if any(factor.is_batched for factor in factors) or result.shape != shares.shape:
        raise node.coupled("multiplies a sum over examples by something of another shape or of each example")
    return Materialised(result)


_ELEMENTWISE = (
    "Sub Sqrt Exp Log Abs Erf Reciprocal Pow Clip Min Max Relu Where Equal Less LessOrEqual Greater GreaterOrEqual And "
    "Or Not Cast Sign"
)
RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE.split(), elementwise),
    "Mul": scale,
    "Div": scale,
    "Neg": scale,
    "Add": add,
    "Sum": add,
    "ReluGrad": relu_grad,
    "DivGrad": div_grad,
    "Scale": scale_by_tensor,
    "ReduceSum": reduce_sum,
    "ReduceMean": reduce_mean,
    "Softmax": softmax,
    "SoftmaxGrad_13": softmax_grad,
    "BatchNormalization": batch_normalization,
}
