"""Predict what kernels take on a device: measured times first, scaled ones next, throughput last; plain sums.

Adding up kernels ignores what a runtime does across layers (fused activations, reused caches), so a sum is an upper
estimate for most networks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import log
from typing import Literal

from profiles.schema import DeviceProfile, Direction, Kernel, KernelTime

Method = Literal["measured", "scaled", "throughput"]
METHODS: tuple[Method, ...] = ("measured", "scaled", "throughput")  # the surest first
_SHAPE_WEIGHT = 0.5  # how much another window size or stride counts beside a factor of e in work


@dataclass(frozen=True)
class KernelPrediction:
    """Milliseconds of one kernel, without the call's overhead, and how it is known."""

    ms: float
    method: Method


@dataclass(frozen=True)
class Prediction:
    """Milliseconds of one run of a graph.

    Attributes:
        method: The least sure one among the kernels'.
        unknown: The distinct kernels that the profile has no time for.
    """

    median_ms: float
    method: Method
    unknown: tuple[Kernel, ...]


def predict_kernels(
    profile: DeviceProfile, kernels: Sequence[Kernel], batch_size: int, direction: Direction
) -> Prediction:
    """Add up the kernels of one run for `batch_size` examples, and the call's overhead."""
    parts = [predict_kernel(profile, kernel, batch_size, direction) for kernel in kernels]
    unknown = dict.fromkeys(kernel for kernel, part in zip(kernels, parts, strict=True) if part.method != "measured")
    return Prediction(
        median_ms=profile.throughput.call_overhead_ms.value + sum(part.ms for part in parts),
        method=max((part.method for part in parts), key=METHODS.index, default="measured"),
        unknown=tuple(unknown),
    )


@lru_cache(maxsize=1 << 16)
def predict_kernel(profile: DeviceProfile, kernel: Kernel, batch_size: int, direction: Direction) -> KernelPrediction:
    """One kernel: its own measured time, that of the most alike measured one scaled, or from the throughput."""
    if known := profile.times_by_kernel.get((kernel, batch_size, direction)):
        return KernelPrediction(_without_call(profile, known), "measured")
    modelled = profile.throughput.kernel_ms(kernel, batch_size, direction)
    family = [time for time in profile.kernels if (time.kernel.family, time.direction) == (kernel.family, direction)]
    if not family:
        return KernelPrediction(modelled, "throughput")
    nearest = min(family, key=lambda time: _distance(time, kernel, batch_size))
    its_model = profile.throughput.kernel_ms(nearest.kernel, nearest.batch_size, direction)
    return KernelPrediction(_without_call(profile, nearest) * modelled / its_model, "scaled")


def _without_call(profile: DeviceProfile, time: KernelTime) -> float:
    if profile.networks:  # measured within them
        return time.median_ms
    return max(time.median_ms - profile.throughput.call_overhead_ms.value, 0.0)


def _distance(time: KernelTime, kernel: Kernel, batch_size: int) -> float:
    """How unlike two kernels of a family are: factors in work and in bytes, and another window."""
    other = time.kernel
    work = batch_size * kernel.multiply_accumulates() + 1, time.batch_size * other.multiply_accumulates() + 1
    moved = kernel.bytes_moved(batch_size), other.bytes_moved(time.batch_size)
    windows = (kernel.kernel != other.kernel) + (kernel.stride != other.stride)
    return abs(log(work[0] / work[1])) + abs(log(moved[0] / moved[1])) + _SHAPE_WEIGHT * windows
