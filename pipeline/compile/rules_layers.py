"""Lowering rules for layers with weights: forward, and gradients in their per-example form."""

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.compile.builder import GraphBuilder
from pipeline.compile.convolution_gradient import convolve, input_gradient
from pipeline.compile.convolution_shares import weight_shares
from pipeline.compile.lower import Node, Rule
from pipeline.compile.rules_elementwise import plain
from pipeline.compile.values import Materialised, Plain, Value
from pipeline.compile.window import window_of


def conv(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Conv of the examples with shared weights."""
    values = [plain(node, value) for value in inputs if value is not None]
    if any(value.is_batched for value in values[1:]):
        raise node.coupled("takes weights that depend on the examples")
    return (Plain(convolve(graph, *(value.tensor for value in values), **node.attributes), values[0].is_batched),)


def conv_grad(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value | None, ...]:
    """com.microsoft ConvGrad: dX, each example's dW, each example's dB, whichever are asked for."""
    values = [plain(node, value) for value in inputs]
    if [value.is_batched for value in values] != [True, True, False]:
        raise node.refused("does not convolve examples with shared weights")
    dy, x, weight = (value.tensor for value in values)
    window = window_of(node.attributes, weight)
    computed: tuple[Callable[[], Value], ...] = (
        lambda: Plain(input_gradient(graph, window, dy, weight, x.shape), is_batched=True),
        lambda: weight_shares(graph, window, dy, x, weight),
        lambda: Materialised(graph.op("ReduceSum", dy, graph.constant(np.arange(2, len(dy.shape))), keepdims=0)),
    )
    return tuple(compute() if name else None for compute, name in zip(computed, node.outputs, strict=False))


RULES: dict[str, Rule] = {
    "Conv": conv,
    "ConvGrad": conv_grad,
}
