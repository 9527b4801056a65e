"""What a private run will release, phase by phase, known before it begins."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

from device_runtime.accounting import (
    ORDERS,
    Budget,
    Release,
    ReleaseKind,
    epsilon_of,
    planned_order,
    rdp_by_split,
)
from device_runtime.terms import ClientPrivacyTerms, NoiseAt, PrivacyTerms, Split, Unit
from pipeline.privacy_sections import PrivacySection, ReleaseSection
from pipeline.run_sections import RunFile
from pipeline.search_problem import CanBePlanned

Table = Literal["update", "architecture", "reward", "metrics", "test"]
# Whose examples the releases of a table of [privacy] see.
_SPLITS: dict[Table, Split] = {
    "update": "train",
    "architecture": "validation",
    "reward": "validation",
    "metrics": "validation",
    "test": "test",
}
_IN_STEPS: tuple[Table, ...] = ("update", "architecture")  # one mechanism a local step, of the example unit
_NOISE_STEPS, _MOST_NOISE = 20, 64.0


class ScheduleError(ValueError):
    """The planned releases cost more than the run may spend; the message says what would fit."""


@dataclass(frozen=True)
class PlannedRelease:
    """Releases of one kind in one phase, of each client.

    Attributes:
        table: Of [privacy], which says what one costs.
        count: How many; each has `release.num_steps` logical steps.
    """

    phase: str
    table: Table
    release: Release
    count: int

    def together(self) -> Release:
        """All of them as one release, which costs as much."""
        return replace(self.release, num_steps=self.release.num_steps * self.count)

    def louder(self, factor: float) -> "PlannedRelease":
        """The same with more noise."""
        release = replace(self.release, noise_multiplier=self.release.noise_multiplier * factor)
        return replace(self, release=release)


@dataclass(frozen=True)
class Schedule:
    """The whole run.

    Attributes:
        order: At which the total is smallest; fixed before the run.
        epsilon: Of the split that spends most.
        epsilon_by_split: Of each split at that order; in the client unit every release counts for all of them.
        epsilon_as_fixed: Of the split that spends most, by privacy loss distributions or Renyi orders, whichever is
            smaller; for reading only: no stop rule may use it. None where it was not computed.
    """

    planned: tuple[PlannedRelease, ...]
    order: int
    delta: float
    epsilon: float
    epsilon_by_split: dict[Split, float]
    unit: Unit
    noise_at: NoiseAt
    epsilon_as_fixed: float | None = None

    def releases(self) -> tuple[Release, ...]:
        """Each release of one client."""
        return tuple(entry.release for entry in self.planned for _ in range(entry.count))


def plan_schedule(run_file: RunFile) -> Schedule | None:
    """What `run_file` will release at most, each client taking part in every round; None without [privacy].

    Raises:
        ScheduleError: What its search will release cannot be planned, or has no table in [privacy].
    """
    privacy = run_file.privacy
    if privacy is None:
        return None
    return _schedule(_planned(run_file, privacy), privacy)


def check_schedule(run_file: RunFile) -> Schedule | None:
    """Plan the run and check that it fits; None without [privacy].

    Raises:
        ScheduleError: The plan does not fit; the message names the noise that would.
    """
    schedule, privacy = plan_schedule(run_file), run_file.privacy
    if schedule is None or privacy is None:
        return None
    if schedule.epsilon > privacy.target_epsilon * (1 + 1e-9):
        split = max(schedule.epsilon_by_split, key=schedule.epsilon_by_split.__getitem__)
        where = "" if schedule.unit == "client" else f" on the {split} split"
        raise ScheduleError(
            f"the plan spends epsilon {schedule.epsilon:.3f}{where} and privacy.target_epsilon is "
            f"{privacy.target_epsilon:g} (delta {privacy.delta:g}): {_cure(schedule, privacy)}"
        )
    return schedule


def budget_of(run_file: RunFile) -> Budget | None:
    """The budget that holds every client to the plan; None without [privacy].

    Raises:
        ScheduleError: The plan does not fit.
    """
    schedule, privacy = check_schedule(run_file), run_file.privacy
    if schedule is None or privacy is None:
        return None
    return Budget(privacy.target_epsilon, privacy.delta, schedule.order, privacy.unit)


def terms_of(
    privacy: PrivacySection | None, table: Table, expected_reports: int
) -> PrivacyTerms | ClientPrivacyTerms | None:
    """Privacy terms of one kind of release; None without [privacy].

    Args:
        expected_reports: Of the round; the client unit divides by it.

    Raises:
        ScheduleError: [privacy] has no such table.
    """
    if privacy is None:
        return None
    if privacy.unit == "client":
        noise = _section(privacy, table).noise_multiplier
        max_norm = privacy.max_norm if table in _IN_STEPS else None
        return ClientPrivacyTerms(privacy.noise_at, noise, expected_reports, max_norm)
    return example_terms_of(privacy, table)


def example_terms_of(privacy: PrivacySection, table: Table) -> PrivacyTerms:
    """Likewise of the example unit, where no number of reports counts."""
    return PrivacyTerms(privacy.noise_at, _rate(privacy, table), _section(privacy, table).noise_multiplier)


def times_of(run_file: RunFile) -> dict[tuple[str, Table], int]:
    """How often a client that takes part in everything makes each release, by phase and table of [privacy]; never 0.

    Raises:
        ScheduleError: What the search will release cannot be planned.
    """
    search = run_file.search
    if not isinstance(search, CanBePlanned):
        raise ScheduleError(f"what {search.algorithm} will release cannot be planned: remove [privacy]")
    times = Counter[tuple[str, Table]]()
    for phase, kind, count in search.planned(run_file):
        times[phase, kind] += count
    times["final", "update"] += run_file.final.rounds
    times["test", "test"] = 1
    return {key: count for key, count in times.items() if count}


def release_of(privacy: PrivacySection, table: Table, local_steps: int) -> Release:
    """What one assignment spends by a table.

    Args:
        local_steps: Of a round of training; of the client unit they are one release together.

    Raises:
        ScheduleError: [privacy] has no such table, or one without a rate in the example unit.
    """
    kind: ReleaseKind = "metrics" if table == "test" else table
    num_steps = local_steps if table in _IN_STEPS and privacy.unit == "example" else 1
    noise = _section(privacy, table).noise_multiplier
    return Release(kind, _SPLITS[table], _rate(privacy, table), noise, num_steps, privacy.unit)


def _planned(run_file: RunFile, privacy: PrivacySection) -> tuple[PlannedRelease, ...]:
    steps, most = max(run_file.training.local_steps or (1,)), privacy.max_participations
    return tuple(
        PlannedRelease(phase, table, release_of(privacy, table, steps), min(count, most or count))
        for (phase, table), count in times_of(run_file).items()
    )


def _schedule(planned: tuple[PlannedRelease, ...], privacy: PrivacySection) -> Schedule:
    releases = [entry.together() for entry in planned]
    order = planned_order(releases, privacy.delta, ORDERS)
    by_split = {split: epsilon_of(rdp, order, privacy.delta) for split, rdp in rdp_by_split(releases, order).items()}
    return Schedule(planned, order, privacy.delta, max(by_split.values()), by_split, privacy.unit, privacy.noise_at)


def _section(privacy: PrivacySection, table: Table) -> ReleaseSection:
    section = privacy.tables().get(table)
    if section is None:
        raise ScheduleError(f"[privacy] lacks the table [privacy.{table}], and the search makes such releases: add it")
    return section


def _rate(privacy: PrivacySection, table: Table) -> float:
    """Of the example unit; nothing amplifies what a whole client sends."""
    rate = _section(privacy, table).sample_rate
    if privacy.unit == "client":
        return 1.0
    if rate is None:
        raise ScheduleError(f"[privacy.{table}] lacks sample_rate")
    return rate


def _cure(schedule: Schedule, privacy: PrivacySection) -> str:
    """More noise for the table that spends most; where no noise there is enough, for the next one as well."""
    spent: dict[Table, float] = {}
    for entry in schedule.planned:
        spent[entry.table] = spent.get(entry.table, 0.0) + entry.together().rdp(schedule.order)
    tables = sorted(spent, key=spent.__getitem__, reverse=True)
    for num_tables in range(1, len(tables) + 1):
        louder = tables[:num_tables]
        factor = _least_factor(schedule, louder, privacy)
        if factor is not None:
            noises = {table: _section(privacy, table).noise_multiplier for table in louder}
            more = " and ".join(
                f"privacy.{table}.noise_multiplier from {noise:g} to {ceil(noise * factor * 1e3) / 1e3:.3f}"
                for table, noise in noises.items()
            )
            rate = " lower sample_rate there," if schedule.unit == "example" else ""
            return f"raise {more},{rate} or plan fewer trials or rounds"
    return "raise privacy.target_epsilon, or plan fewer trials or rounds"


def _least_factor(schedule: Schedule, tables: Sequence[Table], privacy: PrivacySection) -> float | None:
    """By how much the noise of these tables must grow for the plan to fit; None where no factor up to 64 does."""

    def fits(factor: float) -> bool:
        planned = tuple(one.louder(factor) if one.table in tables else one for one in schedule.planned)
        return _schedule(planned, privacy).epsilon <= privacy.target_epsilon

    low, high = 1.0, _MOST_NOISE
    if not fits(high):
        return None
    for _ in range(_NOISE_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
