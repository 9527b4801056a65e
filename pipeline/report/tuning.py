"""How a search came to favour some configurations of hyper-parameters, and what these are."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from pipeline.report.candidates import varying
from pipeline.report.formats import percent
from pipeline.report.plots import INK, LINES, MUTED, Plot, draw_svg, percent_axis
from pipeline.run_result import RunResult
from search.algorithm import TuningHistory
from search.algorithms.configurations import without_architecture

_NUM_NAMED = len(LINES)
_MOST_TICKS = 8


@dataclass(frozen=True)
class TunedRow:
    """One configuration of the table.

    Attributes:
        name: Its number, as in the plot.
        probability: At the end.
        values: Of the hyper-parameters that are told, in words.
        is_main: Whether the main model was found with it.
    """

    name: str
    probability: float
    values: tuple[str, ...]
    is_main: bool


@dataclass(frozen=True)
class Tuning:
    """What the page tells of the configurations.

    Attributes:
        measure: What the search moved: a configuration's `probability`, or its `share in the mean`.
        names: Hyper-parameters that configurations differ in, those of a supernet only where one was trained.
        rows: The ten that ended as the most probable, that one first; of equals who was more probable before.
        most: Largest probability in the table, for its bars.
    """

    plot: Plot
    measure: str
    names: tuple[str, ...]
    rows: tuple[TunedRow, ...]
    num_configurations: int
    most: float


def tuning_of(result: RunResult) -> Tuning | None:
    """None of a search that drew no configurations to choose among."""
    history = result.tuning
    if history is None or not history.configurations:
        return None
    has_supernet = any(trial.candidate.architecture.is_supernet for trial in result.trials)
    names = [
        name for name in varying(history.configurations) if has_supernet or not name.startswith("architecture_")
    ] or ["learning_rate"]
    measure = "share in the mean" if any(trial.merged for trial in result.trials) else "probability"
    main = without_architecture(result.winning.candidate.hyper_parameters)
    rows = []
    for i in ranked_at_the_end(history)[:_NUM_NAMED]:
        one = history.configurations[i]
        values = tuple(_value(getattr(one, name)) for name in names)
        rows.append(TunedRow(str(i), history.probabilities[-1][i], values, without_architecture(one) == main))
    heads = tuple(name.replace("_", " ") for name in names)
    most = max(row.probability for row in rows)
    return Tuning(draw_tuning(history, measure), measure, heads, tuple(rows), len(history.configurations), most)


def ranked_at_the_end(history: TuningHistory) -> list[int]:
    """All configurations, the most probable at the end first."""
    columns = list(zip(*history.probabilities, strict=True))
    return sorted(range(len(columns)), key=lambda i: (*(-p for p in reversed(columns[i])), i))


def ever_most_probable(history: TuningHistory) -> list[int]:
    """The ten configurations with the largest probability that they ever had, that one first."""
    columns = list(zip(*history.probabilities, strict=True))
    place = {i: rank for rank, i in enumerate(ranked_at_the_end(history))}
    return sorted(range(len(columns)), key=lambda i: (-max(columns[i]), place[i]))[:_NUM_NAMED]


def draw_tuning(history: TuningHistory, measure: str) -> Plot:
    """The probability of each configuration over the rounds; ten have names, the others are thin and pale."""
    columns = list(zip(*history.probabilities, strict=True))
    named = ever_most_probable(history)
    marker = "o" if len(history.labels) <= 12 else ""

    def draw(axes: Axes) -> None:
        x = range(len(history.labels))
        for i in set(range(len(columns))).difference(named):
            axes.plot(x, columns[i], color=MUTED, linewidth=0.6, alpha=0.35)
        for i, line in zip(named, LINES, strict=False):
            axes.plot(
                x, columns[i], line.style, color=line.colour, linewidth=1.6, marker=marker, markersize=3, label=str(i)
            )
        every = -(-(len(x) - 1) // _MOST_TICKS) or 1
        ticks = [*x[:-1:every], x[-1]] if len(x) > 1 else list(x)
        if len(ticks) > 2 and ticks[-1] - ticks[-2] < every:  # the last one needs the place
            del ticks[-2]
        axes.set_xticks(ticks, [_short(history.labels, i) for i in ticks])
        axes.set_ylim(bottom=0)
        percent_axis(axes)
        axes.set_xlabel(_what(history.labels))
        axes.set_ylabel(measure)
        axes.figure.legend(
            loc="outside right upper", title="configuration", frameon=False, labelcolor=INK, fontsize=9
        ).get_title().set_fontsize(9)

    last = history.probabilities[-1]
    told = ", ".join(f"{i} with {percent(last[i])}" for i in ranked_at_the_end(history)[:3])
    alt = (
        f"{measure.capitalize()} of each of {len(columns)} configurations at {len(history.labels)} moments, from "
        f"{history.labels[0]} to {history.labels[-1]}; at the end the largest are {told}."
    )
    return Plot(draw_svg("tuning", draw), alt)


def _what(labels: Sequence[str]) -> str:
    """What the moments are, as in `rung` or `round`, for the axis."""
    return next((label.partition(" ")[0] for label in labels if " " in label), "")


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _short(labels: Sequence[str], i: int) -> str:
    return labels[i].rpartition(" ")[2]
