"""Lowering rules for layers with weights: forward, and gradients in their per-example form."""

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.compile.builder import GraphBuilder
from pipeline.compile.convolution_gradient import input_gradient, weight_gradients, window_of
from pipeline.compile.lower import Node, Rule
from pipeline.compile.rules_elementwise import plain
from pipeline.compile.values import Materialised, Outer, Plain, Value


def conv(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Conv of the examples with shared weights."""
    values = [plain(node, value) for value in inputs if value is not None]
    if any(value.is_batched for value in values[1:]):
        raise node.coupled("takes weights that depend on the examples")
    return (Plain(graph.op("Conv", *(value.tensor for value in values), **node.attributes), values[0].is_batched),)


def conv_grad(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value | None, ...]:
    """com.microsoft ConvGrad: dX, each example's dW, each example's dB, whichever are asked for."""
    values = [plain(node, value) for value in inputs]
    if [value.is_batched for value in values] != [True, True, False]:
        raise node.refused("does not convolve examples with shared weights")
    dy, x, weight = (value.tensor for value in values)
    window = window_of(node.attributes, weight)
    computed: tuple[Callable[[], Value], ...] = (
        lambda: Plain(input_gradient(graph, window, dy, weight, x.shape), is_batched=True),
        lambda: Materialised(weight_gradients(graph, window, dy, x, weight)),
        lambda: Materialised(graph.op("ReduceSum", dy, graph.constant(np.arange(2, len(dy.shape))), keepdims=0)),
    )
    return tuple(compute() if name else None for compute, name in zip(computed, node.outputs, strict=False))


def gemm(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Gemm: examples times shared weights, or the weight gradient dY^T X, which stays an outer product an example."""
    a, b, *bias = (plain(node, value) for value in inputs if value is not None)
    transposed = node.attributes.get("transA", 0), node.attributes.get("transB", 0)
    if a.is_batched and b.is_batched and transposed == (1, 0) and not bias:
        factor = graph.constant(node.attributes.get("alpha", 1.0), np.float32)
        left = a.tensor if factor.constant == 1 else graph.op("Mul", a.tensor, factor)
        return (Outer(left, b.tensor),)
    if b.is_batched or (a.is_batched and transposed[0]) or any(value.is_batched for value in bias):
        raise node.coupled("multiplies or adds examples to each other")
    tensors = (value.tensor for value in (a, b, *bias))
    return (Plain(graph.op("Gemm", *tensors, **node.attributes), a.is_batched),)


RULES: dict[str, Rule] = {
    "Conv": conv,
    "ConvGrad": conv_grad,
    "Gemm": gemm,
}
