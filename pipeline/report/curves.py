"""Learning curves: exact accuracies round by round, which only the emulator knows."""

from dataclasses import dataclass

from matplotlib.axes import Axes

from pipeline.report.formats import percent
from pipeline.report.plots import MARK, MUTED, SERIES, Plot, draw_svg, percent_axis, whole_axis
from pipeline.run_result import CurvePoint, RunResult

_FEW = 20  # up to so many rounds and curves, each round has a dot
_FAINT = 0.6


@dataclass(frozen=True)
class Curve:
    """Accuracies after each round of one training."""

    phase: str
    trial: int
    points: tuple[CurvePoint, ...]


def curves_of(result: RunResult) -> tuple[Curve, ...]:
    """All curves, in the order of the run, each by round."""
    points: dict[tuple[str, int], list[CurvePoint]] = {}
    for point in result.curves:
        points.setdefault((point.phase, point.trial), []).append(point)
    return tuple(Curve(*key, tuple(sorted(ones, key=lambda one: one.round))) for key, ones in points.items())


def draw_search(curves: tuple[Curve, ...], winner: int) -> Plot | None:
    """Every trial's curve, the winner's on top; None where there is none."""
    trials = [curve for curve in curves if curve.phase == "search"]
    if not trials:
        return None
    others = [curve for curve in trials if curve.trial != winner]
    winning = [curve for curve in trials if curve.trial == winner]

    def draw(axes: Axes) -> None:
        for curve in others:
            _plot(axes, curve, MUTED, 0.9, min(0.7, max(0.15, _FAINT * _FEW / len(others))))
        for curve in winning:
            _plot(axes, curve, MARK, 2.2)
        _finish(axes)

    told = f" The winner, trial {winner}, {_course(winning[0])}." if winning else ""
    return Plot(draw_svg("searchcurves", draw), f"Accuracy by round of {len(trials)} trials of the search.{told}")


def draw_final(curves: tuple[Curve, ...]) -> Plot | None:
    """The winner's curve after the search; None where there is none."""
    final = [curve for curve in curves if curve.phase == "final"]
    if not final:
        return None

    def draw(axes: Axes) -> None:
        for curve in final:
            _plot(axes, curve, SERIES, 2.0)
        _finish(axes)

    return Plot(draw_svg("finalcurve", draw), f"Accuracy by round of the winner's final training: {_course(final[0])}.")


def _plot(axes: Axes, curve: Curve, colour: str, width: float, alpha: float = 1.0) -> None:
    x, y = [point.round for point in curve.points], [point.accuracy for point in curve.points]
    marker = "o" if len(x) <= _FEW and alpha >= _FAINT else ""
    axes.plot(x, y, color=colour, linewidth=width, alpha=alpha, marker=marker, markersize=2 + width)


def _finish(axes: Axes) -> None:
    whole_axis(axes)
    percent_axis(axes)
    axes.set_xlabel("round")
    axes.set_ylabel("accuracy, emulator only")


def _course(curve: Curve) -> str:
    first, last = curve.points[0], curve.points[-1]
    start, end = f"{percent(first.accuracy)} after round {first.round}", f"{percent(last.accuracy)} after {last.round}"
    return f"goes from {start} to {end}"
