"""From samples of time to what a profile tells: medians, spread, and whether the measurement can be relied on."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log

import numpy as np

MAX_SPREAD = 0.25  # distance of the quartiles by the median, of one kernel
MAX_NOISY_SHARE = 0.2  # of the kernels
MAX_DRIFT = 0.10  # between rounds, over all kernels
Rounds = Sequence[Sequence[float]]  # milliseconds of one kernel, by round


@dataclass(frozen=True)
class TimeSummary:
    """What the samples of one kernel say; see `KernelTime`."""

    median_ms: float
    p90_ms: float
    min_ms: float
    spread: float
    repetitions: int


def summarize(rounds: Rounds) -> TimeSummary:
    """Summarise all samples of one kernel; there must be one at least."""
    samples = np.concatenate([np.asarray(samples, np.float64) for samples in rounds])
    low, median, high, p90 = np.percentile(samples, [25, 50, 75, 90])
    return TimeSummary(
        median_ms=_round(median),
        p90_ms=_round(p90),
        min_ms=_round(samples.min()),
        spread=round(float((high - low) / median), 4),
        repetitions=len(samples),
    )


def find_instability(kernels: Sequence[Rounds]) -> tuple[str, ...]:
    """Tell in words why the times of these kernels cannot be relied on; nothing when they can.

    Args:
        kernels: Samples of each kernel, all with the same rounds taken in turns, so that a slow round is slow for all.
    """
    warnings = []
    noisy = sum(summarize(rounds).spread > MAX_SPREAD for rounds in kernels) / len(kernels)
    if noisy > MAX_NOISY_SHARE:
        warnings.append(
            f"unstable: {noisy:.0%} of the kernels spread by more than {MAX_SPREAD:.0%} of their median; "
            "close other programs and measure again"
        )
    drift = _drift(kernels)
    if drift > MAX_DRIFT:
        warnings.append(
            f"unstable: the slowest round took {drift:.0%} longer than the fastest; "
            "let the device cool down, plug it in and measure again"
        )
    return tuple(warnings)


def _drift(kernels: Sequence[Rounds]) -> float:
    """How much longer the slowest round took than the fastest, in the geometric mean over the kernels."""
    medians = np.array([[log(float(np.median(samples))) for samples in rounds] for rounds in kernels])
    by_round = medians.mean(axis=0)
    return exp(float(by_round.max() - by_round.min())) - 1


def _round(milliseconds: float) -> float:
    return round(float(milliseconds), 6)  # a nanosecond
