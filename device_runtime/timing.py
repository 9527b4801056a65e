"""Whether times can be relied on: how steady whole graphs were over the rounds of a measurement."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

import numpy as np

from profiles.samples import Rounds, summarize
from profiles.sessions import Grade

MAX_SPREAD = 0.25  # distance of the quartiles by the median, of one graph
# Grades with the most drift and the largest share of noisy graphs that they allow.
_LIMITS: tuple[tuple[Grade, float, float], ...] = (("A", 0.02, 0.05), ("B", 0.05, 0.10), ("C", 0.10, 0.20))


@dataclass(frozen=True)
class Stability:
    """How steady the whole graphs were.

    Attributes:
        drift: How much longer the slowest round took than the fastest, in the geometric mean over the graphs: a share.
        noisy: Share of the graphs whose times spread by more than a quarter of their median.
    """

    drift: float
    noisy: float

    @property
    def grade(self) -> Grade:
        """The best one whose limits both keep."""
        for grade, max_drift, max_noisy in _LIMITS:
            if self.drift <= max_drift and self.noisy <= max_noisy:
                return grade
        return "unstable"


def judge(graphs: Sequence[Rounds]) -> Stability:
    """How steady these graphs were.

    Args:
        graphs: Samples of each graph, one or more, over rounds that visited all in turns, so that a slow round is slow
            for all. A last round may be incomplete.
    """
    noisy = sum(summarize(rounds).spread > MAX_SPREAD for rounds in graphs) / len(graphs)
    num_rounds = min(map(len, graphs))
    medians = np.log([[np.median(samples) for samples in rounds[:num_rounds]] for rounds in graphs])
    by_round = medians.mean(axis=0)
    return Stability(drift=round(exp(float(by_round.max() - by_round.min())) - 1, 4), noisy=round(noisy, 4))


def warnings_of(stability: Stability) -> tuple[str, ...]:
    """Why times cannot be relied on, in words, with the cure; nothing when they can."""
    _, max_drift, max_noisy = _LIMITS[-1]
    warnings = []
    if stability.noisy > max_noisy:
        warnings.append(
            f"unstable: {stability.noisy:.0%} of the graphs spread by more than {MAX_SPREAD:.0%} of their median; "
            "close other programs and measure again"
        )
    if stability.drift > max_drift:
        warnings.append(
            f"unstable: the slowest round took {stability.drift:.0%} longer than the fastest; "
            "let the device cool down, plug it in and measure again"
        )
    return tuple(warnings)
