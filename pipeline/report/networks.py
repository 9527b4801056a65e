"""A network as blocks to draw and as a few words to list."""

from dataclasses import dataclass
from itertools import groupby

from pipeline.report.formats import TIMES, shape
from search.architecture import Architecture, Stage
from search.layers import Layer, layers_of

_WIDTH, _TITLE_HEIGHT, _ROW_HEIGHT, _PADDING, _GAP = 500, 24, 19, 10, 46
_FIRST_TOP = 78  # below the box of the input
_HEAD = ("pool", "flatten", "classifier")
_OPERATIONS = {
    "group_norm": "group norm",
    "relu": "ReLU",
    "hard_swish": "hard-swish",
    "add": "add",
    "global_average": "global average",
    "flatten": "flatten",
}


@dataclass(frozen=True)
class Step:
    """Layers that are drawn in one line: a convolution with its normalisation and activation, or a layer alone."""

    text: str
    num_parameters: int


@dataclass(frozen=True)
class Block:
    """One box of the picture.

    Attributes:
        output_shape: Of one example.
        top, height: Where it is drawn.
    """

    title: str
    steps: tuple[Step, ...]
    output_shape: tuple[int, ...]
    num_parameters: int
    has_skip: bool
    top: int
    height: int


@dataclass(frozen=True)
class Picture:
    """A network from input to output.

    Attributes:
        width, height: Of the drawing.
        layers: One by one, for the table.
    """

    architecture: Architecture
    blocks: tuple[Block, ...]
    layers: tuple[Layer, ...]
    width: int
    height: int

    @property
    def num_parameters(self) -> int:
        """Of all layers."""
        return sum(layer.num_parameters() for layer in self.layers)

    @property
    def multiply_accumulates(self) -> int:
        """Of one example's forward pass."""
        return sum(layer.multiply_accumulates() for layer in self.layers)


def picture_of(architecture: Architecture) -> Picture:
    """Lay a network out, one block under the other."""
    layers, blocks, top = layers_of(architecture), [], _FIRST_TOP
    for name, group in groupby(layers, _block_name):
        block = _block(_title(name, architecture), tuple(group), top)
        blocks.append(block)
        top += block.height + _GAP
    return Picture(architecture, tuple(blocks), layers, _WIDTH, top)


def network_in_words(architecture: Architecture) -> str:
    """As in `stem 16 (5x5) → inverted 8 x2 (3x3, stride 2, expansion 2) → flatten; group norm, ReLU`."""
    stem = architecture.stem
    words = [f"stem {stem.width} ({_window(stem.kernel, stem.stride)})", *map(_stage_in_words, architecture.stages)]
    words.append(architecture.head.replace("_", " "))
    normalization = "group norm, " if architecture.normalization == "group" else ""
    return f"{' → '.join(words)}; {normalization}{_OPERATIONS[architecture.activation]}"


def operation_of(layer: Layer) -> str:
    """What a layer does, in words."""
    if layer.kind == "linear":
        return f"linear {layer.input_shape[0]} → {layer.output_shape[0]}"
    if layer.kind != "conv":
        return _OPERATIONS[layer.kind]
    is_depthwise = layer.groups == layer.input_shape[0] > 1
    kind = "depthwise" if is_depthwise else f"{layer.input_shape[0]} → {layer.output_shape[0]}"
    return f"conv {_window(layer.kernel, layer.stride)}, {kind}"


def _window(kernel: int, stride: int) -> str:
    return shape((kernel, kernel)) + (f", stride {stride}" if stride > 1 else "")


def _stage_in_words(stage: Stage) -> str:
    depth = f" {TIMES}{stage.depth}" if stage.depth > 1 else ""
    expansion = f", expansion {stage.expansion}" if stage.expansion > 1 else ""
    return f"{stage.kind} {stage.width}{depth} ({_window(stage.kernel, stage.stride)}{expansion})"


def _block_name(layer: Layer) -> str:
    parts = layer.name.split(".")
    return ".".join(parts[:3]) if parts[0] == "stages" else "head" if parts[0] in _HEAD else parts[0]


def _title(name: str, architecture: Architecture) -> str:
    if not name.startswith("stages."):
        return name
    _, stage, block = name.split(".")
    return f"stage {int(stage) + 1}, block {int(block) + 1}: {architecture.stages[int(stage)].kind}"


def _block(title: str, layers: tuple[Layer, ...], top: int) -> Block:
    rows: list[list[Layer]] = []
    for layer in layers:
        if layer.kind in ("group_norm", "relu", "hard_swish") and rows:
            rows[-1].append(layer)
        elif layer.kind != "add":  # drawn as the line around the block
            rows.append([layer])
    steps = tuple(Step(" · ".join(map(operation_of, row)), sum(one.num_parameters() for one in row)) for row in rows)
    return Block(
        title,
        steps,
        layers[-1].output_shape,
        sum(layer.num_parameters() for layer in layers),
        any(layer.kind == "add" for layer in layers),
        top,
        _TITLE_HEIGHT + _ROW_HEIGHT * len(steps) + _PADDING,
    )
