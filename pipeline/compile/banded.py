"""Depthwise convolutions over few positions as products with a matrix for each channel.

Unfolding copies each row of each channel by itself, which costs more than the product it is for: at 4x4 positions the
matrices take a quarter of its time. Which sizes gain was measured: docs/decisions/0008.
"""

from math import prod

import numpy as np
from onnx import TensorProto

from pipeline.compile.builder import GraphBuilder, Tensor
from pipeline.compile.values import reshape
from pipeline.compile.window import Sizes, Window

_LARGEST = 1024  # inputs times outputs of a channel


def is_banded(weight: Tensor, groups: int, inputs: Sizes, outputs: Sizes) -> bool:
    """Whether a layer is depthwise, and so small that matrices are faster."""
    return weight.shape[1] == 1 and weight.shape[0] == groups > 1 and prod(inputs) * prod(outputs) <= _LARGEST


def band(graph: GraphBuilder, window: Window, weight: Tensor, inputs: Sizes, outputs: Sizes) -> Tensor:
    """The matrices [channels, positions of x, positions of y] of a weight [channels, 1, *kernel]."""
    pattern = np.zeros((*inputs, *outputs, *window.kernel), np.bool_)
    for output in np.ndindex(*outputs):
        for position in np.ndindex(*window.kernel):
            place = np.array(output) * window.strides - window.begin + np.array(position) * window.dilations
            if (place >= 0).all() and (place < inputs).all():
                pattern[(*place, *output, *position)] = True
    size = prod(window.kernel.tolist())
    rows = reshape(graph, weight, (weight.shape[0], size))
    places = graph.op("Cast", graph.constant(pattern.reshape(-1, size).T), to=TensorProto.FLOAT)
    matrices = graph.op("MatMul", rows, places)
    return reshape(graph, matrices, (weight.shape[0], prod(inputs), prod(outputs)))


def by_channel(graph: GraphBuilder, x: Tensor, matrices: Tensor) -> Tensor:
    """x [B, channels, n] times each channel's matrix [channels, n, m], [B, channels, m]."""
    turned = graph.op("Transpose", x, perm=[1, 0, 2])
    return graph.op("Transpose", graph.op("MatMul", turned, matrices), perm=[1, 0, 2])
