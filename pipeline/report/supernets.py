"""Architecture weights of a supernet over the rounds: which operation each edge came to favour."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, groupby
from math import ceil

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.report.formats import percent
from pipeline.report.networks import operation_in_words, source_in_words
from pipeline.report.plots import LINES, MUTED, Line, Plot, draw_figure, percent_axis
from pipeline.run_result import RunResult
from search.architecture import Operation
from search.cells import probabilities

_MOVES_ARCHITECTURE = ("all", "alternate", "architecture")
_PANEL_IN = (2.1, 1.5)
_MOST_POINTS = 60  # of a line: more would be less than three pixels apart, and pages of megabytes


@dataclass(frozen=True)
class MixedEdge:
    """One edge of the supernet.

    Attributes:
        node, source: As in `search.architecture.Edge`.
        probabilities: Of each operation at the start and after each step that moved the architecture weights.
    """

    stage: int
    node: int
    source: int
    probabilities: dict[Operation, tuple[float, ...]]

    @property
    def likeliest(self) -> Operation:
        """At the end, the first of equals."""
        return max(self.probabilities, key=lambda name: self.probabilities[name][-1])


@dataclass(frozen=True)
class Supernet:
    """What the page tells of the architecture weights.

    Attributes:
        key: How each operation is drawn, everywhere alike, by its name in words.
        plots: One a stage, by its number from 1.
        num_steps: That moved the architecture weights.
    """

    key: dict[str, Line]
    plots: dict[int, Plot]
    num_steps: int


def supernet_of(result: RunResult) -> Supernet | None:
    """None of a search that moved no architecture weights."""
    edges = mixed_edges_of(result)
    if not edges:
        return None
    key = lines_of(name for edge in edges for name in edge.probabilities)
    stages = {i: tuple(group) for i, group in groupby(edges, lambda edge: edge.stage)}
    return Supernet(
        {operation_in_words(name): line for name, line in key.items()},
        {i + 1: draw_stage(group, key) for i, group in stages.items()},
        len(next(iter(edges[0].probabilities.values()))) - 1,
    )


def mixed_edges_of(result: RunResult) -> tuple[MixedEdge, ...]:
    """All edges of the supernet that have a choice, in layout order; none where no step moved architecture weights.

    Trials of one step tell the same weights after it, so they make one point; all begin alike, at 0.
    """
    moved = [
        trial
        for trial in result.trials
        if trial.architecture_weights
        and trial.candidate.architecture.is_supernet
        and trial.is_kept
        and trial.moves in _MOVES_ARCHITECTURE
    ]
    if not moved:
        return ()
    supernet = moved[0].candidate.architecture
    weights = [trial.architecture_weights for trial in moved if trial.candidate.architecture == supernet]
    told = [probabilities(supernet, row) for row in ((0.0,) * len(weights[0]), *(row for row, _ in groupby(weights)))]
    return tuple(
        MixedEdge(
            edge.stage,
            edge.node,
            edge.source,
            {name: tuple(step[i].operations[name] for step in told) for name in edge.operations},
        )
        for i, edge in enumerate(told[0])
        if len(edge.operations) > 1
    )


def lines_of(operations: Iterator[Operation]) -> dict[Operation, Line]:
    """How each operation is drawn; `none` is pale."""
    found, numbers = list(dict.fromkeys(operations)), count()
    return {name: Line(MUTED, ":") if name == "none" else LINES[next(numbers) % len(LINES)] for name in found}


def draw_stage(edges: Sequence[MixedEdge], key: dict[Operation, Line]) -> Plot:
    """The panels of a stage's edges: a row a node, a column a source."""
    nodes, sources = sorted({edge.node for edge in edges}), sorted({edge.source for edge in edges})
    every = [value for edge in edges for values in edge.probabilities.values() for value in values]
    margin = 0.06 * (max(every) - min(every)) or 0.01

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(nodes), len(sources), sharex=True, sharey=True, squeeze=False)
        for panel in panels.flat:
            panel.set_visible(False)
        for edge in edges:
            panel = panels[nodes.index(edge.node)][sources.index(edge.source)]
            panel.set_visible(True)
            _draw_edge(panel, edge, key)
            panel.set_ylim(min(every) - margin, max(every) + margin)
            panel.tick_params(labelleft=edge.source == sources[0], labelbottom=edge.node == nodes[-1])
        figure.supxlabel("steps of the architecture weights", fontsize=10)

    width, height = _PANEL_IN
    size = (width * len(sources) + 0.6, height * len(nodes) + 0.4)
    told = "; ".join(
        f"{_place(edge)} {operation_in_words(edge.likeliest)} with {percent(edge.probabilities[edge.likeliest][-1])}"
        for edge in edges
    )
    alt = f"Probability of each operation over the rounds, a panel an edge; the likeliest at the end: {told}."
    return Plot(draw_figure(f"alpha{edges[0].stage}", draw, size), alt, size[0])


def _draw_edge(axes: Axes, edge: MixedEdge, key: dict[Operation, Line]) -> None:
    axes.patch.set_visible(False)
    num_steps = len(next(iter(edge.probabilities.values()))) - 1
    every = ceil(num_steps / _MOST_POINTS)
    x = [*range(0, num_steps, every), num_steps]
    for name, values in edge.probabilities.items():
        line = key[name]
        axes.plot(x, [values[i] for i in x], line.style, color=line.colour, linewidth=1.4)
    axes.set_xlim(0, 1.1 * num_steps)  # the last number stays clear of the next panel
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    percent_axis(axes)
    axes.set_title(_place(edge), fontsize=10)


def _place(edge: MixedEdge) -> str:
    return f"node {edge.node + 1} from {source_in_words(edge.source)}"
