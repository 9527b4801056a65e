"""Join profiles of several sessions, and compare any two."""

from collections import defaultdict
from collections.abc import Collection, Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

import numpy as np

from profiles.rates import fit_within_networks
from profiles.samples import summarize
from profiles.schema import DeviceProfile, Direction, KernelTime, NetworkTime, Runtime

NETWORKS = "whole networks"  # beside the families of kernels
_SAME = ("soc", "abi", "threads", "affinity", "runtime")  # what two sessions of one device share
_NEAR = 0.10
Time = TypeVar("Time", KernelTime, NetworkTime)


class MergeError(ValueError):
    """Two profiles that are not of one device as it was measured; the message names the cure."""


@dataclass(frozen=True)
class Comparison:
    """How the times of one family in one direction differ between two profiles.

    Attributes:
        count: Kernels (or networks) that both have.
        median_ratio, low_ratio, high_ratio: Of the second's medians to the first's: median, 10th and 90th percentile.
        within_10: Share of them whose times differ by 10% of the first's at most.
    """

    family: str
    direction: Direction
    count: int
    median_ratio: float
    low_ratio: float
    high_ratio: float
    within_10: float


def merge_profiles(one: DeviceProfile, other: DeviceProfile) -> DeviceProfile:
    """One profile of both's sessions; samples that both kept are joined, and count alike.

    Raises:
        MergeError: They are of different devices, threads or runtimes, or not measured network by network, or share a
            session.
    """
    _check_one_device(one, other)
    kernels = _joined([*one.kernels, *other.kernels])
    calls = [profile.throughput.call_overhead_ms for profile in (one, other)]
    call = replace(calls[0], value=float(np.mean([figure.value for figure in calls])))
    if calls[1].source != calls[0].source:
        call = replace(call, source=f"{calls[0].source}; {calls[1].source}")
    return replace(
        one,
        throughput=fit_within_networks(kernels, call),
        kernels=kernels,
        networks=_joined([*one.networks, *other.networks]),
        sessions=(*one.sessions, *other.sessions),
        is_stable=one.is_stable and other.is_stable,
        warnings=tuple(dict.fromkeys((*one.warnings, *other.warnings))),
    )


def compare_profiles(one: DeviceProfile, other: DeviceProfile) -> tuple[Comparison, ...]:
    """What both measured, by family and direction, whole networks last; any two profiles may be compared.

    What took no time in one of them was fused into another kernel there, and is left out.
    """
    ratios: dict[tuple[str, Direction], list[float]] = defaultdict(list)
    for known, times in ((one.kernels, other.kernels), (one.networks, other.networks)):
        by_key = {_key(time): time for time in known}
        for time in times:
            mine = by_key.get(_key(time))
            if mine is not None and mine.median_ms > 0 and time.median_ms > 0:
                ratios[_family(time), time.direction].append(time.median_ms / mine.median_ms)
    return tuple(_comparison(group, found) for group, found in sorted(ratios.items(), key=_order))


def _check_one_device(one: DeviceProfile, other: DeviceProfile) -> None:
    for name in _SAME:
        mine, its = getattr(one, name), getattr(other, name)
        if mine != its:
            raise MergeError(
                f"both profiles must have the same {name}, got {_told(mine)} and {_told(its)}: measure again with "
                "--threads, cores and runtime as before, or keep the profiles apart (handheld profile compare)"
            )
    for profile in (one, other):
        if not profile.sessions or not profile.networks:
            cure = "measure again (handheld-device measure)"
            raise MergeError(f"profile {profile.name!r} has no session to merge: {cure}")
    if set(one.sessions) & set(other.sessions):
        raise MergeError("both profiles hold the same session: merge each session once")


def _told(value: object) -> str:
    return f"{value.name} {value.version}" if isinstance(value, Runtime) else repr(value)


def _joined(times: Sequence[Time]) -> tuple[Time, ...]:
    """Each kernel or network once, from all its samples."""
    groups: dict[Hashable, list[Time]] = defaultdict(list)
    for time in times:
        groups[_key(time)].append(time)
    return tuple(_join(group) if len(group) > 1 else group[0] for group in groups.values())


def _join(group: Collection[Time]) -> Time:
    first = next(iter(group))
    summary = asdict(summarize([time.samples_ms or (time.median_ms,) for time in group]))
    known = {"repetitions": sum(time.repetitions for time in group), "min_ms": min(time.min_ms for time in group)}
    return replace(first, **(summary | known))


def _key(time: KernelTime | NetworkTime) -> Hashable:
    what = time.kernel if isinstance(time, KernelTime) else time.kernels
    return what, time.batch_size, time.direction


def _family(time: KernelTime | NetworkTime) -> str:
    return time.kernel.family if isinstance(time, KernelTime) else NETWORKS


def _order(item: tuple[tuple[str, Direction], list[float]]) -> tuple[bool, str, Direction]:
    (family, direction), _ = item
    return family == NETWORKS, family, direction


def _comparison(group: tuple[str, Direction], ratios: Sequence[float]) -> Comparison:
    low, median, high = (round(float(value), 4) for value in np.percentile(ratios, [10, 50, 90]))
    within_10 = sum(abs(ratio - 1) <= _NEAR for ratio in ratios) / len(ratios)
    return Comparison(*group, len(ratios), median, low, high, round(within_10, 4))
