"""Epsilon of a schedule fixed beforehand, from privacy loss distributions: tighter than Renyi orders, and only to read.

"Numerical Composition of Differential Privacy", arXiv:2106.02848, in Opacus' implementation. It holds for what is fixed
before the run; a filter that stops while spending is proven for one Renyi order (`device_runtime.accounting`).
"""

from collections import Counter
from collections.abc import Iterable

import numpy as np
from opacus.accountants import PRVAccountant

from device_runtime.accounting import Release


def epsilon_of_fixed_schedule(releases: Iterable[Release], delta: float) -> float:
    """An upper bound on the epsilon of the split that spends most, at most about 0.02 above the exact one.

    Raises:
        ValueError: A release without noise: its epsilon is infinite, and no distribution says so.
    """
    steps: dict[str, Counter[tuple[float, float]]] = {}
    for release in releases:
        if release.noise_multiplier == 0:
            raise ValueError("noise_multiplier must be > 0 in a schedule whose loss distribution is asked for, got 0")
        rates = release.noise_multiplier, release.sample_rate
        steps.setdefault(release.split, Counter())[rates] += release.num_steps
    return max((_epsilon(counts, delta) for counts in steps.values()), default=0.0)


def _epsilon(counts: Counter[tuple[float, float]], delta: float) -> float:
    accountant = PRVAccountant()
    accountant.history = [(noise, rate, count) for (noise, rate), count in counts.items()]
    with np.errstate(divide="ignore"):  # log(1 - rate) of everybody, which Opacus masks afterwards
        return float(accountant.get_epsilon(delta))
