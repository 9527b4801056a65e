"""Geometry of a convolution, read from its attributes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.compile.builder import Tensor

Sizes = NDArray[np.int64]


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
