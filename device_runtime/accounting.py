"""Renyi differential privacy of what leaves a phone: releases, their sums, and a filter that stops before a budget.

The unit is one example, or one client with all its examples; neighbours are zero-out (a record replaced by a null
record, so counts are public). A release is the Poisson-subsampled Gaussian mechanism ("Renyi Differential Privacy of
the Sampled Gaussian Mechanism", arXiv:1908.10530, integer orders); conversion to (epsilon, delta) is "Hypothesis
Testing Interpretations and Renyi Differential Privacy", arXiv:1905.09982, theorem 21.

Total of a client = maximum over its disjoint splits of the sum over releases, since an example is in one split; what
protects the whole client counts on every split. Total of a run = maximum over clients.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import comb, inf, isfinite, lgamma, log, log1p
from typing import Literal

import numpy as np

from device_runtime.terms import MAX_ORDER, ClientPrivacyTerms, EvaluateTerms, PrivacyTerms, Split, TrainTerms, Unit
from device_runtime.wire import SPLITS
from profiles.records import later

ORDERS = tuple(range(2, MAX_ORDER + 1))
ReleaseKind = Literal["update", "architecture", "reward", "metrics"]
_EXACT_COMB_ORDER = 60


class BudgetExceededError(ValueError):
    """A release would exceed the privacy budget or is of another unit, so it was not made; the message says how."""


@dataclass(frozen=True)
class Release:
    """Something computed from private examples that leaves, or may have left, the phone.

    Attributes:
        split: Whose examples it saw.
        sample_rate: Poisson rate of each step.
        noise_multiplier: Noise deviation over L2 sensitivity; 0 for a release without noise, which costs infinity.
        num_steps: Logical steps, each a mechanism of its own.
        unit: Whose record it protects. A client's is charged to every split, since all of them are its own.
    """

    kind: ReleaseKind
    split: Split
    sample_rate: float
    noise_multiplier: float
    num_steps: int = 1
    unit: Unit = later("example")

    def __post_init__(self) -> None:
        if self.unit == "client" and self.sample_rate != 1:
            raise ValueError(f"sample_rate must be 1 in the client unit: nothing amplifies it, got {self.sample_rate}")
        if not 0 < self.sample_rate <= 1:
            raise ValueError(f"sample_rate must be in (0, 1], got {self.sample_rate}")
        if not self.noise_multiplier >= 0:
            raise ValueError(f"noise_multiplier must be >= 0, got {self.noise_multiplier}")
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be >= 1, got {self.num_steps}")

    @property
    def charged_splits(self) -> tuple[Split, ...]:
        """The splits that it counts on: its own, or all of a client's."""
        return SPLITS if self.unit == "client" else (self.split,)

    def rdp(self, order: int) -> float:
        """Renyi divergence bound of this release at an integer order >= 2."""
        return self.num_steps * subsampled_gaussian_rdp(self.sample_rate, self.noise_multiplier, order)


def releases_of_terms(terms: TrainTerms | EvaluateTerms | None) -> tuple[Release, ...]:
    """All that working by these terms releases, for phone and server alike; nothing without privacy.

    What is charged is what is listed here, so whatever leaves a phone has its line.
    """
    if terms is None or terms.privacy is None:
        return ()
    if isinstance(terms, EvaluateTerms):
        return (_release("metrics", terms.split, terms.privacy),)
    num_steps = terms.local_steps or 1
    if terms.moves == "architecture":
        releases = [_release("architecture", "validation", terms.privacy, num_steps)]
    else:
        releases = [_release("update", "train", terms.privacy, num_steps)]
    if terms.architecture is not None and terms.architecture.privacy is not None:
        releases.append(_release("architecture", "validation", terms.architecture.privacy, num_steps))
    if terms.reward is not None and terms.reward.privacy is not None:
        releases.append(_release("reward", "validation", terms.reward.privacy))
    return tuple(releases)


def _release(
    kind: ReleaseKind, split: Split, privacy: PrivacyTerms | ClientPrivacyTerms, num_steps: int = 1
) -> Release:
    if isinstance(privacy, ClientPrivacyTerms):  # however many steps: what is clipped and noised is their sum
        return Release(kind, split, 1.0, privacy.noise_multiplier, unit="client")
    return Release(kind, split, privacy.sample_rate, privacy.noise_multiplier, num_steps)


@dataclass(frozen=True)
class Budget:
    """How much may be spent, by an RDP filter at one order fixed beforehand.

    A filter over orders chosen while spending is not proven; so `order` is part of the budget. "Individual Privacy
    Accounting via a Renyi Filter", arXiv:2008.11193.

    Attributes:
        order: Integer >= 2; `planned_order` finds the best one of a planned schedule.
        unit: Whose record epsilon is about. Releases of the other unit are refused: what protects clients bounds an
            example less, and the other way round not at all, so that a sum of both would be of neither.
    """

    epsilon: float
    delta: float
    order: int
    unit: Unit = later("example")

    def __post_init__(self) -> None:
        if not (self.epsilon > 0 and isfinite(self.epsilon)):
            raise ValueError(f"epsilon must be > 0, got {self.epsilon}")
        if not 0 < self.delta < 1:
            raise ValueError(f"delta must be in (0, 1), got {self.delta}")
        if not 2 <= self.order <= MAX_ORDER:
            raise ValueError(f"order must be an integer in [2, {MAX_ORDER}], got {self.order}")
        if self.rdp() <= 0:
            raise ValueError(
                f"epsilon {self.epsilon} at delta {self.delta} leaves nothing to spend at order {self.order}; "
                "choose a higher order or a larger epsilon"
            )

    def rdp(self) -> float:
        """The Renyi divergence that may be spent at `order`."""
        return self.epsilon - epsilon_of(0.0, self.order, self.delta)

    def epsilon_spent(self, rdp: float) -> float:
        """Epsilon at `delta` after spending `rdp` at `order`; 0 when nothing was spent."""
        return epsilon_of(rdp, self.order, self.delta) if rdp > 0 else 0.0


