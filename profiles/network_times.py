"""From the times of its kernels to that of a whole network, learnt from networks that were measured with them.

A network takes not what its kernels add up to: what watches the kernels costs time at each, a runtime fuses layers and
finds data in caches, and a call costs something whatever is in it. So its time is a sum over families of kernels of
their times and their numbers, of the parameters and of a constant, each with a factor. A ridge draws the factors of
families towards one common to all, as far as leaving single networks out says is best.

How far a prediction is to be trusted is what networks left out say, with the kernels that they alone have: those are
then predicted from the others' kernels, as a new network's are. The intervals are quantiles of these errors
("Cross-conformal predictors", arXiv:1208.0806).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from profiles.kernel_times import predict_all, tables_of
from profiles.kernel_times import owners_of
from profiles.schema import Calibration, DeviceProfile, Direction, Kernel, NetworkTime

Floats = NDArray[np.float64]
MIN_NETWORKS = 10
_RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 1e3)  # of the families' own factors
_COMMON_RIDGE = 1e-4
_NUM_COMMON = 4
_ROOM = 1.25  # how far beyond the ratios of the measured networks a prediction may go


@dataclass(frozen=True)
class Summands:
    """What n networks are made of.

    Attributes:
        call_ms: Of one call.
        sum_ms: f64[n, families], the kernels' times.
        number: f64[n, families], of kernels.
        parameters: f64[n].
    """

    call_ms: float
    sum_ms: Floats
    number: Floats
    parameters: Floats

    def plain_ms(self) -> Floats:
        """f64[n]: kernels and call added up."""
        return np.asarray(self.call_ms + self.sum_ms.sum(1))

    def columns(self) -> Floats:
        """f64[n, 4 + 2 families]: all families' times and numbers, a constant, parameters; then of each family."""
        common = (self.sum_ms.sum(1), self.number.sum(1), np.ones(len(self.parameters)), self.parameters)
        return np.column_stack([*common, self.sum_ms, self.number])


@dataclass(frozen=True, eq=False)
class NetworkModel:
    """Factors of one direction; `model_of` fits them.

    Attributes:
        families: Of kernels, as the columns have them; another family has the common factors alone.
        factors: f64[4 + 2 families].
        ratios: The least and the most that a network takes beside the plain sum.
        calibration: What left-out networks say.
    """

    families: tuple[str, ...]
    factors: Floats
    ratios: tuple[float, float]
    calibration: Calibration

    def median_ms(self, networks: Sequence[Sequence[Kernel]], ms: Mapping[Kernel, float], call_ms: float) -> Floats:
        """f64[n] of networks whose kernels take `ms`."""
        summands = add_up(networks, ms, call_ms, self.families)
        found = (summands.columns() * self.factors).sum(1)
        plain = summands.plain_ms()
        return np.asarray(np.clip(found, self.ratios[0] * plain, self.ratios[1] * plain))


def add_up(
    networks: Sequence[Sequence[Kernel]], ms: Mapping[Kernel, float], call_ms: float, families: Sequence[str]
) -> Summands:
    """Sum up kernels by family; the last column is of all other families."""
    place = {family: i for i, family in enumerate(families)}
    of_kernel = {kernel: (place.get(kernel.family, len(place)), kernel.num_parameters()) for kernel in ms}
    sum_ms, number = np.zeros((2, len(networks), len(place) + 1))
    parameters = np.zeros(len(networks))
    for row, network in enumerate(networks):
        for kernel in network:
            column, its_parameters = of_kernel[kernel]
            sum_ms[row, column] += ms[kernel]
            number[row, column] += 1
            parameters[row] += its_parameters
    return Summands(call_ms, sum_ms, number, parameters)


@lru_cache(maxsize=64)
def model_of(profile: DeviceProfile, direction: Direction, batch_size: int) -> NetworkModel | None:
    """Learn from the profile's networks of the nearest batch size; None where there are too few."""
    networks = _nearest_networks(profile, direction, batch_size)
    if len(networks) < MIN_NETWORKS:
        return None
    its_batch, kernels = networks[0].batch_size, [network.kernels for network in networks]
    measured_ms = np.array([network.median_ms for network in networks])
    call_ms = profile.throughput.call_overhead_ms.value
    distinct = (kernel for network in kernels for kernel in network)
    ms = {kernel: part.ms for kernel, part in predict_all(profile, distinct, its_batch, direction).items()}
    families = tuple(sorted({kernel.family for kernel in ms}))
    known = add_up(kernels, ms, call_ms, families)
    blind = _left_out(networks, ms, _left_out_ms(profile, direction, its_batch), call_ms, families)
    errors = {ridge: _errors(known.columns(), blind.columns(), measured_ms, ridge) for ridge in _RIDGES}
    ridge = min(_RIDGES, key=lambda one: float(np.abs(errors[one]).mean()))
    ratios = measured_ms / known.plain_ms()
    source = f"{len(networks)} networks measured with their kernels, each left out in turn"
    return NetworkModel(
        families=families,
        factors=_fit(known.columns(), measured_ms, ridge),
        ratios=(float(ratios.min() / _ROOM), float(ratios.max() * _ROOM)),
        calibration=_calibration(direction, errors[ridge], networks, float(np.median(ratios)), source),
    )


