"""Learning curves: exact accuracies round by round, which only the emulator knows."""

from collections import Counter
from dataclasses import dataclass
from itertools import cycle

from matplotlib.axes import Axes

from pipeline.report.formats import percent
from pipeline.report.plots import INK, MARK, MUTED, SERIES, Plot, draw_svg, percent_axis, whole_axis
from pipeline.run_result import CurvePoint, RunResult

_FEW = 20  # up to so many rounds and curves, each round has a dot
_FAINT = 0.6


@dataclass(frozen=True)
class Curve:
    """Accuracies after each round of one training.

    Attributes:
        rounds_before: That the weights were trained by the trials which they come from.
    """

    phase: str
    trial: int
    points: tuple[CurvePoint, ...]
    rounds_before: int = 0

    @property
    def rounds(self) -> list[int]:
        """That the weights were trained at each point."""
        return [self.rounds_before + point.round for point in self.points]


def curves_of(result: RunResult) -> tuple[Curve, ...]:
    """All curves, in the order of the run, each by round."""
    points: dict[tuple[str, int], list[CurvePoint]] = {}
    for point in result.curves:
        points.setdefault((point.phase, point.trial), []).append(point)
    trained = _rounds_trained(result)
    known = {trial.index: trial for trial in result.trials}
    fresh = {model.trial for model in result.models if model.is_fresh}

    def before(phase: str, trial: int) -> int:
        if phase == "final" and trial in fresh:
            return 0
        own = known[trial].rounds if phase == "search" and trial in known else 0
        return trained.get(trial, 0) - own

    return tuple(
        Curve(*key, tuple(sorted(ones, key=lambda one: one.round)), before(*key)) for key, ones in points.items()
    )


def _rounds_trained(result: RunResult) -> dict[int, int]:
    """Rounds that each trial's weights have behind them, those of the trials that it starts from included."""
    trained: dict[int, int] = {}
    for trial in sorted(result.trials, key=lambda trial: trial.index):
        inherited = 0 if trial.start_from is None else trained.get(trial.start_from, 0)
        trained[trial.index] = inherited + trial.rounds
    return trained


def has_course(curves: tuple[Curve, ...]) -> bool:
    """Whether any trial of the search has two points, or starts where another ended; else there is a line of dots."""
    return len({number for curve in curves if curve.phase == "search" for number in curve.rounds}) > 1


def draw_search(curves: tuple[Curve, ...], winners: tuple[int, ...]) -> Plot | None:
    """Every trial's curve, the winners' on top; None where there is none."""
    trials = [curve for curve in curves if curve.phase == "search"]
    if not trials:
        return None
    others = [curve for curve in trials if curve.trial not in winners]
    winning = [curve for curve in trials if curve.trial in winners]
    most = 0.7 if len(others) <= _FEW else 0.55  # so many dots would hide the lines
    crowd = max(Counter(number for curve in others for number in curve.rounds).values(), default=1)

    def draw(axes: Axes) -> None:
        for curve in others:
            _plot(axes, curve, MUTED, 0.9, min(most, max(0.15, _FAINT * _FEW / crowd)))
        for curve in winning:
            _plot(axes, curve, MARK, 2.2)
        _finish(axes)

    name = "The winner, trial {}," if len(winners) == 1 else "Trial {}, which became a model,"
    told = "".join(f" {name.format(curve.trial)} {_course(curve)}." for curve in winning)
    return Plot(draw_svg("searchcurves", draw), f"Accuracy by round of {len(trials)} trials of the search.{told}")


def draw_final(curves: tuple[Curve, ...]) -> Plot | None:
    """Each model's curve after the search; None where there is none."""
    final = [curve for curve in curves if curve.phase == "final"]
    if not final:
        return None

    def draw(axes: Axes) -> None:
        for curve, style in final_lines(curves):
            _plot(axes, curve, SERIES, 2.0, style=style)
        _finish(axes)
        if len(final) > 1:
            axes.legend([f"trial {curve.trial}" for curve in final], loc="lower right", labelcolor=INK, framealpha=0.0)

    courses = "; ".join((f"trial {c.trial} " if len(final) > 1 else "") + _course(c) for c in final)
    whose = "the winner's final training" if len(final) == 1 else f"the final training of {len(final)} models"
    return Plot(draw_svg("finalcurve", draw), f"Accuracy by round of {whose}: {courses}.")


def final_lines(curves: tuple[Curve, ...]) -> list[tuple[Curve, str]]:
    """The curves after the search, each with the style of its line, as of matplotlib."""
    return list(zip((c for c in curves if c.phase == "final"), cycle(("-", "--", "-.", ":")), strict=False))


def _plot(  # noqa: PLR0913, PLR0917  (what a line looks like)
    axes: Axes, curve: Curve, colour: str, width: float, alpha: float = 1.0, style: str = "-"
) -> None:
    x, y = curve.rounds, [point.accuracy for point in curve.points]
    marker = "o" if len(x) == 1 or (len(x) <= _FEW and alpha >= _FAINT) else ""  # a single point has no line
    axes.plot(x, y, style, color=colour, linewidth=width, alpha=alpha, marker=marker, markersize=2 + width)


def _finish(axes: Axes) -> None:
    whole_axis(axes)
    percent_axis(axes)
    axes.set_xlabel("rounds that the weights were trained")
    axes.set_ylabel("accuracy, emulator only")


def _course(curve: Curve) -> str:
    first, last, rounds = curve.points[0], curve.points[-1], curve.rounds
    start, end = f"{percent(first.accuracy)} after round {rounds[0]}", f"{percent(last.accuracy)} after {rounds[-1]}"
    return f"goes from {start} to {end}"
