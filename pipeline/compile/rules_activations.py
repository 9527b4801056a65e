"""Lowering rules for activations (`activations.py`) and their gradients."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from pipeline.compile import activations
from pipeline.compile.activations import Pen
from pipeline.compile.builder import GraphBuilder, Tensor
from pipeline.compile.lower import Node, Rule
from pipeline.compile.placement import is_batched
from pipeline.compile.rules_elementwise import as_shares, beside, plain, unsummed
from pipeline.compile.values import ExampleSum, Materialised, Plain, Value, reshape

Forward = Callable[[Pen, Tensor], Tensor]
Backward = Callable[[Pen, Tensor, Tensor], Tensor]


def prelu(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """PRelu with a slope for all channels, or one a channel (arXiv:1502.01852)."""
    x, slope = (plain(node, value) for value in inputs)
    return (Plain(graph.op("PRelu", x.tensor, _by_channel(graph, slope.tensor, x.shape)), x.is_batched),)


def prelu_grad(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value | None, ...]:
    """Gradients of PRelu: dx, and each example's dslope, the sum of dy x where x <= 0."""
    dy, x, slope = (plain(node, value) for value in inputs)
    pen = Pen(graph, node)
    positive = pen.above(x.tensor)
    negative = pen("Mul", dy.tensor, pen("Sub", 1.0, positive))
    dx = pen("Add", pen("Mul", dy.tensor, positive), pen("Mul", negative, _by_channel(graph, slope.tensor, x.shape)))
    is_shared = slope.tensor.size == 1
    axes = np.array([i for i in range(1, len(x.shape)) if is_shared or i != 1], np.int64)
    share = pen("Mul", negative, x.tensor)
    share = graph.op("ReduceSum", share, graph.constant(axes), keepdims=0) if len(axes) else share
    return Plain(dx, x.is_batched), Materialised(reshape(graph, share, (x.shape[0], *slope.shape)))


def _by_channel(graph: GraphBuilder, slope: Tensor, shape: tuple[int, ...]) -> Tensor:
    return reshape(graph, slope, (slope.size, *(1 for _ in shape[2:])))


def _forward_rule(function: Forward) -> Rule:
    def rule(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
        x = unsummed(node, inputs[0])
        return (replace(x, tensor=function(Pen(graph, node), x.tensor)),)

    return rule


def _backward_rule(function: Backward) -> Rule:
    def rule(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
        x, dy = unsummed(node, inputs[1]), inputs[0]
        if not is_batched(x):  # of a parameter: the gradient is a sum over the examples already
            dy = as_shares(graph, dy)
        if isinstance(dy, ExampleSum):
            if is_batched(x):
                raise node.coupled("uses a sum over the examples of the batch")
            return (Materialised(function(Pen(graph, node), dy.per_example(graph), x.tensor)),)
        upstream = beside(graph, node, unsummed(node, dy), x)
        return (replace(x, tensor=function(Pen(graph, node), upstream, x.tensor)),)

    return rule


_PAIRS: dict[str, tuple[Forward, Backward]] = {
    "HardSwish": (activations.hard_swish, activations.hard_swish_grad),
    "HardSigmoid": (activations.hard_sigmoid, activations.hard_sigmoid_grad),
    "HardTanh": (activations.hard_tanh, activations.hard_tanh_grad),
    "Clamp": (activations.clamp, activations.clamp_grad),
    "Silu": (activations.silu, activations.silu_grad),
    "Gelu": (activations.gelu, activations.gelu_grad),
    "GeluTanh": (activations.gelu_tanh, activations.gelu_tanh_grad),
    "Mish": (activations.mish, activations.mish_grad),
    "Softplus": (activations.softplus, activations.softplus_grad),
    "LogSigmoid": (activations.log_sigmoid, activations.log_sigmoid_grad),
    "Elu": (activations.elu, activations.elu_grad),
    "LeakyRelu": (activations.leaky_relu, activations.leaky_relu_grad),
}
RULES: dict[str, Rule] = {
    **{name: _forward_rule(forward) for name, (forward, _) in _PAIRS.items()},
    **{f"{name}Grad": _backward_rule(backward) for name, (_, backward) in _PAIRS.items()},
    "PRelu": prelu,
    "PReluGrad": prelu_grad,
    "ReluGrad": _backward_rule(activations.relu_grad),
    "SigmoidGrad": _backward_rule(activations.sigmoid_grad),
    "TanhGrad": _backward_rule(activations.tanh_grad),
}
