"""Hard limits per device class: what a network may cost on each phone of a fleet, and drawing only what meets them."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from math import ceil, floor, log10
from typing import get_args

from profiles.schema import DeviceClass, DeviceProfile
from search.architecture import Architecture
from search.candidate import Candidate
from search.cost import Cost, cost_of

DEFAULT = "default"


class InfeasibleError(ValueError):
    """No draw met the limits; the message names the limit, the smallest value reached and a cure."""


@dataclass(frozen=True)
class Limits:
    """The most that a network may cost on a device; None is no limit.

    Attributes:
        latency_ms: Of one inference.
        training_step_ms: Of one chunk of examples, forward and backward.
        memory_mib: Peak while training.
        size_kib: Of the parameters as float32.
    """

    latency_ms: float | None = None
    training_step_ms: float | None = None
    memory_mib: float | None = None
    size_kib: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be > 0, got {value}; leave it out for no limit")


@dataclass(frozen=True)
class Violation:
    """What a network needs of a limit on a device, more than is allowed where it breaks it."""

    profile: str
    limit: str
    allowed: float
    needed: float

    @property
    def excess(self) -> float:
        """How many times the limit is needed."""
        return self.needed / self.allowed

    def __str__(self) -> str:
        return f"{self.limit}={self.allowed} on {self.profile} needs {_round_up(self.needed)}"


@dataclass(frozen=True)
class Feasibility:
    """Whether a network meets the limits on every device of a fleet.

    Attributes:
        profiles: Of the fleet.
        budgets: Limits by device class; `default` has those of the classes without a table of their own.
        batch_size: Examples in a chunk of training.
    """

    profiles: tuple[DeviceProfile, ...]
    budgets: dict[str, Limits]
    batch_size: int

    def __post_init__(self) -> None:
        known = (*get_args(DeviceClass), DEFAULT)
        for name in self.budgets:
            if name not in known:
                raise ValueError(f"a budget must be of {', '.join(known)}, got {name!r}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {self.batch_size}")

    def is_feasible(self, architecture: Architecture) -> bool:
        """Whether no limit is broken."""
        return next(self._violations(architecture), None) is None

    def violations(self, architecture: Architecture) -> tuple[Violation, ...]:
        """Every broken limit, by device."""
        return tuple(self._violations(architecture))

    @property
    def of_training(self) -> "Feasibility":
        """The limits of what a phone trains alone: latency and size are of what is shipped to it."""
        budgets = {
            name: Limits(training_step_ms=limits.training_step_ms, memory_mib=limits.memory_mib)
            for name, limits in self.budgets.items()
        }
        return replace(self, budgets=budgets)

    def limits_of(self, device_class: str) -> Limits:
        """Of the devices of a class."""
        return self.budgets.get(device_class, self.budgets.get(DEFAULT, Limits()))

    @property
    def platforms(self) -> dict[str, "Feasibility"]:
        """The limits of each profile alone, by its name: every platform may get a network of its own."""
        return {profile.name: replace(self, profiles=(profile,)) for profile in self.profiles}

    def load(self, architecture: Architecture) -> float:
        """The largest part of a limit that is needed, on any device: at most 1 where every limit is met; 0 without."""
        return max((one.excess for one in self._needs(architecture)), default=0.0)

    def overshoot(self, architecture: Architecture) -> float:
        """By what parts of themselves limits are broken, over all devices; 0 where every limit is met."""
        return sum(one.excess - 1 for one in self._violations(architecture))

    def _violations(self, architecture: Architecture) -> Iterator[Violation]:
        return (one for one in self._needs(architecture) if one.needed > one.allowed)

    def _needs(self, architecture: Architecture) -> Iterator[Violation]:
        for profile in self.profiles:
            limits = self.limits_of(profile.device_class)
            if limits == Limits():
                continue
            cost = _cost(architecture, profile, self.batch_size, needs_memory=limits.memory_mib is not None)
            for name, allowed, needed in _compare(limits, cost):
                if allowed is not None:
                    yield Violation(profile.name, name, allowed, needed)


def draw_feasible(
    draw: Callable[[], Candidate], feasibility: Feasibility, smallest: Architecture, attempts: int = 1000
) -> Candidate:
    """Draw until a candidate meets every limit.

    Args:
        smallest: The search space's smallest network; a cure is tried on it.

    Raises:
        InfeasibleError: When none of `attempts` draws does.
    """
    broken: list[tuple[Violation, ...]] = []
    for _ in range(attempts):
        candidate = draw()
        violations = feasibility.violations(candidate.architecture)
        if not violations:
            return candidate
        broken.append(violations)
    raise InfeasibleError(f"{_explain(broken)}; {_cure(feasibility, smallest)}")


def check_feasible(feasibility: Feasibility, smallest: Architecture) -> None:
    """Refuse limits that a search space's smallest network breaks.

    Raises:
        InfeasibleError: When it does.
    """
    broken = ", ".join(map(str, feasibility.violations(smallest)))
    if broken:
        raise InfeasibleError(
            f"no candidate can meet the budgets: of the smallest {broken}; {_cure(feasibility, smallest)}"
        )


@lru_cache(maxsize=1 << 14)
def _cost(architecture: Architecture, profile: DeviceProfile, batch_size: int, *, needs_memory: bool) -> Cost:
    return cost_of(architecture, profile, batch_size, needs_memory=needs_memory)


def _compare(limits: Limits, cost: Cost) -> tuple[tuple[str, float | None, float], ...]:
    return (
        ("latency_ms", limits.latency_ms, cost.latency_ms),
        ("training_step_ms", limits.training_step_ms, cost.training_step_ms),
        ("memory_mib", limits.memory_mib, cost.peak_memory_mib),
        ("size_kib", limits.size_kib, cost.size_kib),
    )


def _explain(broken: list[tuple[Violation, ...]]) -> str:
    """Name the limit that every draw broke, the farthest from being met; or what the nearest draw still breaks."""
    by_limit: dict[tuple[str, str], list[Violation]] = defaultdict(list)
    for violation in chain.from_iterable(broken):
        by_limit[violation.profile, violation.limit].append(violation)
    least = [min(ones, key=lambda one: one.needed) for ones in by_limit.values() if len(ones) == len(broken)]
    if least:
        worst = max(least, key=lambda one: one.excess)
        return (
            f"no candidate met budget {worst.limit}={worst.allowed} on {worst.profile} in {len(broken)} draws; "
            f"the smallest needs {_round_up(worst.needed)}"
        )
    nearest = min(broken, key=lambda violations: max(one.excess for one in violations))
    return (
        f"no candidate met all budgets at once in {len(broken)} draws, though each was met by some; "
        f"of the nearest {', '.join(map(str, nearest))}"
    )


def _round_up(value: float) -> float:
    """To three digits, upwards: a limit of what is printed is met."""
    scale = 10.0 ** (2 - floor(log10(value)))
    return ceil(value * scale) / scale


def _cure(feasibility: Feasibility, smallest: Architecture) -> str:
    if feasibility.is_feasible(smallest):
        return "raise it or leave out larger options: the space's smallest network meets it"
    for width in _halvings(min(_widths(smallest))):
        if feasibility.is_feasible(_with_width(smallest, width)):
            return f"raise it or allow width {width}"
    return "raise it: the space's smallest network would not meet it at width 1 either"


def _halvings(width: int) -> Iterable[int]:
    while width > 1:
        width //= 2
        yield width


def _widths(network: Architecture) -> list[int]:
    return [network.stem.width, *(stage.width for stage in network.stages)]


def _with_width(network: Architecture, width: int) -> Architecture:
    stages = tuple(replace(stage, width=width) for stage in network.stages)
    return replace(network, stem=replace(network.stem, width=width), stages=stages)
