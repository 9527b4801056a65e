"""Pictures of what the run cost its clients."""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.costs import CostRow, Costs, Course
from pipeline.report.formats import percent, significant, size
from pipeline.report.plots import (
    INK,
    LIGHT,
    LIMIT,
    MARK,
    MUTED,
    PAPER,
    SERIES,
    Plot,
    draw_svg,
    percent_axis,
    whole_axis,
    write_picture,
)
from pipeline.report.savings import Saving

_COLOURS = {  # of (phase, stage), with how strong
    ("search", "training"): (SERIES, 0.9),
    ("search", "pretraining"): (SERIES, 0.9),
    ("search", "continued"): (SERIES, 0.55),
    ("search", "scoring"): (SERIES, 0.25),
    ("final", ""): (MARK, 0.85),
    ("test", ""): (LIMIT, 0.85),
}
_Measure = tuple[str, Callable[[CostRow], float]]
_SHARES: dict[str, Callable[[CostRow], float]] = {
    "client-rounds": lambda row: row.client_rounds,
    "evaluations": lambda row: row.evaluations,
    "client-seconds": lambda row: row.client_seconds or 0.0,
    "bytes up": lambda row: row.bytes_up,
    "bytes down": lambda row: row.bytes_down,
}


def draw_stages(costs: Costs) -> Plot | None:
    """Shares of each phase and stage in every measure, stacked; None where nothing was counted."""
    measures = _counted(costs)
    if not measures:
        return None

    def draw(axes: Axes) -> None:
        _stack_stages(axes, costs, measures, str)
        axes.figure.legend(loc="outside upper left", ncols=3, frameon=False, labelcolor=INK, fontsize=9)

    told = dict(measures)
    name = "client-seconds" if "client-seconds" in told else measures[0][0]
    parts = (f"{name_of(row)} {percent(told[name](row) / told[name](costs.total))}" for row in costs.stages)
    alt = f"Shares of the clients' cost by phase, stacked; of {name}: {', '.join(parts)}."
    return Plot(draw_svg("stagecosts", draw, 2.6), alt)


def draw_trials(costs: Costs) -> Plot | None:
    """Client-seconds of each trial; None where there is one trial or none, or where nobody knows them."""
    seconds = [row.client_seconds for row in costs.trials if row.client_seconds is not None]
    if len(seconds) < 2:
        return None
    x = [int(row.name) for row in costs.trials]
    colours = [MARK if row.is_winner else MUTED for row in costs.trials]

    def draw(axes: Axes) -> None:
        axes.bar(x, seconds, width=0.8, color=colours, linewidth=0)
        whole_axis(axes)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("trial")
        axes.set_ylabel("client-seconds")

    alt = (
        f"Client-seconds of {len(x)} trials of the search: from {significant(min(seconds))} to "
        f"{significant(max(seconds))}, {significant(sum(seconds))} together."
    )
    return Plot(draw_svg("trialcosts", draw, 2.1), alt)


def draw_savings(savings: Sequence[Saving]) -> Plot | None:
    """Client-seconds of the search as it was and without each optimisation; None where none saved any."""
    if not savings:
        return None
    told = ", ".join(f"{_label(saving)} {significant(saving.client_seconds)}" for saving in savings)
    svg = draw_svg("savings", lambda axes: _draw_savings(axes, savings, str), 0.8 + 0.36 * len(savings))
    return Plot(svg, f"Client-seconds of the search: {told}.")


