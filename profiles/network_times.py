"""From the times of its kernels to that of a whole network, learnt from networks that were measured with them.

A network takes not what its kernels add up to: what watches the kernels costs time at each, a runtime fuses layers,
changes layouts between them and finds data in caches. So each kernel's part of a network is its own time, corrected by
its family, what comes before and after it, its size and itself, and the network's by its size, since what stays in
caches is read fast. How much, networks' times tell, which are sums of such parts: a Gaussian process of sums ("Gaussian
Processes for Machine Learning", 2006, sections 2.2 and 9.8), whose variances are those that leave single networks out
with the smallest errors (5.10 to 5.12).

How far a prediction is to be trusted is what networks left out say, without the times of kernels that only one network
more has, or none: those are then predicted from the others' kernels, as a new network's are. The intervals are
quantiles of these errors (`profiles.network_errors`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from profiles.kernel import Kernel
from profiles.kernel_times import owners_of, predict_all, tables_of
from profiles.network_errors import between_measurements, calibration_of
from profiles.network_parts import (
    MOST,
    START,
    Item,
    Parts,
    alike,
    items_of,
    network_sizes,
    parts_of,
    relations,
)
from profiles.schema import Calibration, DeviceProfile, Direction, NetworkTime

Floats = NDArray[np.float64]
MIN_NETWORKS = 10
_ROOM = 1.25  # how far beyond the ratios of the measured networks a prediction may go
_NOISE, _MOST_NOISE = 0.015, 0.05  # of a network's measured time
_STEPS = (1.2, 0.6)  # of the logarithms of deviations, in the search for the best
_LEAST = -14.0  # a logarithm that stands for nothing
_FREEDOM = 4.0  # of Student's t: few networks are far off


@dataclass(frozen=True, eq=False)
class NetworkModel:
    """Corrections of one direction's kernels; `model_of` fits them.

    Attributes:
        parts: Of the measured networks, distinct.
        weights: f64[components, parts].
        sizes: f64[networks, 1].
        size_weights: f64[networks], for the share by which a network as a whole is corrected.
        names: Numbers of the names in `parts`.
        ratios: The least and the most that a network takes beside the plain sum.
        calibration: What left-out networks say.
        known_ms: Parts that were asked for before.
    """

    parts: Parts
    weights: Floats
    sizes: Floats
    size_weights: Floats
    constant_ms: float
    names: dict[object, int]
    ratios: tuple[float, float]
    calibration: Calibration
    known_ms: dict[tuple[Item, float], float] = field(default_factory=dict)

    def median_ms(
        self, networks: Sequence[Sequence[int]], kernels: Sequence[Kernel], ms: Sequence[float], call_ms: float
    ) -> list[float]:
        """Of networks by the places of their kernels among all, which alone take `ms`."""
        families = [*(kernel.placed_family for kernel in kernels), ""]
        placed = [
            [
                (here, families[before], families[after])
                for before, here, after in zip((-1, *network), network, (*network[1:], -1), strict=False)
            ]
            for network in networks
        ]
        keys = {item: ((kernels[item[0]], *item[1:]), ms[item[0]]) for item in set(chain.from_iterable(placed))}
        self._ask([key for key in keys.values() if key not in self.known_ms])
        parts_ms = {item: self.known_ms[key] for item, key in keys.items()}
        moved = [kernel.bytes_moved(1) for kernel in kernels]
        shares = self._whole_shares([sum(moved[place] for place in network) for network in networks])
        found = []
        for network, share in zip(placed, shares, strict=True):
            plain = call_ms + sum(ms[item[0]] for item in network)
            corrected = call_ms + self.constant_ms + share * plain + sum(parts_ms[item] for item in network)
            found.append(min(max(corrected, self.ratios[0] * plain), self.ratios[1] * plain))
        return found

    def _whole_shares(self, bytes_moved: Sequence[int]) -> list[float]:
        # Six digits, and one by one: how many were asked for at once must not show.
        sizes = network_sizes(bytes_moved) if bytes_moved else np.empty((0, 1))
        return [float(f"{(row * self.size_weights).sum():.6g}") for row in alike(sizes, self.sizes)]

    def _ask(self, keys: Sequence[tuple[Item, float]]) -> None:
        if not keys:
            return
        asked = parts_of([item for item, _ in keys], np.array([ms for _, ms in keys]), self.names)
        corrections = np.zeros(len(keys))
        for weights, relation in zip(self.weights, relations(asked, self.parts), strict=True):
            corrections += (relation * weights).sum(1)
        for key, alone, correction in zip(keys, asked.ms, corrections, strict=True):
            # Six digits: how many were asked for at once must not show.
            self.known_ms[key] = float(f"{alone + correction:.6g}")


@dataclass(frozen=True)
class _Rows:
    """Measured networks, and the same as they would look if each had not been measured.

    Attributes:
        measured_ms: f64[n].
        plain_ms, blind_plain_ms: f64[n], calls and kernels added up.
        covariances: f64[components + 2, n, n] at deviations of 1, in shares of the measured times; last those of
            networks as a whole and of the constant.
        blind: The same between what each network would look like and all.
    """

    measured_ms: Floats
    plain_ms: Floats
    blind_plain_ms: Floats
    covariances: Floats
    blind: Floats


@dataclass(frozen=True)
class _Sums:
    """Networks as sums of parts.

    Attributes:
        counts: f64[n, parts].
        plain_ms: f64[n], the call and the parts' own times.
    """

    counts: Floats
    parts: Parts
    plain_ms: Floats


@lru_cache(maxsize=64)
def model_of(profile: DeviceProfile, direction: Direction, batch_size: int) -> NetworkModel | None:
    """Learn from the profile's networks of the nearest batch size; None where there are too few."""
    networks = _nearest_networks(profile, direction, batch_size)
    if len(networks) < MIN_NETWORKS:
        return None
    its_batch, call_ms = networks[0].batch_size, profile.throughput.call_overhead_ms.value
    kernels = chain.from_iterable(network.kernels for network in networks)
    ms = {kernel: part.ms for kernel, part in predict_all(profile, kernels, its_batch, direction).items()}
    blind_ms = ms | _left_out_ms(profile, direction, its_batch)
    measured_ms = np.array([network.median_ms for network in networks])
    items = [items_of(network.kernels) for network in networks]
    names: dict[object, int] = {}
    counts, parts = _count(items, [ms] * len(items), names)
    owners = owners_of(networks)
    seen = [
        {kernel: (blind_ms if place in owners[kernel] else ms)[kernel] for kernel in network.kernels}
        for place, network in enumerate(networks)
    ]
    blind_counts, blind_parts = _count(items, seen, names)
    sizes = network_sizes([sum(kernel.bytes_moved(1) for kernel in network.kernels) for network in networks])
    seen_sums = _Sums(counts, parts, call_ms + counts @ parts.ms)
    blind_sums = _Sums(blind_counts, blind_parts, call_ms + blind_counts @ blind_parts.ms)
    near = alike(sizes, sizes)
    rows = _Rows(
        measured_ms=measured_ms,
        plain_ms=seen_sums.plain_ms,
        blind_plain_ms=blind_sums.plain_ms,
        covariances=_covariances(seen_sums, seen_sums, near, measured_ms),
        blind=_covariances(blind_sums, seen_sums, near, measured_ms),
    )
    unit = float(np.median(measured_ms / counts.sum(1)))  # of corrections that do not hang on a kernel's time
    deviations, errors = _fit_deviations(rows, unit)
    solved = np.linalg.solve(_covariance(rows, deviations), 1 - rows.plain_ms / measured_ms)
    shares = solved / measured_ms
    variances = deviations[:-1] ** 2
    ratios = measured_ms / rows.plain_ms
    source = f"{len(networks)} networks measured with their kernels, each left out in turn"
    return NetworkModel(
        parts=parts,
        weights=variances[:-2, None] * (shares @ counts),
        sizes=sizes,
        size_weights=variances[-2] * shares * rows.plain_ms,
        constant_ms=float(variances[-1] * shares.sum()),
        names=names,
        ratios=(float(ratios.min() / _ROOM), float(ratios.max() * _ROOM)),
        calibration=calibration_of(
            direction, errors, between_measurements(profile.sessions), networks, float(np.median(ratios)), source
        ),
    )


