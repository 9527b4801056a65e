"""Phones that compute more slowly than others of their profile: hot, old, or busy with something else."""

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from profiles.schema import DeviceProfile, Figure, KernelTime, NetworkTime, Rates, Throughput

Timed = TypeVar("Timed", KernelTime, NetworkTime)

_DRAW = 1  # beside the draws of the phone's spells


@dataclass(frozen=True)
class StragglerTerms:
    """How many phones are slow, and by how much.

    Attributes:
        share: Probability of a phone to be a straggler, in [0, 1].
        factor: How many times as long as its profile says it computes, >= 1.
    """

    share: float = 0.0
    factor: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must be in [0, 1], got {self.share}")
        if not 1 <= self.factor < float("inf"):
            raise ValueError(f"factor must be >= 1 and finite, got {self.factor}")


def is_straggler(terms: StragglerTerms, seed: int, index: int) -> bool:
    """Whether a phone is one; of the phones drawn with a share, all are also with a larger one."""
    return bool(np.random.default_rng((seed, index, _DRAW)).random() < terms.share)


def slowed(profile: DeviceProfile, factor: float) -> DeviceProfile:
    """The same device, every kernel of which takes `factor` times as long; its link is as it was."""
    given = profile.throughput
    throughput = Throughput(
        forward=_slowed_rates(given.forward, factor),
        evaluate=_slowed_rates(given.evaluate, factor),
        gradient=_slowed_rates(given.gradient, factor),
        call_overhead_ms=_times(given.call_overhead_ms, factor),
    )
    return replace(
        profile,
        throughput=throughput,
        kernels=tuple(_slowed_time(one, factor) for one in profile.kernels),
        networks=tuple(_slowed_time(one, factor) for one in profile.networks),
    )


def _slowed_rates(rates: Rates, factor: float) -> Rates:
    return Rates(
        gmac_s=_times(rates.gmac_s, 1 / factor),
        memory_gb_s=_times(rates.memory_gb_s, 1 / factor),
        layer_overhead_ms=_times(rates.layer_overhead_ms, factor),
    )


def _slowed_time(time: Timed, factor: float) -> Timed:
    return replace(time, median_ms=time.median_ms * factor, p90_ms=time.p90_ms * factor, min_ms=time.min_ms * factor)


def _times(figure: Figure, factor: float) -> Figure:
    return replace(figure, value=figure.value * factor)
