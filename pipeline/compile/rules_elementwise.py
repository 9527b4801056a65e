"""Lowering rules for elementwise arithmetic, comparisons and reductions."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, overload

import numpy as np
from onnx import TensorProto

from pipeline.compile.builder import GraphBuilder, Tensor
from pipeline.compile.lookups import added
from pipeline.compile.lower import Node, Rule
from pipeline.compile.placement import (
    along,
    axes_in,
    broadcast,
    has_example,
    is_batched,
    off_axes,
    place_of,
    reduced,
    reshaped,
    structured,
)
from pipeline.compile.shares import broadcast_axes, chosen, div_grad_of_shares, each_share, scaled
from pipeline.compile.values import ExampleSum, Materialised, Moved, Place, Plain, Value, reshape


def elementwise(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Any operator that acts position by position, with broadcasting."""
    values = [unsummed(node, value) for value in inputs]
    if node.op_type in {"Div", "Mod"}:
        _check_divisor(node, values[1].tensor)
    if node.op_type == "Relu" and values[0].tensor.dtype.kind == "i":  # ONNX Runtime has Relu for few types
        zero = Plain(graph.constant(0, values[0].tensor.dtype), is_batched=False)
        return (apply(graph, node, "Max", values[0], zero),)
    return (apply(graph, node, node.op_type, *values, **node.attributes),)