def write_cost_picture(file: Path, name: str, costs: Costs, savings: Sequence[Saving]) -> None:
    """Write shares of each phase and, where an optimisation saved anything, what the search would have cost without.

    Args:
        file: Ends in .svg or .png.
        name: Of the run.
    """
    heights = [1.3 + 0.34 * len(_counted(costs)), *([1.0 + 0.36 * len(savings)] if savings else [])]

    def draw(figure: Figure) -> None:
        titles = f"{name}: what its clients paid, by phase", "What the search would have cost without each optimisation"
        parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        for part, title in zip(parts, titles, strict=False):
            part.suptitle(title, x=0.01, ha="left", fontsize=11)
        _draw_totals(parts[0].add_subplot(), costs)
        parts[0].legend(loc="outside lower left", ncols=3, frameon=False, fontsize=9)
        if savings:
            _draw_savings(parts[1].add_subplot(), savings, LIGHT.__getitem__)

    file.parent.mkdir(parents=True, exist_ok=True)
    write_picture(file, draw, (6.4, sum(heights)))


def draw_course(course: Course) -> Plot | None:
    """Client-seconds of the search so far against the best accuracy so far; None of fewer than two accuracies."""
    if len(course.points) < 2:
        return None
    x, y = [point.client_seconds for point in course.points], [point.accuracy for point in course.points]
    best = [max(y[: i + 1]) for i in range(len(y))]
    what = "accuracy, emulator only" if course.is_exact else "accuracy (validation)"

    def draw(axes: Axes) -> None:
        axes.scatter(x, y, s=14, c=MUTED, alpha=0.6, linewidths=0)
        axes.plot(x, best, color=SERIES, drawstyle="steps-post", linewidth=1.8)
        axes.set_xlim(left=0)
        percent_axis(axes)
        axes.set_xlabel("client-seconds of the search so far")
        axes.set_ylabel(what)

    first, last = (f"{percent(best[i])} after {significant(x[i])}" for i in (0, -1))
    alt = f"Cost against accuracy of {len(x)} trials: the best {what}, goes from {first} client-seconds to {last}."
    return Plot(draw_svg("course", draw), alt)


def _counted(costs: Costs) -> list[_Measure]:
    return [(name, of_row) for name, of_row in _SHARES.items() if of_row(costs.total)]


def _draw_totals(axes: Axes, costs: Costs) -> None:
    """As the page's picture; each measure with its total, which stands in a table there."""
    measures = _counted(costs)
    axes.barh(range(len(measures)), 1.0, height=0.66, color=LIGHT[PAPER])  # no grid shines through
    _stack_stages(axes, costs, measures, LIGHT.__getitem__)
    labels = [f"{name}: {_total(name, of_row(costs.total))}" for name, of_row in measures]
    axes.set_yticks(range(len(measures)), labels)


def _total(name: str, value: float) -> str:
    if name.startswith("bytes"):
        return size(value)
    return significant(value) if name == "client-seconds" else f"{value:,}"


def _stack_stages(axes: Axes, costs: Costs, measures: Sequence[_Measure], paint: Callable[[str], str]) -> None:
    ends = [0.0] * len(measures)
    for row in costs.stages:
        widths = [of_row(row) / of_row(costs.total) for _, of_row in measures]
        colour, alpha = _COLOURS.get((row.name, row.stage), (MUTED, 0.5))
        places, label = range(len(measures)), name_of(row)
        axes.barh(places, widths, left=ends, height=0.66, color=paint(colour), alpha=alpha, label=label)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    axes.set_yticks(range(len(measures)), [name for name, _ in measures])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    axes.grid(visible=False, axis="y")


def _draw_savings(axes: Axes, savings: Sequence[Saving], paint: Callable[[str], str]) -> None:
    colours = [paint(MARK), *[paint(MUTED)] * (len(savings) - 1)]
    seconds = [saving.client_seconds for saving in savings]
    bars = axes.barh([_label(saving) for saving in savings], seconds, height=0.66, color=colours, linewidth=0)
    axes.bar_label(bars, [f"{saving.times:.3g}x" for saving in savings], padding=4, color=paint(INK), fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("client-seconds of the search")


def _label(saving: Saving) -> str:
    name = saving.without.partition(":")[0]
    return f"without {name}" if name else "as it was"


def name_of(row: CostRow) -> str:
    """A phase with its stage, as in `search, scoring`."""
    return f"{row.name}, {row.stage}" if row.stage else row.name
