"""What a single measurement does not show: slower work while a device is hot, and the rare slow run.

Heat. A device's heat is one number in [0, 1], from as cool as it gets to as hot as full load makes it, and moves
towards 1 while it works and towards 0 while it rests, each with its own time constant (Newton's law of cooling). As
heat rises past a threshold the governor takes the next lower frequency, so work is slower in plateaus. Published: after
30 minutes of four busy threads phones' latency is 1.1 to 2.25 times what it was at first, in plateaus. Assumed: time
constants of 9 minutes, so that 30 minutes go 96% of the way (a phone's surface passes 50 degrees Celsius within 10
minutes of load: "Fire in Your Hands", MobiCom 2019), and thresholds evenly spread from half of full heat on. That
slower work heats less is left out. One busy core at its highest frequency loses less than 2% of its CoreMark per MHz on
all of freqbench's phones but two, where it loses 4% and 7%: work on one thread should not be called full load.

Tails. The quantiles of single runs over their median, from mlperf-mobile (phones/mlperf-mobile/
mlperf_mobile_latency.csv): the 76 SingleStream runs of 1,000 queries or more on phones, laptops left out. Nearly all of
them ran on accelerators, cooled and with nothing beside; five on a Snapdragon 4 Gen 2 that took up to a second a query
have the same p90 (1.01 to 1.05) and p99 (1.02 to 1.15). Phones in use will be worse: that is what `ROUGH_TAIL` is for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Intervals = Sequence[tuple[float, float]]

TIME_CONSTANT_S = 540.0
SUSTAINED_SLOWDOWNS = (1.1, 2.25)  # the least and the most of what was published
_FIRST_THRESHOLD, _LAST_THRESHOLD = 0.5, 0.95


def _check_rising(name: str, values: Sequence[float]) -> None:
    if any(later <= earlier for earlier, later in pairwise(values)):
        raise ValueError(f"{name} must rise within their limits, got {tuple(values[1:])}")


@dataclass(frozen=True)
class ThermalModel:
    """How a device slows down under load and recovers.

    Attributes:
        heating_s, cooling_s: Time constants; > 0.
        thresholds: Heat, in (0, 1) and rising, from which on each slowdown holds.
        slowdowns: Times as long as cool work; > 1 and rising.
    """

    heating_s: float
    cooling_s: float
    thresholds: tuple[float, ...]
    slowdowns: tuple[float, ...]

    def __post_init__(self) -> None:
        if min(self.heating_s, self.cooling_s) <= 0:
            raise ValueError(f"time constants must be > 0, got {self.heating_s} and {self.cooling_s}")
        _check_rising("thresholds", (0.0, *self.thresholds, 1.0))
        _check_rising("slowdowns", (1.0, *self.slowdowns))
        if len(self.thresholds) != len(self.slowdowns):
            raise ValueError(f"each threshold must have a slowdown, got {self.thresholds} and {self.slowdowns}")


@dataclass(frozen=True)
class TailModel:
    """How long single runs take over their median.

    Attributes:
        probabilities: In (0, 1) and rising, 0.5 among them.
        factors: The quantile at each of them; 1 at 0.5.
    """

    probabilities: tuple[float, ...]
    factors: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_rising("probabilities", (0.0, *self.probabilities, 1.0))
        if len(self.probabilities) != len(self.factors) or list(self.factors) != sorted(self.factors):
            raise ValueError(f"each probability must have a factor, none below the one before, got {self.factors}")
        if dict(zip(self.probabilities, self.factors, strict=True)).get(0.5) != 1 or self.factors[0] <= 0:
            raise ValueError(f"factors must be > 0 and 1 at probability 0.5, got {self.factors}")


# Medians, and 90th percentiles, of each ratio over the 76 runs. A run's extremes are put at one in 10,000 queries: the
# median run has 9,600.
_PROBABILITIES = (1e-4, 0.5, 0.9, 0.95, 0.97, 0.99, 0.999, 1 - 1e-4)
TYPICAL_TAIL = TailModel(_PROBABILITIES, (0.960, 1.0, 1.014, 1.021, 1.026, 1.039, 1.126, 3.16))
ROUGH_TAIL = TailModel(_PROBABILITIES, (0.902, 1.0, 1.032, 1.048, 1.065, 1.126, 1.601, 15.5))


def thermal_model(
    sustained: float, frequencies_mhz: Sequence[float] = (), time_constant_s: float = TIME_CONSTANT_S
) -> ThermalModel:
    """A device that ends `sustained` times as slow under full load without end.

    Args:
        sustained: >= 1; published are 1.1 to 2.25. 1 is a device that never slows down.
        frequencies_mhz: Steps of its big cores, as a `profiles.energy.PowerCurve` has them: the plateaus are at those
            between the highest and the one that is `sustained` times as slow. Empty: one plateau.
    """
    if not 1 <= sustained < float("inf"):
        raise ValueError(f"sustained must be >= 1 and finite, got {sustained}")
    highest = max(frequencies_mhz, default=0.0)
    steps = {highest / mhz for mhz in frequencies_mhz if 1 < highest / mhz < sustained}
    slowdowns = sorted(steps | ({sustained} - {1}))
    thresholds = np.linspace(_FIRST_THRESHOLD, _LAST_THRESHOLD, len(slowdowns))
    return ThermalModel(time_constant_s, time_constant_s, tuple(thresholds.tolist()), tuple(slowdowns))


def draw_sustained(rng: np.random.Generator) -> float:
    """Draw what a device ends at under full load: evenly in ratio between the least and the most that was published."""
    least, most = SUSTAINED_SLOWDOWNS
    return exp(rng.uniform(log(least), log(most)))


def heat(model: ThermalModel, busy_intervals: Intervals, at: Sequence[float] | Array) -> Array:
    """Heat, [len(at)], of a device that was cool at the start of its first interval.

    Args:
        busy_intervals: Start and end in seconds of full load, in order and apart.
        at: Seconds, in any order; an interval counts as far as it lies before.

    Raises:
        ValueError: For intervals that overlap, run backwards or are out of order.
    """
    times = np.asarray(at, np.float64)
    _check_order(busy_intervals)
    found = np.zeros_like(times)
    level, cool_since = 0.0, -np.inf
    for start, end in busy_intervals:
        level = rest(model, level, start - cool_since)
        during, after = np.clip(times, start, end) - start, np.maximum(times - end, 0.0)
        hot = 1 - (1 - level) * np.exp(-during / model.heating_s)
        found = np.where(times >= start, hot * np.exp(-after / model.cooling_s), found)
        level, cool_since = _heated(model, level, end - start), end
    return found


def work_on(model: ThermalModel, level: float, cool_s: float) -> tuple[float, float]:
    """Go through `cool_s` seconds of a cool device's work from a heat on: seconds that it takes, and the heat after.

    The same law as `heat` and `slowdown`, for work whose end is not known before.

    Args:
        level: Heat at its start, in [0, 1].
    """
    taken = 0.0
    for factor, threshold in zip((1.0, *model.slowdowns), model.thresholds, strict=False):
        if level >= threshold:
            continue
        until_s = model.heating_s * log((1 - level) / (1 - threshold))
        if cool_s * factor < until_s:
            return taken + cool_s * factor, _heated(model, level, cool_s * factor)
        taken, cool_s, level = taken + until_s, cool_s - until_s / factor, threshold
    last_s = cool_s * (1.0, *model.slowdowns)[-1]
    return taken + last_s, _heated(model, level, last_s)


def rest(model: ThermalModel, level: float, seconds: float) -> float:
    """The heat that is left of `level` after `seconds` without work."""
    return level * exp(-seconds / model.cooling_s)


def slowdown(model: ThermalModel, busy_intervals: Intervals, at: Sequence[float] | Array) -> Array:
    """How many times as long work takes, [len(at)], after the loads before; 1 for a cool device. As `heat`."""
    passed = np.searchsorted(model.thresholds, heat(model, busy_intervals, at), side="right")
    plateaus: Array = np.array([1.0, *model.slowdowns])
    return plateaus[passed]


def tail_quantile(model: TailModel, probabilities: Sequence[float] | Array) -> Array:
    """Factors over the median at probabilities in (0, 1).

    Between the published quantiles the logarithm of the factor is a straight line over the log-odds; beyond the first
    and the last it stays: nothing published says how much worse it gets.
    """
    wanted = np.asarray(probabilities, np.float64)
    if not ((wanted > 0) & (wanted < 1)).all():
        raise ValueError("probabilities must be in (0, 1)")
    factors: Array = np.exp(
        np.interp(_log_odds(wanted), _log_odds(np.array(model.probabilities)), np.log(model.factors))
    )
    return factors


def draw_tail(model: TailModel, rng: np.random.Generator, n: int) -> Array:
    """Draw how many times its median each of `n` runs takes, [n]; their median is 1."""
    return tail_quantile(model, np.clip(rng.random(n), np.finfo(np.float64).tiny, None))


def _heated(model: ThermalModel, level: float, seconds: float) -> float:
    return 1 - (1 - level) * exp(-seconds / model.heating_s)


def _log_odds(probabilities: Array) -> Array:
    odds: Array = np.log(probabilities) - np.log1p(-probabilities)
    return odds


def _check_order(intervals: Intervals) -> None:
    ends = [-float("inf"), *(end for _, end in intervals)]
    if any(not previous <= start <= end for previous, (start, end) in zip(ends, intervals, strict=False)):
        raise ValueError(
            f"busy_intervals must be in order and apart, each from its start to its end, got {intervals!r}"
        )