def scale(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Mul, Div and Neg: on gradients of parameters too, whose shares scale one by one."""
    first = inputs[0]
    if isinstance(first, ExampleSum):
        return (scaled(graph, node, node.op_type, first, [plain(node, value) for value in inputs[1:]]),)
    if node.op_type == "Mul" and isinstance(inputs[1], ExampleSum):
        return (scaled(graph, node, "Mul", inputs[1], [plain(node, inputs[0])]),)
    return elementwise(graph, node, inputs)


def where(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Where: of gradients of parameters too, beside zeros."""
    if not any(isinstance(value, ExampleSum) for value in inputs[1:]):
        condition, *values = (unsummed(node, value) for value in inputs)
        if any(value.tensor.dtype != np.bool_ for value in values):
            return elementwise(graph, node, inputs)
        sides = (condition, apply(graph, node, "Not", condition))  # ONNX Runtime has no Where for truth values
        both = (apply(graph, node, "And", side, value) for side, value in zip(sides, values, strict=True))
        return (apply(graph, node, "Or", *both),)
    branches = [value if isinstance(value, ExampleSum) else plain(node, value) for value in inputs[1:]]
    return (chosen(graph, node, plain(node, inputs[0]), branches),)


def add(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Add and Sum: of plain values, or of several gradients of one parameter."""
    sums = [value for value in inputs if isinstance(value, ExampleSum)]
    if not sums:
        return elementwise(graph, node, inputs)
    shares = [as_shares(graph, value) for value in inputs]
    if not all(isinstance(value, ExampleSum) for value in shares) or len({value.shape for value in sums}) > 1:
        raise node.coupled("adds a sum over examples to something else")
    return (added(graph, [value for value in shares if isinstance(value, ExampleSum)]),)


def div_grad(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value | None, ...]:
    """Gradients of C = A / B: dC / B, and -dC A / B^2; each summed to its operand's shape."""
    if isinstance(inputs[0], ExampleSum):
        return div_grad_of_shares(graph, node, inputs[0], *(plain(node, value) for value in inputs[1:]))
    dc, a, b = (unsummed(node, value) for value in inputs)
    quotient = apply(graph, node, "Div", dc, b)
    da = sum_to(graph, node, quotient, a.shape) if node.outputs[0] else None
    if len(node.outputs) == 1 or not node.outputs[1]:
        return (da,)
    product = apply(graph, node, "Mul", quotient, apply(graph, node, "Div", a, b))
    return da, sum_to(graph, node, apply(graph, node, "Neg", product), b.shape)


def scale_by_tensor(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """com.microsoft Scale: multiply or divide by a scalar of any type."""
    factor = apply(graph, node, "Cast", unsummed(node, inputs[1]), to=TensorProto.FLOAT)
    operator = "Div" if node.attributes.get("scale_down", 0) else "Mul"
    return scale(graph, replace(node, op_type=operator, attributes={}), [inputs[0], factor])


def reduce_sum(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """ReduceSum; over the examples it leaves each one's share."""
    data, first = inputs[0], 0
    if isinstance(data, ExampleSum):
        data, first = Plain(data.per_example(graph), is_batched=True), 1
    data = unsummed(node, data)
    axes = [axis + first for axis in reduced_axes(node, inputs, len(data.shape) - first)]
    result = _sum(graph, data, axes, keepdims=bool(node.attributes.get("keepdims", 1))) if axes else data
    return (Materialised(unsummed(node, result).tensor) if first else result,)


def reduce_mean(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """ReduceMean, ReduceL2 and ReduceLogSumExp within each example."""
    data = unsummed(node, inputs[0])
    axes = reduced_axes(node, inputs, len(data.shape)) or tuple(range(len(data.shape)))
    data = off_axes(data, axes)
    if any(has_example(data, axis) for axis in axes):
        raise node.coupled("averages over the batch")
    mean = graph.op(node.op_type, structured(graph, data), axes=axes_in(data, axes), keepdims=1)
    return (reduced(graph, data, mean, axes, keepdims=bool(node.attributes.get("keepdims", 1))),)


def softmax(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Softmax and LogSoftmax within each example."""
    data = unsummed(node, inputs[0])
    axis = int(node.attributes.get("axis", -1)) % len(data.shape)
    data = off_axes(data, [axis])
    if has_example(data, axis):
        raise node.coupled("normalises over the batch")
    return (along(graph, data, node.op_type, axis=axis),)


def softmax_grad(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """com.microsoft SoftmaxGrad_13: dX = (dY - sum of dY Y) Y."""
    if isinstance(inputs[0], ExampleSum):
        return (each_share(graph, node, softmax_grad, inputs[0], plain(node, inputs[1])),)
    dy, y = (unsummed(node, value) for value in inputs)
    total = _total(graph, node, apply(graph, node, "Mul", dy, y))
    return (apply(graph, node, "Mul", apply(graph, node, "Sub", dy, total), y),)


def log_softmax_grad(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """com.microsoft LogSoftmaxGrad_13: dX = dY - exp(Y) times the sum of dY."""
    if isinstance(inputs[0], ExampleSum):
        return (each_share(graph, node, log_softmax_grad, inputs[0], plain(node, inputs[1])),)
    dy, y = (unsummed(node, value) for value in inputs)
    total = _total(graph, node, dy)
    return (apply(graph, node, "Sub", dy, apply(graph, node, "Mul", apply(graph, node, "Exp", y), total)),)


def _check_divisor(node: Node, divisor: Tensor) -> None:
    """A whole number divided by zero, or the smallest one by -1, ends the process that runs the graph."""
    is_safe = divisor.constant is not None and not np.isin(divisor.constant, (0, -1)).any()
    if divisor.dtype.kind in "iu" and not is_safe:
        raise node.refused("divides whole numbers by one that may be 0 or -1; divide by a constant, or after .float()")


def _total(graph: GraphBuilder, node: Node, value: Plain | Moved) -> Plain | Moved:
    axis = int(node.attributes.get("axis", -1)) % len(value.shape)
    return unsummed(node, _sum(graph, off_axes(value, [axis]), [axis], keepdims=True))


@overload
def apply(graph: GraphBuilder, node: Node, op_type: str, *values: Plain, **attributes: Any) -> Plain: ...


@overload
def apply(
    graph: GraphBuilder, node: Node, op_type: str, *values: Plain | Moved, **attributes: Any
) -> Plain | Moved: ...


def apply(graph: GraphBuilder, node: Node, op_type: str, *values: Plain | Moved, **attributes: Any) -> Plain | Moved:
    """An elementwise operator, with broadcasting inside each example.

    Raises:
        CouplingError: When broadcasting would put the example axis of a value beside another axis.
    """
    return broadcast(graph, node, op_type, values, **attributes)


def sum_to(graph: GraphBuilder, node: Node, value: Plain | Moved, shape: tuple[int, ...]) -> Value:
    """Undo broadcasting: sum `value` to `shape` (the gradient of an operand that was broadcast)."""
    axes = broadcast_axes(value.shape, shape)
    return to_shape(graph, node, _sum(graph, value, axes, keepdims=True) if axes else value, shape)


def to_shape(graph: GraphBuilder, node: Node, value: Value, shape: tuple[int, ...]) -> Value:
    """Reshape a value of any kind.

    Raises:
        CouplingError: When the examples would be cut in pieces.
    """
    if not isinstance(value, ExampleSum):
        return reshaped(graph, node, value, shape)
    if value.shape == shape:
        return value
    shares = value.per_example(graph)
    return Materialised(reshape(graph, shares, (shares.shape[0], *shape)))


def plain(node: Node, value: Value | None) -> Plain:
    """The value as one that is shared, or has its examples on axis 0.

    Raises:
        CouplingError: When it is neither: what follows would depend on several examples at once.
    """
    found = unsummed(node, value)
    if isinstance(found, Moved):
        raise node.coupled("needs the batch on axis 0, where it is not")
    return found


def unsummed(node: Node, value: Value | None) -> Plain | Moved:
    """The value as one without sums over examples, whatever axis holds them.

    Raises:
        CouplingError: When it is such a sum.
    """
    if value is None:
        raise node.refused("lacks an input")
    if isinstance(value, Materialised) and value.shape and value.tensor.shape[0] == 1:
        return Moved(value.tensor, value.shape, Place(0, 1, value.shape[0]))  # a batch of one is no sum
    if isinstance(value, ExampleSum):
        if any(
            "_grad" in name.lower() for name in node.outputs
        ):  # what mixes examples was refused in the forward graph
            raise node.refused(
                "is in the gradient of a function of parameters alone, for which it has no rule (make the function's "
                "result the parameter)"
            )
        raise node.coupled("uses a sum over the examples of the batch")
    return value


def beside(graph: GraphBuilder, node: Node, dy: Plain | Moved, x: Plain | Moved) -> Tensor:
    """The gradient by a layer's output, laid out as the layer's input of the same shape."""
    is_alone = x.tensor.shape[0] == 1
    if is_batched(dy) != is_batched(x) or not (is_alone or not is_batched(x) or place_of(dy) == place_of(x)):
        raise node.coupled("has a gradient whose examples are elsewhere than its input's")
    return reshape(graph, dy.tensor, x.tensor.shape)


def as_shares(graph: GraphBuilder, value: Value | None) -> Value | None:
    """A value of a batch of one as the sum over examples that it is too: ORT Training need not write that sum."""
    if isinstance(value, Plain | Moved) and is_batched(value) and value.tensor.shape[0] == 1:
        return Materialised(reshape(graph, value.tensor, (1, *value.shape)))
    return value


def reduced_axes(node: Node, inputs: Sequence[Value | None], rank: int) -> tuple[int, ...]:
    """The axes of a reduction, from its attribute or its second input; none where it does nothing."""
    raw: Any = node.attributes.get("axes")
    if raw is None and len(inputs) > 1 and inputs[1] is not None:
        raw = plain(node, inputs[1]).tensor.constant
        if raw is None:
            raise node.refused("sums over axes that are not known when compiling")
    if raw is None or len(raw) == 0:
        return () if node.attributes.get("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted(int(axis) % rank for axis in raw))


def _sum(graph: GraphBuilder, data: Plain | Moved, axes: Sequence[int], *, keepdims: bool) -> Value:
    summed = structured(graph, data)
    if within := [axis for axis in axes_in(data, axes) if summed.shape[axis] > 1]:
        summed = graph.op("ReduceSum", summed, graph.constant(np.array(within, np.int64)), keepdims=1)
    if not any(has_example(data, axis) for axis in axes):
        return reduced(graph, data, summed, axes, keepdims=keepdims)
    shape = [1 if axis in axes else size for axis, size in enumerate(data.shape) if keepdims or axis not in axes]
    return Materialised(reshape(graph, summed, (summed.shape[0], *shape)))


_ELEMENTWISE = (
    "Sub Mod IsNaN Sqrt Exp Log Abs Erf Sigmoid Tanh Sin Cos "
    "Reciprocal Pow Clip Min Max Relu Equal Less LessOrEqual Greater GreaterOrEqual And "
    "Or Xor Not Cast Sign"
)
RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE.split(), elementwise),
    "Mul": scale,
    "Div": scale,
    "Neg": scale,
    "Where": where,
    "Add": add,
    "Sum": add,
    "DivGrad": div_grad,
    "Scale": scale_by_tensor,
    "ReduceSum": reduce_sum,
    **dict.fromkeys(("ReduceMean", "ReduceL2", "ReduceLogSumExp"), reduce_mean),
    "Softmax": softmax,
    "LogSoftmax": softmax,
    "SoftmaxGrad_13": softmax_grad,
    "LogSoftmaxGrad_13": log_softmax_grad,
}
