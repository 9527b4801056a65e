"""The two gradients of a convolution, dX and each example's dW, in the forms that plain ONNX Runtime computes fastest.

Which form is chosen where was measured (`bench/private_step.py` and ONNX Runtime's profiler, one thread, x86).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.compile.builder import GraphBuilder, Tensor
from pipeline.compile.values import reshape

Sizes = NDArray[np.int64]
_BEFORE_THE_FIRST = np.iinfo(np.int64).min  # where a backward Slice ends


@dataclass(frozen=True)
class Window:
    """Geometry of a convolution, one number an axis.

    Attributes:
        begin, end: Padding.
    """

    kernel: Sizes
    strides: Sizes
    dilations: Sizes
    begin: Sizes
    end: Sizes
    groups: int

    @property
    def span(self) -> Sizes:
        """Positions between the first and the last weight of a kernel."""
        return self.dilations * (self.kernel - 1)

    def reach(self, out: Sizes) -> Sizes:
        """Positions of the padded input that `out` outputs read."""
        return self.strides * (out - 1) + self.span + 1

    def is_pointwise(self) -> bool:
        """Whether it is a matrix product over the channels and nothing else."""
        ones = (self.kernel, self.strides, self.begin + 1, self.end + 1)
        return self.groups == 1 and all((sizes == 1).all() for sizes in ones)


def window_of(attributes: Mapping[str, Any], weight: Tensor) -> Window:
    """Read the geometry from an ONNX Conv's attributes and its weight [out, in / groups, *kernel]."""
    begin, end = np.array(attributes["pads"], np.int64).reshape(2, -1)
    strides, dilations = (np.array(attributes[name], np.int64) for name in ("strides", "dilations"))
    return Window(np.array(weight.shape[2:], np.int64), strides, dilations, begin, end, attributes["group"])


def input_gradient(graph: GraphBuilder, window: Window, dy: Tensor, weight: Tensor, x_shape: tuple[int, ...]) -> Tensor:
    """dX [B, channels, ...] of dY: a product, a convolution with the mirrored kernel, or a transposed convolution."""
    if window.is_pointwise():
        matrix = graph.op("Transpose", reshape(graph, weight, weight.shape[:2]), perm=[1, 0])
        return reshape(graph, graph.op("MatMul", matrix, _flat(graph, dy)), x_shape)
    around = np.concatenate([window.span - window.begin, window.span - window.end])
    if (window.strides == 1).all() and around.min() >= 0:
        # Two to three times as fast as ConvTranspose, which unfolds its output.
        mirrored, dilations = _mirror(graph, window, weight), window.dilations.tolist()
        return graph.op("Conv", dy, mirrored, group=window.groups, pads=around.tolist(), dilations=dilations)
    unread = np.array(x_shape[2:]) + window.begin + window.end - window.reach(np.array(dy.shape[2:]))
    return graph.op(
        "ConvTranspose",
        dy,
        weight,
        group=window.groups,
        strides=window.strides.tolist(),
        dilations=window.dilations.tolist(),
        pads=[*window.begin.tolist(), *window.end.tolist()],
        output_padding=unread.tolist(),
    )


def weight_gradients(graph: GraphBuilder, window: Window, dy: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Each example's dW [B, *weight.shape]."""
    if weight.shape[1] == 1:
        return _depthwise_weight_gradients(graph, window, dy, x, weight)
    batch, columns = x.shape[0], weight.size // weight.shape[0]  # input channels of a group times kernel positions
    rows = _flat(graph, dy)
    positions = rows.shape[2]
    rows = reshape(graph, rows, (batch, window.groups, dy.shape[1] // window.groups, positions))
    unfolded = x if window.is_pointwise() else _unfold(graph, window, x, dy.shape[2:])
    unfolded = reshape(graph, unfolded, (batch, window.groups, columns, positions))
    product = graph.op("MatMul", rows, graph.op("Transpose", unfolded, perm=[0, 1, 3, 2]))
    return reshape(graph, product, (batch, *weight.shape))


def _depthwise_weight_gradients(graph: GraphBuilder, window: Window, dy: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """One convolution, a group for each example and channel: dY is the kernel, stride and dilation change places."""
    batch, channels, *size = x.shape
    end = window.reach(np.array(dy.shape[2:])) - window.begin - np.array(size)
    unread = np.maximum(-end, 0)  # positions behind the last output, where the stride does not divide
    if unread.any():
        axes = graph.constant(np.arange(2, len(x.shape)))
        x = graph.op("Slice", x, graph.constant(0 * unread), graph.constant(np.array(size) - unread), axes)
    product = graph.op(
        "Conv",
        reshape(graph, x, (1, batch * channels, *x.shape[2:])),
        reshape(graph, dy, (batch * dy.shape[1], 1, *dy.shape[2:])),
        group=batch * channels,
        strides=window.dilations.tolist(),
        dilations=window.strides.tolist(),
        pads=[*window.begin.tolist(), *np.maximum(end, 0).tolist()],
    )
    return reshape(graph, product, (batch, *weight.shape))


def _mirror(graph: GraphBuilder, window: Window, weight: Tensor) -> Tensor:
    """The kernel backwards on every axis, inputs and outputs of each group exchanged."""
    outputs, inputs, *kernel = weight.shape
    per_group = outputs // window.groups
    turned = reshape(graph, weight, (window.groups, per_group, inputs, *kernel))
    if per_group > 1 and inputs > 1:
        turned = graph.op("Transpose", turned, perm=[0, 2, 1, *range(3, len(turned.shape))])
    turned = reshape(graph, turned, (window.groups * inputs, per_group, *kernel))
    axes = np.array([i for i in range(2, len(turned.shape)) if turned.shape[i] > 1], np.int64)
    if not len(axes):
        return turned
    ends = graph.constant(np.full(len(axes), _BEFORE_THE_FIRST))
    back = graph.constant(np.full(len(axes), -1))
    return graph.op("Slice", turned, back, ends, graph.constant(axes), back)


def _unfold(graph: GraphBuilder, window: Window, x: Tensor, out: tuple[int, ...]) -> Tensor:
    """[B, channels, kernel positions, output positions]: one strided slice a kernel position."""
    rank = len(out)
    if window.begin.any() or window.end.any():
        both = np.concatenate([np.zeros(2, np.int64), window.begin, np.zeros(2, np.int64), window.end])
        x = graph.op("Pad", x, graph.constant(both))
    axes, steps = graph.constant(np.arange(2, 2 + rank)), graph.constant(window.strides)
    slices = []
    for position in np.ndindex(*window.kernel):
        start = np.array(position) * window.dilations
        end = start + window.strides * (np.array(out) - 1) + 1
        cut = _flat(graph, graph.op("Slice", x, graph.constant(start), graph.constant(end), axes, steps))
        slices.append(reshape(graph, cut, (*cut.shape[:2], 1, cut.shape[2])))
    return graph.op("Concat", *slices, axis=2) if len(slices) > 1 else slices[0]


def _flat(graph: GraphBuilder, tensor: Tensor) -> Tensor:
    """[B, channels, ...] as [B, channels, positions]."""
    return reshape(graph, tensor, (*tensor.shape[:2], prod(tensor.shape[2:])))
