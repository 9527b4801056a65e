"""Fleets as they are in the field: how many phones of each class, and phones of the catalogue and links drawn so.

A population has shares of classes, each a figure with its source. Within a class the catalogue's phones are equally
likely: nothing published says more, and none of them is meant as a market share.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import isclose

import numpy as np

from profiles.catalogue import catalogue_names, load_profile
from profiles.records import decode_record
from profiles.schema import DeviceClass, Figure, Link
from profiles.spelling import cure_of

_LINKS = 1  # beside the draws of the phones


class UnknownPopulationError(ValueError):
    """No population of that name."""


@dataclass(frozen=True)
class ClassShare:
    """How many phones of a population are of a class.

    Attributes:
        share: In [0, 1].
    """

    device_class: DeviceClass
    share: Figure


@dataclass(frozen=True)
class Population:
    """Shares of classes, which add up to 1."""

    name: str
    shares: tuple[ClassShare, ...]

    def __post_init__(self) -> None:
        total = sum(one.share.value for one in self.shares)
        if not isclose(total, 1, abs_tol=1e-3):
            raise ValueError(f"the shares of population {self.name!r} must add up to 1, got {total:.4f}")
        if len({one.device_class for one in self.shares}) < len(self.shares):
            raise ValueError(f"population {self.name!r} must name each class once")


@dataclass(frozen=True)
class Links:
    """Connections of phones that somebody measured.

    Attributes:
        mbit_s: Of each phone, down and up.
        source: As a figure's.
    """

    mbit_s: tuple[tuple[float, float], ...]
    source: str


@dataclass(frozen=True)
class Populations:
    """What the file of populations holds."""

    populations: tuple[Population, ...]
    links: Links
    schema: int = 1


def population_names() -> tuple[str, ...]:
    """Names of the populations that come with the package."""
    return tuple(one.name for one in _known().populations)


def load_population(name: str) -> Population:
    """A population by its name.

    Raises:
        UnknownPopulationError: Naming the nearest one.
    """
    for one in _known().populations:
        if one.name == name:
            return one
    cure = cure_of(name, population_names(), "there are {known}")
    raise UnknownPopulationError(f"population must be a known name, got {name!r}: {cure}")


def phones_of(population: Population) -> tuple[str, ...]:
    """Names of the catalogue's phones that may be drawn, by name.

    Raises:
        ValueError: When the catalogue has no phone of a class with a share.
    """
    return tuple(sorted(name for names in _groups(population) for name in names))


def draw_population(population: Population, num_phones: int, seed: int) -> tuple[str, ...]:
    """Draw names of the catalogue's phones, one for each phone of a fleet.

    The first phones of a larger fleet are those of a smaller one with the same seed.

    Raises:
        ValueError: When the catalogue has no phone of a class with a share.
    """
    groups = _groups(population)
    shares = [one.share.value for one in _drawn(population)]
    ends = np.cumsum(shares) / sum(shares)
    # Two numbers a phone, in rows: a larger fleet only adds rows.
    draws = np.random.default_rng(seed).random((num_phones, 2))
    classes = np.minimum(np.searchsorted(ends, draws[:, 0], side="right"), len(ends) - 1)
    return tuple(
        groups[which][int(within * len(groups[which]))] for which, within in zip(classes, draws[:, 1], strict=True)
    )


def draw_links(latency_ms: Figure, num_phones: int, seed: int) -> tuple[Link, ...]:
    """Draw a connection for each phone of a fleet, each like one of the phones that were measured.

    What connection a phone of a class has is not published: draw it beside the phone. The first ones of a larger fleet
    are those of a smaller one with the same seed.

    Args:
        latency_ms: Of all of them; none was measured.
    """
    links = _known().links
    which = np.random.default_rng((seed, _LINKS)).random(num_phones) * len(links.mbit_s)
    found = (links.mbit_s[int(one)] for one in which)
    return tuple(Link(_speed(down, links.source), _speed(up, links.source), latency_ms) for down, up in found)


def _groups(population: Population) -> list[tuple[str, ...]]:
    """The phones of each class with a share."""
    phones = {one.device_class: _phones_by_class().get(one.device_class, ()) for one in _drawn(population)}
    missing = [name for name, found in phones.items() if not found]
    if missing:
        raise ValueError(f"population {population.name!r} must have phones for every class, got none for {missing[0]}")
    return list(phones.values())


def _speed(mbit_s: float, source: str) -> Figure:
    return Figure(mbit_s, "Mbit/s", "published", source)


def _drawn(population: Population) -> list[ClassShare]:
    return [one for one in population.shares if one.share.value > 0]


@cache
def _phones_by_class() -> dict[DeviceClass, tuple[str, ...]]:
    phones: dict[DeviceClass, tuple[str, ...]] = {}
    for name in catalogue_names():
        device_class = load_profile(name).device_class
        phones[device_class] = (*phones.get(device_class, ()), name)
    return phones


@cache
def _known() -> Populations:
    return decode_record(Populations, files("profiles").joinpath("populations.json").read_bytes())
