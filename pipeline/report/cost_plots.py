"""Pictures of what the run cost its clients."""

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes

from pipeline.report.costs import CostRow, Costs, Course
from pipeline.report.formats import percent, significant
from pipeline.report.plots import INK, LIMIT, MARK, MUTED, SERIES, Plot, draw_svg, percent_axis, whole_axis
from pipeline.report.savings import Saving

_COLOURS = {  # of (phase, stage), with how strong
    ("search", "training"): (SERIES, 0.9),
    ("search", "pretraining"): (SERIES, 0.9),
    ("search", "continued"): (SERIES, 0.55),
    ("search", "scoring"): (SERIES, 0.25),
    ("final", ""): (MARK, 0.85),
    ("test", ""): (LIMIT, 0.85),
}
_SHARES: dict[str, Callable[[CostRow], float]] = {
    "client-rounds": lambda row: row.client_rounds,
    "evaluations": lambda row: row.evaluations,
    "client-seconds": lambda row: row.client_seconds or 0.0,
    "bytes up": lambda row: row.bytes_up,
    "bytes down": lambda row: row.bytes_down,
}


def draw_stages(costs: Costs) -> Plot | None:
    """Shares of each phase and stage in every measure, stacked; None where nothing was counted."""
    measures = [(name, of_row) for name, of_row in _SHARES.items() if of_row(costs.total)]
    if not measures:
        return None

    def draw(axes: Axes) -> None:
        ends = [0.0] * len(measures)
        for row in costs.stages:
            widths = [of_row(row) / of_row(costs.total) for _, of_row in measures]
            colour, alpha = _COLOURS.get((row.name, row.stage), (MUTED, 0.5))
            axes.barh(
                range(len(measures)), widths, left=ends, height=0.66, color=colour, alpha=alpha, label=name_of(row)
            )
            ends = [end + width for end, width in zip(ends, widths, strict=True)]
        axes.set_yticks(range(len(measures)), [name for name, _ in measures])
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
        axes.grid(visible=False, axis="y")
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
    names = [saving.without.partition(":")[0] for saving in savings]
    labels = [f"without {name}" if name else "as it was" for name in names]
    seconds = [saving.client_seconds for saving in savings]

    def draw(axes: Axes) -> None:
        bars = axes.barh(labels, seconds, height=0.66, color=[MARK, *[MUTED] * (len(seconds) - 1)], linewidth=0)
        axes.bar_label(bars, [f"{saving.times:.3g}x" for saving in savings], padding=4, color=INK, fontsize=9)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("client-seconds of the search")

    told = ", ".join(f"{label} {significant(value)}" for label, value in zip(labels, seconds, strict=True))
    return Plot(draw_svg("savings", draw, 0.8 + 0.36 * len(seconds)), f"Client-seconds of the search: {told}.")


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


def name_of(row: CostRow) -> str:
    """A phase with its stage, as in `search, scoring`."""
    return f"{row.name}, {row.stage}" if row.stage else row.name
