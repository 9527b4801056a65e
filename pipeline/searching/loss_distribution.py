"""Epsilon of a schedule fixed beforehand, by privacy loss distributions or Renyi orders, and only to read.

"Numerical Composition of Differential Privacy", arXiv:2106.02848, in Opacus' implementation. It holds for what is fixed
before the run; a filter that stops while spending is proven for one Renyi order (`device_runtime.accounting`). Both
are upper bounds, and which is smaller depends on the schedule: distributions where a release tells much, Renyi orders
where so little that the distributions' own error counts (rate 1, noise multiplier 50: 0.069 and 0.066).
"""

import warnings
from collections import Counter
from collections.abc import Iterable

import numpy as np
from opacus.accountants import PRVAccountant

from device_runtime.accounting import Release, epsilon_of_schedule


def epsilon_of_fixed_schedule(releases: Iterable[Release], delta: float) -> float:
    """An upper bound on the epsilon of the split that spends most: the smaller of the two, split by split.

    At most about 0.02 above the exact one.

    Raises:
        ValueError: A release without noise: its epsilon is infinite, and no distribution says so.
    """
    by_split: dict[str, list[Release]] = {}
    of_clients: list[Release] = []
    for release in releases:
        if release.noise_multiplier == 0:
            raise ValueError("noise_multiplier must be > 0 in a schedule whose loss distribution is asked for, got 0")
        (of_clients if release.unit == "client" else by_split.setdefault(release.split, [])).append(release)
    totals = [own + of_clients for own in by_split.values()] or [of_clients]  # a client's counts for every split
    return max((min(_epsilon(own, delta), epsilon_of_schedule(own, delta)) for own in totals if own), default=0.0)


def _epsilon(releases: Iterable[Release], delta: float) -> float:
    counts = Counter[tuple[float, float]]()
    for release in releases:
        counts[release.noise_multiplier, release.sample_rate] += release.num_steps
    accountant = PRVAccountant()
    accountant.history = [(noise, rate, count) for (noise, rate), count in counts.items()]
    with np.errstate(divide="ignore"), warnings.catch_warnings():  # log(1 - rate) of everybody: Opacus masks it later
        # Of the range that it searches, not of what it returns.
        warnings.filterwarnings("ignore", "Optimal order is the", UserWarning)
        return float(accountant.get_epsilon(delta))
