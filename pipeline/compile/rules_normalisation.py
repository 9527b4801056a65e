"""Lowering rules for normalisations within each example, and their gradients in closed form.

With x^ the normalised input and g the gradient by it, dx = (g - mean(g) - x^ mean(g x^)) / deviation: "Layer
Normalization", arXiv:1607.06450, and "Group Normalization", arXiv:1803.08494. The variance is taken of the centred
values: mean(x^2) - mean(x)^2 loses every digit where the mean is large.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from pipeline.compile.builder import GraphBuilder, Tensor
from pipeline.compile.lower import Node, Rule
from pipeline.compile.placement import is_batched, place_of
from pipeline.compile.rules_elementwise import beside, plain, unsummed
from pipeline.compile.values import Materialised, Plain, Value, reshape


@dataclass(frozen=True)
class _Groups:
    """An input [B, C, positions] seen as groups.

    Attributes:
        centred: x less its group's mean, [B, G, values].
        inverse: 1 / deviation, [B, G, 1].
        scale: weight / deviation, [B, C, 1].
    """

    centred: Tensor
    inverse: Tensor
    scale: Tensor


def group_norm(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """GroupNorm, and InstanceNorm as one with a group a channel."""
    x, weight, bias = _arguments(node, inputs)
    batch, channels = x.shape[:2]
    groups = _groups(graph, node, x, weight)
    rows = reshape(graph, groups.centred, (batch, channels, prod(x.shape[2:])))
    shift = graph.op("Expand", bias, graph.constant(np.array([batch, channels])))
    shifted = _affine(graph, rows, groups.scale, shift)
    return (Plain(reshape(graph, shifted, x.shape), is_batched=True),)


def group_norm_grad(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value | None, ...]:
    """Gradients of GroupNorm: dx, each example's dweight and dbias, all from the channels' sums of dy and dy x^."""
    dy, *others = inputs
    x, weight, _ = _arguments(node, others)
    batch, channels = x.shape[:2]
    groups = _groups(graph, node, x, weight)
    num_groups, values = groups.centred.shape[1:]
    positions = graph.constant(np.array([2], np.int64))
    rows = reshape(graph, plain(node, dy).tensor, (batch, channels, values * num_groups // channels))
    centred = reshape(graph, groups.centred, rows.shape)
    shift = graph.op("ReduceSum", rows, positions, keepdims=0)
    product = graph.op("ReduceSum", graph.op("Mul", rows, centred), positions, keepdims=0)
    by_group = (batch, num_groups, channels // num_groups)
    scale = reshape(graph, graph.op("Mul", reshape(graph, product, by_group), groups.inverse), (batch, channels))

    def mean(sums: Tensor) -> Tensor:
        weighted = reshape(graph, graph.op("Mul", sums, weight), by_group)
        total = graph.op("ReduceSum", weighted, positions, keepdims=1)
        return graph.op("Mul", graph.op("Mul", total, groups.inverse), _number(graph, 1 / values))

    slope = graph.op("Mul", mean(scale), groups.inverse)
    shape = graph.constant(np.array(by_group))
    offset = graph.op("Expand", graph.op("Neg", mean(shift)), shape)
    correction = graph.op("Mul", groups.centred, slope)
    dx = graph.op("Sub", _affine(graph, rows, groups.scale, offset), reshape(graph, correction, rows.shape))
    return Plain(reshape(graph, dx, x.shape), is_batched=True), Materialised(scale), Materialised(shift)


def _affine(graph: GraphBuilder, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x [B, C, n] times scale plus shift, a number each for every example and channel, in one pass.

    It is ONNX's BatchNormalization of mean 0 and variance 1 over B C channels of a single example.
    """
    count = x.shape[0] * x.shape[1]
    data, *terms = (reshape(graph, t, (1, count, x.shape[2]) if t is x else (count,)) for t in (x, scale, shift))
    shape = graph.constant(np.array([count]))
    zeros, ones = (graph.op("Expand", _number(graph, value), shape) for value in (0, 1))
    return reshape(graph, graph.op("BatchNormalization", data, *terms, zeros, ones, epsilon=0.0), x.shape)