def _nearest_networks(profile: DeviceProfile, direction: Direction, batch_size: int) -> list[NetworkTime]:
    sizes = {network.batch_size for network in profile.networks if network.direction == direction}
    nearest = min(sorted(sizes), key=lambda size: max(size / batch_size, batch_size / size), default=0)
    return [one for one in profile.networks if (one.direction, one.batch_size) == (direction, nearest)]


def _left_out_ms(profile: DeviceProfile, direction: Direction, batch_size: int) -> dict[Kernel, float]:
    tables = tables_of(profile, direction, batch_size).values()
    return {kernel: ms for table in tables for kernel, ms in table.left_out_ms.items()}


def _count(
    networks: Sequence[Sequence[Item]], ms: Sequence[Mapping[Kernel, float]], names: dict[object, int]
) -> tuple[Floats, Parts]:
    """How often each network has each distinct part, f64[n, parts], and the parts, whose kernels take `ms` in each."""
    counted = [
        Counter((item, its_ms[item[0]]) for item in network) for network, its_ms in zip(networks, ms, strict=True)
    ]
    places = {key: i for i, key in enumerate(dict.fromkeys(chain.from_iterable(counted)))}
    counts = np.zeros((len(networks), len(places)))
    for row, count in enumerate(counted):
        for key, number in count.items():
            counts[row, places[key]] = number
    return counts, parts_of([item for item, _ in places], np.array([alone for _, alone in places]), names)