@cache
def subsampled_gaussian_rdp(sample_rate: float, noise_multiplier: float, order: int) -> float:
    """Renyi divergence bound of one Poisson-subsampled Gaussian mechanism.

    Args:
        order: Integer >= 2.

    Returns:
        log(sum_j C(a, j) (1-q)^(a-j) q^j exp((j^2 - j) / (2 s^2))) / (a - 1); infinity without noise, or
        with so little that the sum leaves the floating-point numbers.
    """
    variance = noise_multiplier * noise_multiplier  # 0 or infinity where `**` would raise
    if variance == 0:
        return inf
    if sample_rate == 1:
        return order / (2 * variance)
    j = np.arange(order + 1)
    with np.errstate(over="ignore"):
        exponents = (j * j - j) / (2 * variance)
    terms = (
        np.array([_log_comb(order, int(i)) for i in j])
        + (order - j) * log1p(-sample_rate)
        + j * log(sample_rate)
        + exponents
    )
    largest = float(terms.max())
    if not isfinite(largest):
        return inf
    return max(0.0, largest + log(float(np.exp(terms - largest).sum()))) / (order - 1)


def epsilon_of(rdp: float, order: int, delta: float) -> float:
    """The epsilon that a Renyi divergence at one order implies at `delta`."""
    return rdp + log1p(-1 / order) - (log(delta) + log(order)) / (order - 1)


def epsilon_of_schedule(releases: Iterable[Release], delta: float, orders: Sequence[int] = ORDERS) -> float:
    """Epsilon of releases fixed beforehand: the best order a split, the worst split.

    Only for a schedule that does not depend on what was released; while spending, use a `Budget`.
    """
    releases = tuple(releases)
    return max((_best(releases, split, delta, orders)[0] for split in _splits(releases)), default=0.0)


def planned_order(releases: Iterable[Release], delta: float, orders: Sequence[int] = ORDERS) -> int:
    """The order at which a planned schedule's total (its worst split) is smallest: the one to fix in a `Budget`."""
    releases = tuple(releases)
    if not releases:
        raise ValueError("a plan must hold at least one release to choose an order by")
    return min(orders, key=lambda order: epsilon_of(rdp_by_split_max(releases, order), order, delta))


def gaussian_order(epsilon: float, delta: float, orders: Sequence[int] = ORDERS) -> int:
    """The order for a budget whose schedule is not known: the one that lets the most Gaussian releases through.

    A Gaussian release costs order / (2 s^2), so this is the order with the largest Budget.rdp() / order. Where the
    schedule is known, `planned_order` is better.
    """
    return max(orders, key=lambda order: (epsilon - epsilon_of(0.0, order, delta)) / order)


def rdp_by_split(releases: Iterable[Release], order: int) -> dict[Split, float]:
    """Renyi divergence spent on each split that any release counts on."""
    spent: dict[Split, float] = {}
    for release in releases:
        for split in release.charged_splits:
            spent[split] = spent.get(split, 0.0) + release.rdp(order)
    return spent


def rdp_by_split_max(releases: Iterable[Release], order: int) -> float:
    """Renyi divergence spent on the split that spent most."""
    return max(rdp_by_split(releases, order).values(), default=0.0)


def check_unit(budget: Budget, releases: Iterable[Release]) -> None:
    """Refuse releases of another unit than the budget's.

    Raises:
        BudgetExceededError: Before anything is released.
    """
    for release in releases:
        if release.unit != budget.unit:
            raise BudgetExceededError(
                f"the {release.kind} is of the {release.unit} unit and this budget is of the {budget.unit} unit, and "
                f"no ledger adds the two: take part in runs with privacy.unit = '{budget.unit}', or begin a ledger of "
                f"other data with --unit {release.unit}"
            )


def check_fits(budget: Budget, spent: Mapping[Split, float], releases: Iterable[Release]) -> None:
    """Refuse releases that would together take a split over the budget, or are of another unit: all fit, or none.

    Args:
        spent: Renyi divergence spent before on each split, at the budget's order (`rdp_by_split`).

    Raises:
        BudgetExceededError: Before anything is released.
    """
    releases = tuple(releases)
    check_unit(budget, releases)
    limit = budget.rdp() * (1 + 1e-12)  # a schedule planned to the last digit adds up in another order
    total = dict(spent)
    for release in releases:
        for split in release.charged_splits:
            before = total.get(split, 0.0)
            total[split] = after = before + release.rdp(budget.order)
            if not after <= limit:
                raise BudgetExceededError(
                    f"one more {release.kind} on the {split} split would spend epsilon "
                    f"{budget.epsilon_spent(after):.4g} of {budget.epsilon:g} (delta {budget.delta:g}, order "
                    f"{budget.order}; {budget.epsilon_spent(before):.4g} spent so far); this client takes no further "
                    "part on that split"
                )


def _best(releases: Sequence[Release], split: Split, delta: float, orders: Sequence[int]) -> tuple[float, int]:
    own = [release for release in releases if split in release.charged_splits]
    return min((max(0.0, epsilon_of(sum(r.rdp(order) for r in own), order, delta)), order) for order in orders)


def _splits(releases: Sequence[Release]) -> set[Split]:
    return {split for release in releases for split in release.charged_splits}


def _log_comb(n: int, k: int) -> float:
    if n <= _EXACT_COMB_ORDER:
        return log(comb(n, k))
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
