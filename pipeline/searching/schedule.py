"""What a private run will release, phase by phase, known before it begins."""

from dataclasses import dataclass

from device_runtime.accounting import ORDERS, Budget, Release, epsilon_of, planned_order, rdp_by_split
from device_runtime.terms import NoiseAt, PrivacyTerms, Split
from pipeline.run_sections import PrivacySection, ReleaseSection, RunFile
from pipeline.search_sections import EvolutionSection, Nsga2Section, RandomSearchSection

_NOISE_STEPS = 30


class ScheduleError(ValueError):
    """The planned releases cost more than the run may spend; the message says what would fit."""


@dataclass(frozen=True)
class PlannedRelease:
    """Releases of one kind in one phase, of each client.

    Attributes:
        count: How many; each has `release.num_steps` logical steps.
    """

    phase: str
    release: Release
    count: int


@dataclass(frozen=True)
class Schedule:
    """The whole run.

    Attributes:
        order: At which the total is smallest; fixed before the run.
        epsilon: Of the split that spends most.
        epsilon_by_split: Of each split at that order.
        epsilon_as_fixed: Of the split that spends most, by privacy loss distributions or Renyi orders, whichever is
            smaller; for reading only: no stop rule may use it. None where it was not computed.
    """

    planned: tuple[PlannedRelease, ...]
    order: int
    delta: float
    epsilon: float
    epsilon_by_split: dict[Split, float]
    noise_at: NoiseAt
    epsilon_as_fixed: float | None = None

    def releases(self) -> tuple[Release, ...]:
        """Each release of one client."""
        return tuple(entry.release for entry in self.planned for _ in range(entry.count))


def plan_schedule(run_file: RunFile) -> Schedule | None:
    """What `run_file` will release at most, each client taking part in every round; None without [privacy]."""
    privacy = run_file.privacy
    if privacy is None:
        return None
    planned = _planned(run_file, privacy)
    releases = tuple(entry.release for entry in planned for _ in range(entry.count))
    order = planned_order(releases, privacy.delta, ORDERS)
    by_split = {split: epsilon_of(rdp, order, privacy.delta) for split, rdp in rdp_by_split(releases, order).items()}
    return Schedule(planned, order, privacy.delta, max(by_split.values()), by_split, privacy.noise_at)


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
        raise ScheduleError(
            f"the plan spends epsilon {schedule.epsilon:.3f} on the {split} split and privacy.target_epsilon is "
            f"{privacy.target_epsilon:g} (delta {privacy.delta:g}): {_cure(run_file, privacy, split)}"
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
    return Budget(privacy.target_epsilon, privacy.delta, schedule.order)


def terms_of(privacy: PrivacySection | None, kind: str) -> PrivacyTerms | None:
    """Privacy terms of one kind of release (`update`, `metrics`, `test`)."""
    if privacy is None:
        return None
    section: ReleaseSection = getattr(privacy, kind)
    return PrivacyTerms(privacy.noise_at, section.sample_rate, section.noise_multiplier)


def _planned(run_file: RunFile, privacy: PrivacySection) -> tuple[PlannedRelease, ...]:
    steps = max(run_file.training.local_steps or (1,))
    update = Release("update", "train", privacy.update.sample_rate, privacy.update.noise_multiplier, steps)
    metrics = Release("metrics", "validation", privacy.metrics.sample_rate, privacy.metrics.noise_multiplier)
    test = Release("metrics", "test", privacy.test.sample_rate, privacy.test.noise_multiplier)
    search = run_file.search
    if not isinstance(search, RandomSearchSection | EvolutionSection | Nsga2Section):
        raise ScheduleError(f"what {search.algorithm} will release cannot be planned: remove [privacy]")
    trials = search.trials
    return (
        PlannedRelease("search", update, trials * search.rounds),
        PlannedRelease("search", metrics, trials),
        PlannedRelease("final", update, run_file.final.rounds),
        PlannedRelease("test", test, 1),
    )


def _cure(run_file: RunFile, privacy: PrivacySection, split: Split) -> str:
    kind = {"train": "update", "validation": "metrics", "test": "test"}[split]
    section: ReleaseSection = getattr(privacy, kind)
    low, high = section.noise_multiplier, section.noise_multiplier * 64
    for _ in range(_NOISE_STEPS):
        middle = (low + high) / 2
        louder = section.model_copy(update={"noise_multiplier": middle})
        trial = run_file.model_copy(update={"privacy": privacy.model_copy(update={kind: louder})})
        schedule = plan_schedule(trial)
        is_enough = schedule is not None and schedule.epsilon_by_split[split] <= privacy.target_epsilon
        low, high = (low, middle) if is_enough else (middle, high)
    return (
        f"raise privacy.{kind}.noise_multiplier from {section.noise_multiplier:g} to {high:.3f}, lower its "
        "sample_rate, or plan fewer trials or rounds"
    )
