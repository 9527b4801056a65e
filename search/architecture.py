"""The Architecture record: a stem, stages of blocks, a head; plain data that names a network and nothing measured."""

from dataclasses import dataclass
from typing import Literal

Activation = Literal["relu", "hard_swish"]
Normalization = Literal["none", "group"]
BlockKind = Literal["depthwise", "inverted"]
HeadKind = Literal["flatten", "global_average"]


@dataclass(frozen=True)
class Stem:
    """The first convolution.

    Attributes:
        width: Output channels.
        kernel: Odd side of the square kernel, pixels.
        stride: Pixels between positions.
    """

    width: int
    kernel: int = 3
    stride: int = 1

    def __post_init__(self) -> None:
        _check_convolution(self.width, self.kernel, self.stride)


@dataclass(frozen=True)
class Stage:
    """`depth` blocks of one kind; the first takes the stride, the rest keep the shape and have a skip if inverted.

    Attributes:
        kind: `depthwise` (depthwise then pointwise) or `inverted` (expand, depthwise, project; MobileNetV2).
        width: Output channels of every block.
        expansion: Channels inside an inverted block per input channel; 1 for `depthwise`.
    """

    kind: BlockKind
    width: int
    depth: int = 1
    kernel: int = 3
    stride: int = 1
    expansion: int = 1

    def __post_init__(self) -> None:
        _check_convolution(self.width, self.kernel, self.stride)
        if self.depth < 1:
            raise ValueError(f"depth must be >= 1, got {self.depth}; leave the stage out for none")
        if self.expansion < 1 or (self.kind == "depthwise" and self.expansion != 1):
            raise ValueError(f"expansion must be 1 for depthwise and >= 1 for inverted blocks, got {self.expansion}")


@dataclass(frozen=True)
class Architecture:
    """A network for images, channels first.

    Attributes:
        input_shape: (channels, height, width) of one example.
        num_classes: Outputs of the last linear layer.
        head: `flatten` keeps positions, `global_average` averages them; a linear layer follows either.
    """

    input_shape: tuple[int, int, int]
    num_classes: int
    stem: Stem
    stages: tuple[Stage, ...] = ()
    head: HeadKind = "flatten"
    normalization: Normalization = "none"
    activation: Activation = "relu"
    schema: int = 1

    def __post_init__(self) -> None:
        if min(self.input_shape) < 1:
            raise ValueError(f"input_shape must be (channels, height, width), all >= 1, got {self.input_shape}")
        if self.num_classes < 2:
            raise ValueError(f"num_classes must be >= 2, got {self.num_classes}")


def _check_convolution(width: int, kernel: int, stride: int) -> None:
    if width < 1:
        raise ValueError(f"width must be >= 1, got {width}")
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel must be odd and >= 1, got {kernel}")
    if stride < 1:
        raise ValueError(f"stride must be >= 1, got {stride}")
