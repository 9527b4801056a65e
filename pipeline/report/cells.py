"""The cells of a network as pictures: what reads what, and by which operation.

A wiring diagram with a line of its own for each edge, so that no names meet: nodes step down from left to right, what
a node puts out goes down beside it, and each edge leaves there to the right, through its operation, into its node.
"""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from pipeline.report.formats import TIMES
from pipeline.report.networks import edge_in_words, operation_in_words, source_in_words
from pipeline.report.plots import INK, MUTED, PANEL, PAPER, SERIES, Plot, draw_figure
from pipeline.run_result import RunResult
from search.architecture import Cell, Edge, Stage

# Inches.
_BOX, _OPERATION, _ROW, _HEIGHT = 0.68, 1.12, 0.42, 0.28
_BUS, _WIRE, _MARGIN = 0.16, 0.18, 0.08
_STEP = _BUS + _WIRE + _OPERATION + _WIRE + _BOX


@dataclass(frozen=True)
class Box:
    """A rectangle with a name, by its centre; inches from the top left."""

    name: str
    x: float
    y: float
    width: float
    height: float = _HEIGHT


@dataclass(frozen=True)
class Wire:
    """A line through points; inches from the top left."""

    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Layout:
    """Where everything of a cell is drawn.

    Attributes:
        ends: Inputs, nodes and output.
        operations: One an edge.
        dots: Where a wire leaves another.
        width, height: Of the drawing.
    """

    ends: tuple[Box, ...]
    operations: tuple[Box, ...]
    wires: tuple[Wire, ...]
    dots: tuple[tuple[float, float], ...]
    width: float
    height: float


@dataclass(frozen=True)
class CellPicture:
    """A stage's cell, with words above it."""

    title: str
    plot: Plot


def cells_of(result: RunResult) -> dict[int, tuple[CellPicture, ...]]:
    """The cells of each model's network, by its trial; none for networks without."""
    pictures = {}
    for model in result.models:
        stages = enumerate(result.trial(model.trial).candidate.architecture.stages)
        drawn = tuple(_picture(model.trial, i, stage, stage.cell) for i, stage in stages if stage.cell is not None)
        if drawn:
            pictures[model.trial] = drawn
    return pictures


def lay_out(cell: Cell) -> Layout:
    """Place inputs left, nodes in their order and the output right."""
    rows = [len(edges) for edges in cell.nodes]
    first = [sum(rows[:i]) for i in range(len(rows))]
    height = _ROW * max(2, sum(rows))
    centres = [_y(row) + _ROW * (count - 1) / 2 for row, count in zip(first, rows, strict=True)]
    left = _MARGIN + _BOX + _BUS  # of the first node's part
    node_x = [left + _STEP * (i + 1) - _BOX / 2 for i in range(len(rows))]
    inputs = [Box(source_in_words(i), _MARGIN + _BOX / 2, _y(i), _BOX) for i in (0, 1)]
    nodes = [
        Box(source_in_words(2 + i), x, y, _BOX, _HEIGHT + _ROW * (count - 1))
        for i, (x, y, count) in enumerate(zip(node_x, centres, rows, strict=True))
    ]
    sources = [*inputs, *nodes]
    # Where each source goes down: the inputs apart from each other, a node right after itself.
    lines_x = [left, left + _BUS, *(x + _BOX / 2 + _BUS for x in node_x)]
    operations, wires, dots = [], [], []
    ends: dict[int, list[float]] = {source: [] for source in range(len(sources))}
    for i, edges in enumerate(cell.nodes):
        for j, edge in enumerate(edges):
            x, y = node_x[i] - _BOX / 2 - _WIRE - _OPERATION / 2, _y(first[i] + j)
            operations.append(Box(_done(edge), x, y, _OPERATION))
            wires.append(Wire(((lines_x[edge.source], y), (node_x[i] - _BOX / 2, y))))
            dots.append((lines_x[edge.source], y))
            ends[edge.source].append(y)
    right = node_x[-1] + _BOX / 2 + 2 * _BUS + _WIRE
    output = Box("output", right + _BOX / 2, height / 2 + _MARGIN, _BOX, height - _ROW + _HEIGHT)
    wires += [Wire(((x + _BOX / 2, y), (right, y))) for x, y in zip(node_x, centres, strict=True)]
    for source, (box, x) in enumerate(zip(sources, lines_x, strict=True)):
        reached = [box.y, *ends[source]]
        if len(reached) > 1:
            stub = Wire(((box.x + box.width / 2, box.y), (x, box.y)))
            wires += [stub, Wire(((x, min(reached)), (x, max(reached))))]
            dots += [(x, box.y)] if source > 1 else []
    return Layout(
        (*inputs, *nodes, output),
        tuple(operations),
        tuple(wires),
        tuple(dots),
        right + _BOX + _MARGIN,
        height + 2 * _MARGIN,
    )


def _y(row: int) -> float:
    return _MARGIN + _ROW * (row + 0.5)


def _done(edge: Edge) -> str:
    mixed = f"{len(edge.operations)} operations"
    return operation_in_words(edge.operations[0]) if len(edge.operations) == 1 else mixed


def _picture(trial: int, stage: int, settings: Stage, cell: Cell) -> CellPicture:
    layout = lay_out(cell)

    def draw(figure: Figure) -> None:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, layout.width)
        axes.set_ylim(layout.height, 0)
        _draw(axes, layout)

    nodes = "; ".join(
        f"node {i}: {' + '.join(map(edge_in_words, edges))}" for i, edges in enumerate(cell.nodes, start=1)
    )
    alt = f"The cell of stage {stage + 1} as a graph: {nodes}; the output is all nodes' channels."
    stride = f", stride {settings.stride}" if settings.stride > 1 else ""
    depth = f", {settings.depth} {TIMES}" if settings.depth > 1 else ""
    drawn = draw_figure(f"cell{trial}x{stage}", draw, (layout.width, layout.height))
    title = f"Stage {stage + 1}: {settings.width} channels a node{stride}{depth}"
    return CellPicture(title, Plot(drawn, alt, layout.width))


def _draw(axes: Axes, layout: Layout) -> None:
    # Lines that go down have an edge of paper, so that what they cross is seen to pass below.
    ordered = sorted(layout.wires, key=lambda wire: wire.points[0][0] == wire.points[1][0])
    for wire in ordered:
        (x, y), (end_x, end_y) = wire.points
        if x == end_x:
            axes.plot((x, end_x), (y, end_y), color=PAPER, linewidth=4.5, solid_capstyle="butt")
        axes.plot((x, end_x), (y, end_y), color=MUTED, linewidth=1.3, solid_capstyle="round")
    for x, y in layout.dots:
        axes.plot(x, y, "o", color=MUTED, markersize=3.6)
    for boxes, face, edge in ((layout.ends, PANEL, MUTED), (layout.operations, PAPER, SERIES)):
        for box in boxes:
            _draw_box(axes, box, face, edge)


def _draw_box(axes: Axes, box: Box, face: str, edge: str) -> None:
    corner = box.x - box.width / 2, box.y - box.height / 2
    style = "round,pad=0,rounding_size=0.06"
    axes.add_patch(
        FancyBboxPatch(corner, box.width, box.height, style, facecolor=face, edgecolor=edge, linewidth=1, zorder=3)
    )
    axes.text(box.x, box.y, box.name, ha="center", va="center", fontsize=9, color=INK, zorder=4)
