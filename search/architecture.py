"""The Architecture record: a stem, stages of blocks, a head; plain data that names a network and nothing measured."""

from dataclasses import dataclass
from typing import Literal

from profiles.records import later

Activation = Literal["relu", "hard_swish"]
Normalization = Literal["none", "group"]
BlockKind = Literal["depthwise", "inverted", "cell"]
Operation = Literal[
    "none", "skip", "average_pool", "max_pool", "conv_1", "conv_3", "separable_3", "separable_5", "dilated_3"
]
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
class Edge:
    """A way into a node of a cell.

    Attributes:
        source: Where it comes from: 0 and 1 are the outputs of the two cells before (the older first), 2 + i is node i.
        operations: What is done on the way; of several, a mix weighted by the softmax of one architecture weight each
            ("DARTS", arXiv:1806.09055, equation 2). `none` gives zeros and stands in a mix alone.
    """

    source: int
    operations: tuple[Operation, ...]

    def __post_init__(self) -> None:
        if self.source < 0:
            raise ValueError(f"source must be >= 0, got {self.source}")
        if not self.operations or len(set(self.operations)) != len(self.operations):
            raise ValueError(f"operations must name at least one, each once, got {list(self.operations)}")
        if self.operations == ("none",):
            raise ValueError("an edge that is none alone is no edge: leave it out")


@dataclass(frozen=True)
class Cell:
    """A small graph of nodes, each the sum of its edges; its output is all nodes' channels, one after the other.

    Attributes:
        nodes: Edges into each node, by source, which comes before the node.
    """

    nodes: tuple[tuple[Edge, ...], ...]

    def __post_init__(self) -> None:
        if not self.nodes:
            raise ValueError("a cell must have at least one node")
        for i, edges in enumerate(self.nodes):
            sources = [edge.source for edge in edges]
            if not sources or sources != sorted(set(sources)) or sources[-1] >= 2 + i:
                raise ValueError(
                    f"node {i} must have edges from different sources below {2 + i}, in their order, got {sources}"
                )

    @property
    def is_mixed(self) -> bool:
        """Whether any edge keeps several operations, so that there are architecture weights: a supernet's cell."""
        return any(len(edge.operations) > 1 for edges in self.nodes for edge in edges)


@dataclass(frozen=True)
class Stage:
    """`depth` blocks of one kind; the first takes the stride, the rest keep the shape and have a skip if inverted.

    Attributes:
        kind: `depthwise` (depthwise then pointwise), `inverted` (expand, depthwise, project; MobileNetV2) or `cell`
            (arXiv:1806.09055): each block is `cell`, whose architecture weights all of them share.
        width: Output channels of every block; of a cell, those of every node.
        kernel: Of blocks that are no cells; 3 for `cell`.
        expansion: Channels inside an inverted block per input channel; 1 for the others.
        cell: None but for kind `cell`.
    """

    kind: BlockKind
    width: int
    depth: int = 1
    kernel: int = 3
    stride: int = 1
    expansion: int = 1
    cell: Cell | None = later(None)

    def __post_init__(self) -> None:
        _check_convolution(self.width, self.kernel, self.stride)
        if (self.kind == "cell") != (self.cell is not None):
            raise ValueError(f"a stage of kind 'cell' and no other must have a cell, got {self.kind!r}: {self.cell}")
        if self.kind == "cell" and self.kernel != 3:
            raise ValueError(f"operations say a cell's kernels: leave kernel out, got {self.kernel}")
        if self.depth < 1:
            raise ValueError(f"depth must be >= 1, got {self.depth}; leave the stage out for none")
        if self.expansion < 1 or (self.kind != "inverted" and self.expansion != 1):
            raise ValueError(f"expansion must be >= 1 for inverted blocks and 1 for others, got {self.expansion}")


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

    @property
    def is_supernet(self) -> bool:
        """Whether it has architecture weights: a choice that keeps several options."""
        return any(stage.cell is not None and stage.cell.is_mixed for stage in self.stages)


def _check_convolution(width: int, kernel: int, stride: int) -> None:
    if width < 1:
        raise ValueError(f"width must be >= 1, got {width}")
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel must be odd and >= 1, got {kernel}")
    if stride < 1:
        raise ValueError(f"stride must be >= 1, got {stride}")
