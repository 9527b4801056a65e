"""Linear operations on sums over examples, done to each example's share: the gradients of functions of parameters."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.compile.builder import GraphBuilder, Tensor
from pipeline.compile.lower import Node, Rule
from pipeline.compile.values import ExampleSum, Materialised, Outer, Plain, reshape


def scaled(graph: GraphBuilder, node: Node, op_type: str, share: ExampleSum, factors: Sequence[Plain]) -> ExampleSum:
    """Mul, Div or Neg of a sum over examples and shared factors.

    Raises:
        CouplingError: When a factor belongs to each example.
    """
    if any(factor.is_batched for factor in factors):
        raise node.coupled("multiplies a sum over examples by something of each example")
    if isinstance(share, Outer) and all(factor.tensor.size == 1 for factor in factors):
        scalars = [reshape(graph, factor.tensor, ()) for factor in factors]
        return Outer(graph.op(op_type, share.left, *scalars), share.right)
    rank = max([len(share.shape), *(len(factor.shape) for factor in factors)])
    return Materialised(graph.op(op_type, _aligned(graph, share, rank), *(factor.tensor for factor in factors)))


def chosen(graph: GraphBuilder, node: Node, condition: Plain, branches: Sequence[ExampleSum | Plain]) -> ExampleSum:
    """Where, with a sum over examples in one branch and zero in the other."""
    others = [value for value in branches if isinstance(value, Plain)]
    if condition.is_batched or any(value.tensor.constant is None or np.any(value.tensor.constant) for value in others):
        raise node.refused("chooses between gradients of functions of parameters in a way that has no rule")
    rank = max(len(value.shape) for value in (condition, *branches))
    tensors = [value.tensor if isinstance(value, Plain) else _aligned(graph, value, rank) for value in branches]
    return Materialised(graph.op("Where", condition.tensor, *tensors))


def div_grad_of_shares(
    graph: GraphBuilder, node: Node, dc: ExampleSum, a: Plain, b: Plain
) -> tuple[ExampleSum | None, ...]:
    """Gradients of C = A / B, of each share of dC, where A and B are functions of parameters."""
    quotient = scaled(graph, node, "Div", dc, [b])
    da = _summed_to(graph, quotient, a.shape) if node.outputs[0] else None
    if len(node.outputs) == 1 or not node.outputs[1]:
        return (da,)
    factor = Plain(graph.op("Neg", graph.op("Div", a.tensor, b.tensor)), a.is_batched)
    return da, _summed_to(graph, scaled(graph, node, "Mul", quotient, [factor]), b.shape)


def each_share(graph: GraphBuilder, node: Node, rule: Rule, dy: ExampleSum, y: Plain) -> Materialised:
    """A rule with an axis that is linear in dy, on the shares as if they were a batch."""
    if y.is_batched:
        raise node.coupled("multiplies a sum over examples by something of each example")
    rank = len(dy.shape)
    axis = int(node.attributes.get("axis", -1)) % rank - rank
    shares = Plain(dy.per_example(graph), is_batched=True)
    (result,) = rule(graph, replace(node, attributes={"axis": axis}), [shares, y])
    if not isinstance(result, Plain):
        raise node.refused("moves the shares of a gradient")
    return Materialised(result.tensor)


def broadcast_axes(wide: tuple[int, ...], narrow: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of `wide` along which a value of shape `narrow` was repeated."""
    padded = (1,) * (len(wide) - len(narrow)) + narrow
    return tuple(axis for axis, (size, own) in enumerate(zip(wide, padded, strict=True)) if size != own)


def _summed_to(graph: GraphBuilder, value: ExampleSum, shape: tuple[int, ...]) -> Materialised:
    """Undo broadcasting in each share."""
    axes = [1 + axis for axis in broadcast_axes(value.shape, shape)]
    shares = value.per_example(graph)
    if axes:
        shares = graph.op("ReduceSum", shares, graph.constant(np.array(axes, np.int64)), keepdims=1)
    return Materialised(reshape(graph, shares, (shares.shape[0], *shape)))


def _aligned(graph: GraphBuilder, share: ExampleSum, rank: int) -> Tensor:
    """The shares with the axis of the examples left of all that broadcasting looks at."""
    shares = share.per_example(graph)
    return reshape(graph, shares, (shares.shape[0], *[1] * (rank - len(share.shape)), *share.shape))
