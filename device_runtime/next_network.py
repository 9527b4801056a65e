"""Which network of a pack to measure next: the one whose time is least sure by the kernels measured so far.

A kernel that was not measured would be told by the most alike one of its family, scaled by work. It is as doubtful as
the two most alike ones disagree about it, and as they are far. A network's doubt is that of its kernels by their share
of its time: so time goes where the table is thin or uneven, and none to what it tells already.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import log

import numpy as np
from numpy.typing import NDArray

from profiles.schema import Direction, KernelKey

Array = NDArray[np.float64]
Known = Mapping[KernelKey, float]  # milliseconds
Networks = Sequence[Sequence[KernelKey]]
_WINDOW_WEIGHT = 0.5  # how much another window or stride counts beside a factor of e in work
_DISTANCE_DOUBT = 0.1  # what a distance of 1 adds: scaling by work is that far off
_UNKNOWN_DOUBT = 1.0  # of a family with fewer than two measured kernels


def next_network(networks: Networks, known: Known) -> int:
    """The place of the network with the largest doubt; the first of equal ones.

    Args:
        networks: Kernels of each one's graphs, with repeats; one network or more.
        known: What was measured.
    """
    if not known:
        return 0
    told = tell(sorted({key for network in networks for key in network}, key=repr), known)
    return int(np.argmax([_doubt(network, told) for network in networks]))


def tell(wanted: Sequence[KernelKey], known: Known) -> dict[KernelKey, tuple[float, float]]:
    """Milliseconds and doubt (of its logarithm) of each kernel."""
    found = {key: (known[key], 0.0) for key in wanted if key in known}
    families: dict[tuple[str, Direction], list[KernelKey]] = defaultdict(list)
    for key in known:
        families[_family(key)].append(key)
    asked: dict[tuple[str, Direction], list[KernelKey]] = defaultdict(list)
    for key in wanted:
        if key not in known:
            asked[_family(key)].append(key)
    typical = float(np.median([*known.values()]))
    for family, keys in asked.items():
        if len(families[family]) < 2:
            found |= dict.fromkeys(keys, (typical, _UNKNOWN_DOUBT))
        else:
            found |= _tell_family(keys, families[family], known)
    return found


def _tell_family(
    wanted: Sequence[KernelKey], measured: Sequence[KernelKey], known: Known
) -> dict[KernelKey, tuple[float, float]]:
    here, there = _features(wanted), _features(measured)
    distances = np.abs(here[:, None] - there[None]).sum(axis=2)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :2]
    log_ms = np.log(np.maximum([known[key] for key in measured], 1e-6))
    by_work = log_ms[nearest] + here[:, None, 0] - there[nearest, 0]
    first = np.take_along_axis(distances, nearest[:, :1], axis=1)[:, 0]
    doubts = np.abs(by_work[:, 0] - by_work[:, 1]) + _DISTANCE_DOUBT * first
    return {
        key: (float(np.exp(told)), float(doubt))
        for key, told, doubt in zip(wanted, by_work.mean(axis=1), doubts, strict=True)
    }


def _doubt(network: Sequence[KernelKey], told: Mapping[KernelKey, tuple[float, float]]) -> float:
    """The mean over the network's directions: each counts alike, though a gradient takes many times a forward run."""
    parts: dict[Direction, list[tuple[float, float]]] = defaultdict(list)
    for key in network:
        parts[key[2]].append(told[key])
    shares = [sum(ms * doubt for ms, doubt in part) / max(sum(ms for ms, _ in part), 1e-9) for part in parts.values()]
    return sum(shares) / len(shares)


def _family(key: KernelKey) -> tuple[str, Direction]:
    kernel, _, direction = key
    return kernel.placed_family, direction


def _features(keys: Sequence[KernelKey]) -> Array:
    """[kernels, 4]: logarithms of work and of bytes, window and stride."""
    rows = []
    for kernel, batch_size, _ in keys:
        work, moved = kernel.work(batch_size), kernel.bytes_moved(batch_size)
        rows.append((log(work), log(moved), _WINDOW_WEIGHT * kernel.kernel, _WINDOW_WEIGHT * kernel.stride))
    return np.array(rows)
