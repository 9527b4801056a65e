"""A network as blocks to draw and as a few words to list."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from pipeline.report.formats import TIMES, shape
from search.architecture import Architecture, Cell, Edge, Operation, Stage
from search.layers import Layer, layers_of

_WIDTH, _TITLE_HEIGHT, _ROW_HEIGHT, _PADDING, _GAP = 500, 24, 19, 10, 46
_FIRST_TOP = 78  # below the box of the input
_HEAD = ("pool", "flatten", "classifier")
_OPERATIONS = {
    "group_norm": "group norm",
    "relu": "ReLU",
    "hard_swish": "hard-swish",
    "identity": "skip",
    "add": "add",
    "concat": "all channels",
    "global_average": "global average",
    "flatten": "flatten",
}


@dataclass(frozen=True)
class Step:
    """Layers in one line: a convolution with its normalisation and activation, an edge of a cell, or a layer alone."""

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
        return _num_parameters(self.layers)

    @property
    def multiply_accumulates(self) -> int:
        """Of one example's forward pass."""
        return sum(layer.multiply_accumulates() for layer in self.layers)


def picture_of(architecture: Architecture) -> Picture:
    """Lay a network out, one block under the other."""
    layers, blocks, top = layers_of(architecture), [], _FIRST_TOP
    for name, group in groupby(layers, _block_name):
        block = _block(_title(name, architecture), _cell_of(name, architecture), tuple(group), top)
        blocks.append(block)
        top += block.height + _GAP
    return Picture(architecture, tuple(blocks), layers, _WIDTH, top)


def network_in_words(architecture: Architecture) -> str:
    """As in `stem 16 (5x5) → inverted 8 x2 (3x3, stride 2, expansion 2) → flatten; group norm, ReLU`.

    And a stage of cells as in `cell 8 (stride 2; node 1: skip of input 1 + conv 3x3 of input 2)`.
    """
    stem = architecture.stem
    words = [f"stem {stem.width} ({_window(stem.kernel, stem.stride)})", *map(_stage_in_words, architecture.stages)]
    words.append(architecture.head.replace("_", " "))
    normalization = "group norm, " if architecture.normalization == "group" else ""
    return f"{' → '.join(words)}; {normalization}{_OPERATIONS[architecture.activation]}"


def operation_of(layer: Layer) -> str:
    """What a layer does, in words."""
    if layer.kind == "linear":
        return f"linear {layer.input_shape[0]} → {layer.output_shape[0]}"
    if layer.kind in ("max_pool", "average_pool"):
        return f"{layer.kind.replace('_', ' ')} {_window(layer.kernel, layer.stride)}"
    if layer.kind in ("choice", "mix"):
        return f"{layer.kind} of {len(layer.operations)} operations"
    if layer.kind != "conv":
        return _OPERATIONS[layer.kind]
    is_depthwise = layer.groups == layer.input_shape[0] > 1
    kind = "depthwise" if is_depthwise else f"{layer.input_shape[0]} → {layer.output_shape[0]}"
    dilation = f", dilation {layer.dilation}" if layer.dilation > 1 else ""
    return f"conv {_window(layer.kernel, layer.stride)}{dilation}, {kind}"


def edge_in_words(edge: Edge) -> str:
    """As in `separable 3x3 of input 2`; nodes, and the two blocks that a cell reads, are counted from 1."""
    num_operations = len(edge.operations)
    done = operation_in_words(edge.operations[0]) if num_operations == 1 else f"{num_operations} operations"
    return f"{done} of {source_in_words(edge.source)}"


def source_in_words(source: int) -> str:
    """What an edge of a cell reads, counted from 1."""
    return f"input {source + 1}" if source < 2 else f"node {source - 1}"


def operation_in_words(operation: Operation) -> str:
    """What an edge of a cell does."""
    kind, _, kernel = operation.rpartition("_")
    return f"{kind} {shape((int(kernel),) * 2)}" if kernel.isdigit() else operation.replace("_", " ")


def _window(kernel: int, stride: int) -> str:
    return shape((kernel, kernel)) + (f", stride {stride}" if stride > 1 else "")


def _stage_in_words(stage: Stage) -> str:
    depth = f" {TIMES}{stage.depth}" if stage.depth > 1 else ""
    if stage.cell is not None:
        stride = f"stride {stage.stride}; " if stage.stride > 1 else ""
        return f"cell {stage.width}{depth} ({stride}{_cell_in_words(stage.cell)})"
    expansion = f", expansion {stage.expansion}" if stage.expansion > 1 else ""
    return f"{stage.kind} {stage.width}{depth} ({_window(stage.kernel, stage.stride)}{expansion})"


def _cell_in_words(cell: Cell) -> str:
    sums = (" + ".join(map(edge_in_words, edges)) for edges in cell.nodes)
    return "; ".join(f"node {node}: {summed}" for node, summed in enumerate(sums, start=1))


def _block_name(layer: Layer) -> str:
    parts = layer.name.split(".")
    if layer.kind == "choice":
        parts[2] = "0"  # drawn in the first cell of its stage
    return ".".join(parts[:3]) if parts[0] == "stages" else "head" if parts[0] in _HEAD else parts[0]


def _title(name: str, architecture: Architecture) -> str:
    if not name.startswith("stages."):
        return name
    _, stage, block = name.split(".")
    return f"stage {int(stage) + 1}, block {int(block) + 1}: {architecture.stages[int(stage)].kind}"


def _cell_of(name: str, architecture: Architecture) -> Cell | None:
    return architecture.stages[int(name.split(".")[1])].cell if name.startswith("stages.") else None


def _block(title: str, cell: Cell | None, layers: tuple[Layer, ...], top: int) -> Block:
    steps = _steps(layers) if cell is None else _cell_steps(cell, layers)
    return Block(
        title,
        steps,
        layers[-1].output_shape,
        _num_parameters(layers),
        cell is None and any(layer.kind == "add" for layer in layers),
        top,
        _TITLE_HEIGHT + _ROW_HEIGHT * len(steps) + _PADDING,
    )


def _steps(layers: tuple[Layer, ...]) -> tuple[Step, ...]:
    rows: list[list[Layer]] = []
    for layer in layers:
        if layer.kind in ("group_norm", "relu", "hard_swish") and rows:
            rows[-1].append(layer)
        elif layer.kind != "add":  # drawn as the line around the block
            rows.append([layer])
    return tuple(Step(_in_a_row(row), _num_parameters(row)) for row in rows)


def _cell_steps(cell: Cell, layers: tuple[Layer, ...]) -> tuple[Step, ...]:
    """A line for a supernet's choices, for each input, and for each edge with all its layers."""
    parts: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        parts["choices" if layer.kind == "choice" else ".".join(layer.name.split(".")[3:5])].append(layer)
    choices = "architecture weights, for all cells of the stage"
    inputs = {f"inputs.{i}": f"input {i + 1}: {_in_a_row(parts[f'inputs.{i}'])}" for i in (0, 1)}
    edges = {
        f"edges.{node}-{edge.source}": f"node {node + 1}: {edge_in_words(edge)}"
        for node, edges in enumerate(cell.nodes)
        for edge in edges
    }
    told = {"choices": choices, **inputs, **edges}
    return tuple(Step(text, _num_parameters(parts[name])) for name, text in told.items() if parts[name])


def _in_a_row(layers: list[Layer]) -> str:
    return " · ".join(map(operation_of, layers))


def _num_parameters(layers: Iterable[Layer]) -> int:
    return sum(layer.num_parameters() for layer in layers)
