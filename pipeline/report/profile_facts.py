"""What a profile says, as a reader asks for it: figures with their sources, predictions beside measurements."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import expm1, log
from statistics import median
from typing import get_args

from profiles.known_models import KNOWN_MODELS
from profiles.predict import Method, predict_kernel, predict_kernels
from profiles.schema import DeviceProfile, Direction, Figure, KernelKey, KernelTime, NetworkTime, Provenance, Rates

_RATES = {"gmac_s": "compute", "memory_gb_s": "memory", "layer_overhead_ms": "layer overhead"}
WITHIN = 0.1
_FOLDS = 5


@dataclass(frozen=True)
class Fact:
    """A figure of a profile.

    Attributes:
        number: Of its source in the list of them, from 1.
    """

    name: str
    figure: Figure
    number: int


@dataclass(frozen=True)
class Pair:
    """What a network takes beside what the profile predicts for it, milliseconds."""

    network: NetworkTime
    predicted_ms: float
    interval80_ms: tuple[float, float]

    @property
    def log_error(self) -> float:
        """Of the prediction."""
        return log(self.predicted_ms / self.network.median_ms)


@dataclass(frozen=True)
class Agreement:
    """How far predictions of one direction agree with measurements.

    Attributes:
        share_within: Of networks predicted within 10%.
        median_error: Of the ratio, either way, less 1.
        share_covered: Of networks within their 80% interval.
    """

    direction: Direction
    num_networks: int
    share_within: float
    median_error: float
    share_covered: float


@dataclass(frozen=True)
class Example:
    """A known model, as the profile predicts it.

    Attributes:
        family_ms: Its kernels' time by family, the largest first, the call's overhead not among them.
    """

    model: str
    median_ms: float
    interval80_ms: tuple[float, float]
    method: Method
    family_ms: tuple[tuple[str, float], ...]


def facts_of(profile: DeviceProfile) -> tuple[Fact, ...]:
    """Every figure of a profile; sources are numbered as they come."""
    numbers: dict[str, int] = {}
    return tuple(
        Fact(name, figure, numbers.setdefault(figure.source, len(numbers) + 1)) for name, figure in _figures(profile)
    )


def sources_of(facts: Sequence[Fact]) -> tuple[str, ...]:
    """Each source once, in the order of its number."""
    return tuple(dict.fromkeys(fact.figure.source for fact in facts))


def count_provenance(facts: Sequence[Fact]) -> dict[Provenance, int]:
    """How many figures are known in each way."""
    return {one: sum(fact.figure.provenance == one for fact in facts) for one in get_args(Provenance)}


def pairs_of(profile: DeviceProfile) -> tuple[Pair, ...]:
    """The networks that the device was measured with, each beside what the profile predicts without a fifth of them.

    The fifth is missing that the network is in, with all kernels that only networks of the fifth have.
    """
    found: dict[int, Pair] = {}
    for fold in range(_FOLDS):
        rest = without_networks(profile, range(fold, len(profile.networks), _FOLDS))
        for i in range(fold, len(profile.networks), _FOLDS):
            network = profile.networks[i]
            told = predict_kernels(rest, network.kernels, network.batch_size, network.direction)
            found[i] = Pair(network, told.median_ms, told.interval80_ms)
    return tuple(found[i] for i in sorted(found))


def without_networks(profile: DeviceProfile, places: Iterable[int]) -> DeviceProfile:
    """The profile as if some of its networks had not been measured."""
    missing = set(places)
    kept = [network for i, network in enumerate(profile.networks) if i not in missing]
    seen, still = _keys_of(profile.networks), _keys_of(kept)
    times = (time for time in profile.kernels if _key_of(time) in still or _key_of(time) not in seen)
    # Predictors cache by a profile's name before all.
    name = f"{profile.name} without {min(missing, default=None)}"
    return replace(profile, name=name, networks=tuple(kept), kernels=tuple(times))


def _keys_of(networks: Iterable[NetworkTime]) -> set[KernelKey]:
    return {(kernel, one.batch_size, one.direction) for one in networks for kernel in one.kernels}


def _key_of(time: KernelTime) -> KernelKey:
    return time.kernel, time.batch_size, time.direction


def agreements_of(pairs: Sequence[Pair]) -> tuple[Agreement, ...]:
    """How far they agree, by direction."""
    by_direction = ([pair for pair in pairs if pair.network.direction == one] for one in get_args(Direction))
    return tuple(_agreement(some) for some in by_direction if some)


def examples_of(profile: DeviceProfile) -> tuple[Example, ...]:
    """What models take that everybody knows."""
    return tuple(_example(profile, model) for model in KNOWN_MODELS)


def _figures(profile: DeviceProfile) -> list[tuple[str, Figure]]:
    figures = [("memory", profile.ram_mib)]
    if profile.battery_mah is not None:
        figures.append(("battery", profile.battery_mah))
    figures += [
        (f"{cluster.num_cores} x {cluster.core}", cluster.max_mhz) for cluster in profile.clusters if cluster.max_mhz
    ]
    if profile.link:
        figures += [(name.partition("_")[0], figure) for name, figure in vars(profile.link).items()]
    for direction in get_args(Direction):
        rates: Rates = getattr(profile.throughput, direction)
        figures += [(f"{direction} {_RATES[name]}", figure) for name, figure in vars(rates).items()]
    return [*figures, ("call overhead", profile.throughput.call_overhead_ms)]


def _agreement(pairs: Sequence[Pair]) -> Agreement:
    errors = [abs(pair.log_error) for pair in pairs]
    covered = [pair.interval80_ms[0] <= pair.network.median_ms <= pair.interval80_ms[1] for pair in pairs]
    return Agreement(
        direction=pairs[0].network.direction,
        num_networks=len(pairs),
        share_within=sum(abs(pair.predicted_ms / pair.network.median_ms - 1) <= WITHIN for pair in pairs) / len(pairs),
        median_error=expm1(median(errors)),
        share_covered=sum(covered) / len(covered),
    )


def _example(profile: DeviceProfile, model: str) -> Example:
    kernels = KNOWN_MODELS[model]
    found = predict_kernels(profile, kernels, 1, "forward")
    families: dict[str, float] = {}
    for kernel in kernels:
        families[kernel.family] = families.get(kernel.family, 0.0) + predict_kernel(profile, kernel, 1, "forward").ms
    ordered = sorted(families.items(), key=lambda item: -item[1])
    return Example(model, found.median_ms, found.interval80_ms, found.method, tuple(ordered))