def _covariances(sums: _Sums, others: _Sums, near: Floats, measured_ms: Floats) -> Floats:
    """f64[components + 2, n, n] of shares of the measured times; `near` is how alike networks are in size."""
    each = [sums.counts @ relation @ others.counts.T for relation in relations(sums.parts, others.parts)]
    whole = near * others.plain_ms * sums.plain_ms[:, None]
    return np.stack([*each, whole, np.ones_like(whole)]) / np.outer(measured_ms, measured_ms)


def _covariance(rows: _Rows, deviations: Floats) -> Floats:
    network = np.tensordot(deviations[:-1] ** 2, rows.covariances, 1)
    return np.asarray(network + deviations[-1] ** 2 * np.eye(len(network)))


def _fit_deviations(rows: _Rows, unit: float) -> tuple[Floats, Floats]:
    """Deviations of all components and of the noise, and the errors of log times of networks left out."""
    logs = np.log([*START.deviations(unit), _NOISE])
    most = np.log([*MOST.deviations(unit), _MOST_NOISE])
    best = _badness(rows, np.exp(logs))
    for step in _STEPS:
        for place in range(len(logs)):
            for change in (step, -step):
                while True:
                    tried = logs.copy()
                    tried[place] = min(max(tried[place] + change, _LEAST), most[place])
                    badness = _badness(rows, np.exp(tried))
                    if badness > best - 1e-4:
                        break
                    best, logs = badness, tried
    missing, _ = _leave_out(rows, np.exp(logs))
    errors = -np.log(np.maximum(1 - missing, 0.1))  # of the measured time
    # The deviations were chosen by these very errors, so these are smaller than a further network's.
    free = max(len(errors) - len(logs), len(errors) / 4)
    return np.exp(logs), np.median(errors) + (errors - np.median(errors)) * np.sqrt(len(errors) / free)


def _badness(rows: _Rows, deviations: Floats) -> float:
    """How unlikely the left-out networks are, each by the others."""
    missing, variances = _leave_out(rows, deviations)
    squares = missing**2 / variances
    return float(np.mean(np.log(variances) + (_FREEDOM + 1) * np.log1p(squares / _FREEDOM)))


def _leave_out(rows: _Rows, deviations: Floats) -> tuple[Floats, Floats]:
    """What is missing of each network's time, as a share, when the others predict what was known without it."""
    inverse = np.linalg.inv(_covariance(rows, deviations))
    own = np.diag(inverse)
    solved = inverse @ (1 - rows.plain_ms / rows.measured_ms)
    blind = np.tensordot(deviations[:-1] ** 2, rows.blind, 1)
    # Without row i the solution is that of all rows less what row i brought (eq. 5.10 to 5.12).
    found = blind @ solved - np.einsum("ij,ji->i", blind, inverse) * solved / own
    return 1 - rows.blind_plain_ms / rows.measured_ms - found, 1 / own