def layer_norm(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """LayerNorm over the axes of its weight."""
    x, weight, bias = _row_arguments(node, inputs)
    normal, _ = _normal_rows(graph, node, x.tensor, weight)
    return (replace(x, tensor=_scaled(graph, normal, weight, bias, x.tensor.shape)),)


def rms_norm(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """RMSNorm over the axes of its weight: LayerNorm without the mean ("RMSNorm", arXiv:1910.07467)."""
    x, weight = _row_arguments(node, inputs)
    normal, _ = _normal_rows(graph, node, x.tensor, weight)
    return (replace(x, tensor=_scaled(graph, normal, weight, None, x.tensor.shape)),)


def row_norm_grad(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value | None, ...]:
    """Gradients of LayerNorm and RMSNorm: dx, each example's dweight and dbias."""
    dy, *others = inputs
    x, weight, *_ = _row_arguments(node, others)
    normal, inverse = _normal_rows(graph, node, x.tensor, weight)
    rows = reshape(graph, beside(graph, node, unsummed(node, dy), x), normal.shape)
    product = graph.op("Mul", rows, normal)
    share = graph.op("Mul", reshape(graph, weight, (weight.size, 1)), _number(graph, 1 / weight.size))
    correction = graph.op("Mul", normal, graph.op("MatMul", product, share))
    if _is_centred(node):
        correction = graph.op("Add", correction, graph.op("MatMul", rows, share))
    dx = graph.op("Mul", graph.op("Sub", _times(graph, rows, weight), correction), inverse)

    def shares(tensor: Tensor) -> Materialised:
        middle = graph.constant(np.array([1], np.int64))
        total = graph.op("ReduceSum", tensor, middle, keepdims=0) if tensor.shape[1] > 1 else tensor
        return Materialised(reshape(graph, total, (total.shape[0], *weight.shape)))

    return replace(x, tensor=reshape(graph, dx, x.tensor.shape)), shares(product), shares(rows)


def _arguments(node: Node, inputs: Sequence[Value | None]) -> list[Tensor]:
    x, *others = (plain(node, value) for value in inputs)
    if not x.is_batched or any(other.is_batched for other in others):
        raise node.refused("does not normalise examples by shared weights")
    return [x.tensor, *(other.tensor for other in others)]


def _row_arguments(node: Node, inputs: Sequence[Value | None]) -> tuple[Any, ...]:
    """x, wherever its examples are outside of what is normalised, and the parameters' tensors."""
    x, *others = (unsummed(node, value) for value in inputs)
    if not is_batched(x) or any(is_batched(other) for other in others):
        raise node.refused("does not normalise examples by shared weights")
    if place_of(x).axis >= len(x.shape) - len(others[0].shape):
        raise node.coupled("normalises over the batch")
    return x, *(other.tensor for other in others)


def _groups(graph: GraphBuilder, node: Node, x: Tensor, weight: Tensor) -> _Groups:
    batch, channels = x.shape[:2]
    num_groups = node.attributes["num_groups"]
    rows = reshape(graph, x, (batch, num_groups, x.size // (batch * num_groups)))
    centred = graph.op("Sub", rows, graph.op("ReduceMean", rows, axes=[2], keepdims=1))
    inverse = _inverse_deviation(graph, node, centred)
    by_group = reshape(graph, weight, (num_groups, channels // num_groups))
    return _Groups(centred, inverse, reshape(graph, graph.op("Mul", inverse, by_group), (batch, channels, 1)))


def _normal_rows(graph: GraphBuilder, node: Node, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """x normalised, [B, rows, values of the weight], and 1 / deviation, [B, rows, 1]."""
    rows = reshape(graph, x, (x.shape[0], x.size // (x.shape[0] * weight.size), weight.size))
    if _is_centred(node):
        rows = graph.op("Sub", rows, graph.op("ReduceMean", rows, axes=[2], keepdims=1))
    inverse = _inverse_deviation(graph, node, rows)
    return graph.op("Mul", rows, inverse), inverse


def _is_centred(node: Node) -> bool:
    return node.op_type.startswith("LayerNorm")


def _inverse_deviation(graph: GraphBuilder, node: Node, centred: Tensor) -> Tensor:
    variance = graph.op("ReduceMean", graph.op("Mul", centred, centred), axes=[2], keepdims=1)
    deviation = graph.op("Sqrt", graph.op("Add", variance, _number(graph, node.attributes["epsilon"])))
    return graph.op("Reciprocal", deviation)


def _scaled(graph: GraphBuilder, normal: Tensor, weight: Tensor, bias: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    scaled = _times(graph, normal, weight)
    if bias is not None and not _is_constant(bias, 0):
        scaled = graph.op("Add", scaled, reshape(graph, bias, (bias.size,)))
    return reshape(graph, scaled, shape)


def _times(graph: GraphBuilder, rows: Tensor, weight: Tensor) -> Tensor:
    return rows if _is_constant(weight, 1) else graph.op("Mul", rows, reshape(graph, weight, (weight.size,)))


def _is_constant(tensor: Tensor, value: float) -> bool:
    return tensor.constant is not None and bool((tensor.constant == value).all())


def _number(graph: GraphBuilder, value: float) -> Tensor:
    return graph.constant(value, np.float32)


RULES: dict[str, Rule] = {
    "GroupNorm": group_norm,
    "GroupNormGrad": group_norm_grad,
    "LayerNorm": layer_norm,
    "LayerNormGrad": row_norm_grad,
    "RMSNorm": rms_norm,
    "RMSNormGrad": row_norm_grad,
}
