"""Accuracy against predicted latency, one picture a device class, with the front, the winners and the limit."""

from collections.abc import Iterable
from dataclasses import dataclass

from matplotlib.axes import Axes

from pipeline.report.formats import percent, significant
from pipeline.report.plots import INK, LIMIT, MARK, MUTED, SERIES, Plot, draw_svg, percent_axis, spread_axis
from pipeline.run_result import RunResult, TrialResult
from search.budget import DEFAULT
from search.pareto import pareto_front

_CLASSES = ("entry", "mid", "high", "flagship", "desktop")
_MANY = 60
_FAR = 4.0  # a limit this many times the largest latency would squeeze the points: an arrow points to it


@dataclass(frozen=True)
class Front:
    """The scored candidates of a run on one class of devices.

    Attributes:
        profiles: Of the class, in the run.
        limit_ms: Of latency; None for no limit.
        latency_ms: By trial, on the slowest of the profiles: a limit holds for each of them.
        accuracy: By trial.
        trials: Those on the front, fastest first.
        winners: The trials whose models devices of the class get, scored ones only.
    """

    device_class: str
    profiles: tuple[str, ...]
    limit_ms: float | None
    latency_ms: dict[int, float]
    accuracy: dict[int, float]
    trials: tuple[int, ...]
    winners: tuple[int, ...]


def fronts_of(result: RunResult) -> tuple[Front, ...]:
    """One front a device class of the run, the smallest devices first; none where nothing was predicted."""
    scored = [trial for trial in result.trials if not trial.failed]
    return tuple(_front(result, scored, name) for name in classes_of(scored))


def classes_of(trials: Iterable[TrialResult]) -> tuple[str, ...]:
    """The classes of devices that anything was predicted for, the smallest devices first."""
    found = {cost.device_class for trial in trials for cost in trial.costs}
    known = [name for name in _CLASSES if name in found]
    return (*known, *sorted(found.difference(known)))


def slowest_ms(trial: TrialResult, device_class: str) -> float | None:
    """Predicted latency of a candidate on the slowest profile of a class; None where nothing was predicted."""
    return max((cost.latency_ms for cost in trial.costs if cost.device_class == device_class), default=None)


def draw_front(front: Front, name: str) -> Plot:
    """The picture of a front."""
    names = [f"The winner, trial {i}," if len(front.winners) == 1 else f"The model of trial {i}" for i in front.winners]
    won = "".join(
        f" {name} has {percent(front.accuracy[i])} at {significant(front.latency_ms[i])} ms."
        for name, i in zip(names, front.winners, strict=True)
    )
    limit = "" if front.limit_ms is None else f" The limit is {front.limit_ms:g} ms."
    alt = (
        f"Accuracy against predicted latency of {len(front.accuracy)} candidates on devices of class "
        f"{front.device_class}; {len(front.trials)} on the Pareto front.{won}{limit}"
    )
    return Plot(draw_svg(name, lambda axes: _draw(axes, front)), alt)


def _front(result: RunResult, scored: list[TrialResult], device_class: str) -> Front:
    slowest = [(trial, slowest_ms(trial, device_class)) for trial in scored]
    latency_ms = {trial.index: value for trial, value in slowest if value is not None}
    trials = [trial for trial in scored if trial.index in latency_ms]
    profiles = sorted({cost.profile for t in trials for cost in t.costs if cost.device_class == device_class})
    limits = result.budgets.get(device_class, result.budgets.get(DEFAULT, {}))
    on_front = pareto_front([(latency_ms[trial.index], trial.accuracy) for trial in trials])
    return Front(
        device_class,
        tuple(profiles),
        limits.get("latency_ms"),
        latency_ms,
        {trial.index: trial.accuracy for trial in trials},
        tuple(trials[i].index for i in on_front),
        _winners(result, profiles, latency_ms),
    )


def _winners(result: RunResult, profiles: list[str], drawn: dict[int, float]) -> tuple[int, ...]:
    return tuple(m.trial for m in result.models if m.trial in drawn and not set(profiles).isdisjoint(m.platforms))


def _draw(axes: Axes, front: Front) -> None:
    x, y = list(front.latency_ms.values()), list(front.accuracy.values())
    is_many = len(x) > _MANY
    axes.scatter(x, y, s=12 if is_many else 26, c=MUTED, alpha=0.45 if is_many else 0.8, linewidths=0)
    front_x = [front.latency_ms[i] for i in front.trials]
    front_y = [front.accuracy[i] for i in front.trials]
    # A step: at every latency, the best accuracy that is to be had within it.
    axes.plot(front_x, front_y, color=SERIES, drawstyle="steps-post", linewidth=1.6)
    axes.scatter(front_x, front_y, s=30, c=SERIES, marker="s", linewidths=0, zorder=3)
    won_x, won_y = ([of[i] for i in front.winners] for of in (front.latency_ms, front.accuracy))
    axes.scatter(won_x, won_y, s=150, c=MARK, marker="*", linewidths=0.6, edgecolors=INK, zorder=4)
    axes.margins(0.08)
    spread_axis(axes, min(x), _draw_limit(axes, front.limit_ms, max(x)))
    percent_axis(axes)
    axes.set_xlabel("predicted latency, ms")
    axes.set_ylabel("validation accuracy")


def _draw_limit(axes: Axes, limit_ms: float | None, largest_ms: float) -> float:
    """Draw the limit; the latency at the right end of the picture."""
    if limit_ms is None:
        return largest_ms
    if limit_ms > _FAR * largest_ms:
        told = f"limit {limit_ms:g} ms, to the right →"
        axes.annotate(told, (0.99, 0.04), xycoords="axes fraction", horizontalalignment="right", color=LIMIT)
        return largest_ms
    axes.axvline(limit_ms, color=LIMIT, linestyle="--", linewidth=1.4)
    return max(limit_ms, largest_ms)
