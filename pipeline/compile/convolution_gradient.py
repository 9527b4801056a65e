"""Convolutions and their gradients by their input, in the form that plain ONNX Runtime computes fastest.

Which form is chosen where was measured: docs/decisions/0008.
"""

from math import prod
from typing import Any

import numpy as np

from pipeline.compile.banded import band, by_channel, is_banded
from pipeline.compile.builder import GraphBuilder, Tensor
from pipeline.compile.values import reshape
from pipeline.compile.window import Window, window_of

_FEW_POSITIONS = 256
_NARROW = 3  # rows for each column; twice as fast at 25 rows of 5, no gain at squares
_BEFORE_THE_FIRST = np.iinfo(np.int64).min  # where a backward Slice ends


def convolve(graph: GraphBuilder, x: Tensor, weight: Tensor, *bias: Tensor, **attributes: Any) -> Tensor:
    """ONNX's Conv; a depthwise one over narrow rows with its two axes exchanged, since it copies row by row.

    One over few positions is a matrix for each channel.
    """
    if not bias and attributes.keys() >= {"pads", "strides", "dilations", "group"}:
        window, inputs = window_of(attributes, weight), np.array(x.shape[2:])
        outputs = (inputs + window.begin + window.end - window.span - 1) // window.strides + 1
        if is_banded(weight, window.groups, inputs, outputs):
            product = by_channel(graph, _flat(graph, x), band(graph, window, weight, inputs, outputs))
            return reshape(graph, product, (*x.shape[:2], *outputs.tolist()))
    is_depthwise = len(x.shape) == 4 and weight.shape[1] == 1 < attributes.get("group", 1)
    if not is_depthwise or x.shape[2] < _NARROW * x.shape[3]:
        return graph.op("Conv", x, weight, *bias, **attributes)
    for name in ("kernel_shape", "strides", "dilations"):
        if name in attributes:
            attributes[name] = attributes[name][::-1]
    if "pads" in attributes:
        top, left, bottom, right = attributes["pads"]
        attributes["pads"] = [left, top, right, bottom]
    x, weight = (graph.op("Transpose", tensor, perm=[0, 1, 3, 2]) for tensor in (x, weight))
    return graph.op("Transpose", graph.op("Conv", x, weight, *bias, **attributes), perm=[0, 1, 3, 2])


def input_gradient(graph: GraphBuilder, window: Window, dy: Tensor, weight: Tensor, x_shape: tuple[int, ...]) -> Tensor:
    """dX [B, channels, ...] of dY: a product, a convolution with the mirrored kernel, or a transposed convolution."""
    if window.is_pointwise():
        matrix = graph.op("Transpose", reshape(graph, weight, weight.shape[:2]), perm=[1, 0])
        return reshape(graph, graph.op("MatMul", matrix, _flat(graph, dy)), x_shape)
    inputs, outputs = np.array(x_shape[2:]), np.array(dy.shape[2:])
    if is_banded(weight, window.groups, inputs, outputs):
        matrices = graph.op("Transpose", band(graph, window, weight, inputs, outputs), perm=[0, 2, 1])
        return reshape(graph, by_channel(graph, _flat(graph, dy), matrices), x_shape)
    around = np.concatenate([window.span - window.begin, window.span - window.end])
    if (window.strides == 1).all() and around.min() >= 0 and _mirroring_pays(window, weight, x_shape):
        mirrored, dilations = _mirror(graph, window, weight), window.dilations.tolist()
        return convolve(graph, dy, mirrored, group=window.groups, pads=around.tolist(), dilations=dilations)
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


def _mirroring_pays(window: Window, weight: Tensor, x_shape: tuple[int, ...]) -> bool:
    """Whether Conv is faster than ConvTranspose: measured between 0.3 and 2 times, docs/decisions/0008.

    Conv writes k values of dY for each position of x before its product, ConvTranspose k values of x for each position
    of dY after its own; on few positions Conv's product is the less efficient one.
    """
    outputs, inputs = weight.shape[0] // window.groups, weight.shape[1]
    return inputs == 1 < window.groups or outputs * _FEW_POSITIONS <= inputs * prod(x_shape[2:])


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


def _flat(graph: GraphBuilder, tensor: Tensor) -> Tensor:
    """[B, channels, ...] as [B, channels, positions]."""
    return reshape(graph, tensor, (*tensor.shape[:2], prod(tensor.shape[2:])))
