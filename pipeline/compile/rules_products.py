"""Lowering rules for matrix products: with shared weights, inside each example, and the weights' own gradients."""

from collections.abc import Sequence
from math import prod

import numpy as np

from pipeline.compile.builder import GraphBuilder, Tensor
from pipeline.compile.lower import Node, Rule
from pipeline.compile.placement import alone, has_example, is_batched, place_of, placed, structured, transposed
from pipeline.compile.rules_elementwise import apply, unsummed
from pipeline.compile.values import ExampleSum, Materialised, Moved, Outer, Plain, Value, reshape, turned


def gemm(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Gemm: examples times shared weights, or the weights' gradient dY^T X, which stays a product an example."""
    if len(inputs) == 2 and any(isinstance(value, ExampleSum) for value in inputs):
        return (_product_of_shares(graph, node, inputs),)
    a, b, *bias = (unsummed(node, value) for value in inputs if value is not None)
    alpha, beta = (float(node.attributes.get(name, 1.0)) for name in ("alpha", "beta"))
    is_turned = bool(node.attributes.get("transB", 0))
    if node.attributes.get("transA", 0):
        a = transposed(graph, a, (1, 0))
    if has_example(a, 0) and not any(is_batched(value) for value in (b, *bias)) and _is_a_row(bias):
        tensors = [reshape(graph, a.tensor, (-1, a.shape[1])), b.tensor, *(value.tensor for value in bias)]
        product = graph.op("Gemm", *tensors, alpha=alpha, beta=beta, transB=int(is_turned))
        tensor = reshape(graph, product, (a.tensor.shape[0], -1, product.shape[1]))
        return (placed(graph, tensor, (a.shape[0], product.shape[1]), place_of(a)),)
    result = _product(graph, node, a, transposed(graph, b, (1, 0)) if is_turned else b, alpha)
    if not bias or beta == 0:
        return (result,)
    factor = Plain(graph.constant(beta, np.float32), is_batched=False)
    return (apply(graph, node, "Add", unsummed(node, result), apply(graph, node, "Mul", bias[0], factor)),)


def matmul(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """MatMul and com.microsoft FusedMatMul (transA, transB, alpha)."""
    if node.attributes.get("transBatchA", 0) or node.attributes.get("transBatchB", 0):
        raise node.refused("transposes the batches of a product")
    if any(isinstance(value, ExampleSum) for value in inputs):
        return (_product_of_shares(graph, node, inputs),)
    a, b = (
        _turned(graph, unsummed(node, value)) if node.attributes.get(name, 0) else unsummed(node, value)
        for name, value in zip(("transA", "transB"), inputs, strict=True)
    )
    return (_product(graph, node, a, b, float(node.attributes.get("alpha", 1.0))),)


def _product(graph: GraphBuilder, node: Node, a: Plain | Moved, b: Plain | Moved, alpha: float) -> Value:
    """a @ b times alpha."""
    if alpha != 1:
        a = apply(graph, node, "Mul", a, Plain(graph.constant(alpha, np.float32), is_batched=False))
    if not is_batched(a) and not is_batched(b):
        return Plain(graph.op("MatMul", a.tensor, b.tensor), is_batched=False)
    if len(a.shape) == len(b.shape) == 2 and has_example(a, 1) and has_example(b, 0):
        left = transposed(graph, a, (1, 0))
        if place_of(left) == place_of(b):
            return Outer(
                *(reshape(graph, side.tensor, (side.tensor.shape[0], -1, side.shape[1])) for side in (left, b))
            )
    if not is_batched(b) and not has_example(a, len(a.shape) - 1):
        return _times_shared(graph, node, a, b.tensor)
    if not is_batched(a) and len(a.shape) == len(b.shape) == 2 and has_example(b, 1):
        # (A B)^T = B^T A^T: the examples are the rows of the product on the right.
        result = _times_shared(graph, node, _turned(graph, b), _swapped(graph, a.tensor))
        return _turned(graph, result)
    if any(is_batched(value) and value.tensor.shape[0] == 1 for value in (a, b)):
        return alone(graph, "MatMul", (a, b))
    return _inside(graph, node, a, b)


def _product_of_shares(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> ExampleSum:
    """The gradient of a function of parameters times another one, [m, k] and [k, n]: a product in each share."""
    first, second = inputs
    is_left = isinstance(first, ExampleSum)
    shares, other = (first, unsummed(node, second)) if is_left else (second, unsummed(node, first))
    if not isinstance(shares, ExampleSum) or is_batched(other) or (len(shares.shape), len(other.shape)) != (2, 2):
        raise node.refused("multiplies functions of parameters in a way that has no rule")
    turns_shares, turns_other = (
        bool(node.attributes.get(name, 0)) for name in (("transA", "transB") if is_left else ("transB", "transA"))
    )
    matrix = _swapped(graph, other.tensor) if turns_other else other.tensor
    if (alpha := float(node.attributes.get("alpha", 1.0))) != 1:
        matrix = graph.op("Mul", matrix, graph.constant(alpha, np.float32))
    if isinstance(shares, Outer):
        left, right = (shares.right, shares.left) if turns_shares else (shares.left, shares.right)
        if is_left:
            return Outer(left, graph.op("MatMul", right, matrix))
        return Outer(graph.op("MatMul", left, _swapped(graph, matrix)), right)
    each = shares.per_example(graph)
    each = turned(graph, each) if turns_shares else each
    return Materialised(graph.op("MatMul", *((each, matrix) if is_left else (matrix, each))))


def _times_shared(graph: GraphBuilder, node: Node, a: Plain | Moved, weight: Tensor) -> Plain | Moved:
    """Examples times shared weights [k], [k, n], or [h, k, n] with h inside each example."""
    if len(weight.shape) > 2 and (isinstance(a, Moved) or len(weight.shape) >= len(a.shape)):
        raise node.refused(f"multiplies by shared weights {list(weight.shape)} whose first axes are not the examples'")
    result = graph.op("MatMul", structured(graph, a), weight)
    columns = weight.shape[-1:] if len(weight.shape) > 1 else ()
    return placed(graph, result, (*a.shape[:-1], *columns), place_of(a))


def _inside(graph: GraphBuilder, node: Node, a: Plain | Moved, b: Plain | Moved) -> Plain | Moved:
    """Each example's own product, over axes left of the last two; shared factors on the left are [m, k]."""
    rank = len(b.shape)
    place = place_of(b if is_batched(b) else a)
    if place.axis >= rank - 2 or (is_batched(a) and (place_of(a) != place or len(a.shape) != rank)):
        raise node.coupled("multiplies or adds examples to each other")
    if not is_batched(a) and len(a.shape) > 2 and (isinstance(b, Moved) or len(a.shape) >= rank):
        raise node.refused(f"multiplies by shared weights {list(a.shape)} whose first axes are not the examples'")
    left, right = structured(graph, a), structured(graph, b)
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    if batch[place.axis] != b.shape[place.axis]:
        raise node.coupled("multiplies or adds examples to each other")
    return placed(graph, graph.op("MatMul", left, right), (*batch, a.shape[-2], b.shape[-1]), place)


def _is_a_row(bias: Sequence[Plain | Moved]) -> bool:
    return all(prod(value.shape[:-1]) == 1 for value in bias)


def _turned(graph: GraphBuilder, value: Plain | Moved) -> Plain | Moved:
    """The last two axes exchanged."""
    rank = len(value.shape)
    if rank < 2:
        return value
    return transposed(graph, value, [*range(rank - 2), rank - 1, rank - 2])


def _swapped(graph: GraphBuilder, tensor: Tensor) -> Tensor:
    return graph.op("Transpose", tensor, perm=[1, 0])


RULES: dict[str, Rule] = {
    "Gemm": gemm,
    "MatMul": matmul,
    "FusedMatMul": matmul,
}
