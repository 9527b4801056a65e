"""From raw samples of time to what a profile tells of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10

import numpy as np

MAX_SAMPLES = 64  # that a profile keeps of one kernel or network
_DIGITS = 4  # of a sample
Rounds = Sequence[Sequence[float]]  # milliseconds of one kernel or network, by round


@dataclass(frozen=True)
class TimeSummary:
    """What the samples of one kernel or network say; see `KernelTime`."""

    median_ms: float
    p90_ms: float
    min_ms: float
    spread: float
    repetitions: int
    samples_ms: tuple[float, ...]


def summarize(rounds: Rounds) -> TimeSummary:
    """Summarise all samples of one kernel or network; there must be one at least, and less than nothing is nothing."""
    samples = np.concatenate([np.asarray(samples, np.float64) for samples in rounds]).clip(0)
    low, median, high, p90 = np.percentile(samples, [25, 50, 75, 90])
    return TimeSummary(
        median_ms=_round(median),
        p90_ms=_round(p90),
        min_ms=_round(samples.min()),
        spread=round(float((high - low) / median), 4) if median else 0.0,
        repetitions=len(samples),
        samples_ms=tuple(map(_shorten, keep_evenly(samples.tolist()))),
    )


def keep_evenly(samples: Sequence[float], most: int = MAX_SAMPLES) -> Sequence[float]:
    """At most `most` samples, evenly taken, in order: of all rounds alike."""
    return [samples[i * len(samples) // most] for i in range(most)] if len(samples) > most else samples


def _round(milliseconds: float) -> float:
    return round(float(milliseconds), 6)  # a nanosecond


def _shorten(milliseconds: float) -> float:
    return round(milliseconds, _DIGITS - 1 - floor(log10(milliseconds))) if milliseconds > 0 else 0.0