def _nearest_networks(profile: DeviceProfile, direction: Direction, batch_size: int) -> list[NetworkTime]:
    sizes = {network.batch_size for network in profile.networks if network.direction == direction}
    nearest = min(sorted(sizes), key=lambda size: max(size / batch_size, batch_size / size), default=0)
    return [one for one in profile.networks if (one.direction, one.batch_size) == (direction, nearest)]


def _left_out_ms(profile: DeviceProfile, direction: Direction, batch_size: int) -> dict[Kernel, float]:
    tables = tables_of(profile, direction, batch_size).values()
    return {kernel: ms for table in tables for kernel, ms in table.left_out_ms.items()}


def _left_out(
    networks: Sequence[NetworkTime],
    ms: Mapping[Kernel, float],
    left_out_ms: Mapping[Kernel, float],
    call_ms: float,
    families: Sequence[str],
) -> Summands:
    """Each network by what was known if it had not been measured."""
    owners = owners_of(networks)
    blind = [
        add_up(
            [network.kernels],
            {kernel: left_out_ms.get(kernel, ms[kernel]) if owners[kernel] == place else ms[kernel] for kernel in network.kernels},
            call_ms,
            families,
        )
        for place, network in enumerate(networks)
    ]
    stacked = (np.concatenate([getattr(one, name) for one in blind]) for name in ("sum_ms", "number", "parameters"))
    return Summands(call_ms, *stacked)


def _errors(known: Floats, blind: Floats, measured_ms: Floats, ridge: float) -> Floats:
    """Errors of log times f64[n], each network by the factors of the others and its blind columns."""
    errors = np.empty(len(measured_ms))
    for i in range(len(measured_ms)):
        others = np.arange(len(measured_ms)) != i
        predicted = float(blind[i] @ _fit(known[others], measured_ms[others], ridge))
        least = 0.1 * float(blind[i, 0])
        errors[i] = np.log(measured_ms[i] / max(predicted, least))
    return errors


def _fit(columns: Floats, measured_ms: Floats, ridge: float) -> Floats:
    """Factors that make relative errors small, drawn towards the plain sum."""
    relative = columns / measured_ms[:, None]
    size = np.sqrt((relative**2).mean(0)) + 1e-12
    plain = np.zeros(columns.shape[1])
    plain[0] = 1
    penalty = np.full(columns.shape[1], ridge)
    penalty[:_NUM_COMMON] = _COMMON_RIDGE
    scaled = relative / size
    normal = scaled.T @ scaled / len(scaled) + np.diag(penalty)
    missing = 1 - relative @ plain
    return np.asarray(plain + np.linalg.solve(normal, scaled.T @ missing / len(scaled)) / size)


def _calibration(
    direction: Direction, errors: Floats, networks: Sequence[NetworkTime], factor: float, source: str
) -> Calibration:
    ends = {share: _ends(np.sort(errors), share) for share in (0.8, 0.95)}
    tails = [max(network.p90_ms / network.median_ms, 1.0) for network in networks]
    return Calibration(
        direction=direction,
        factor=factor,
        low80=ends[0.8][0],
        high80=ends[0.8][1],
        low95=ends[0.95][0],
        high95=ends[0.95][1],
        p90_over_p50=float(np.median(tails)),
        source=source,
    )


def _ends(errors: Floats, share: float) -> tuple[float, float]:
    """Factors between which a further network lies with probability `share`.

    Where the smallest and the largest of so few errors bound less, they are moved out as a normal distribution's.
    """
    n = len(errors)
    outside = (1 - share) / 2
    places = (n + 1) * outside - 1
    if places < 0:
        wider = NormalDist().inv_cdf(1 - outside) / NormalDist().inv_cdf(n / (n + 1))
        middle = float(np.median(errors))
        low, high = (middle + wider * (float(end) - middle) for end in (errors[0], errors[-1]))
    else:
        low, high = (float(end) for end in np.interp([places, n - 1 - places], np.arange(n), errors))
    return float(np.exp(low)), float(np.exp(high))
