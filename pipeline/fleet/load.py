"""Load without a search: some rounds of a run file's smallest network, and what each of them took."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from device_runtime.accounting import Budget, Release, epsilon_of_schedule, planned_order
from device_runtime.specs import ExampleSpec
from pipeline.coordinator.cost_ledger import PhaseCost, costs_by_phase
from pipeline.coordinator.plans import RoundPlan
from pipeline.coordinator.rounds import RoundResult
from pipeline.fleet.from_run_file import EmulatedRun, fleet_of
from pipeline.fleet.rounds import EmulatedRounds
from pipeline.run_sections import RunFile
from pipeline.searching.artifacts import Artifacts
from pipeline.searching.choices import space_of
from pipeline.searching.trials import MAX_ATTEMPTS, Job, Part, RoundFailedError, Trainer
from search.candidate import Candidate, HyperParameters


@dataclass(frozen=True)
class LoadRequest:
    """What `handheld fleet run` was asked to do.

    Attributes:
        num_phones: None for the run file's clients. Of more phones several hold the same examples. The cohort and the
            minimum of reports grow or shrink with the fleet.
        num_workers: None for the run file's.
    """

    run_file: RunFile
    num_rounds: int
    num_phones: int | None = None
    num_workers: int | None = None


@dataclass(frozen=True)
class RoundLoad:
    """What one round took.

    Attributes:
        reason: Why it failed; empty otherwise.
        virtual_s: On the fleet's clock.
        wall_s: Of this machine.
        device_seconds: Sum over phones, on the fleet's clock.
        bytes_up, bytes_down: Sum over phones.
    """

    number: int
    reason: str
    num_reports: int
    virtual_s: float
    wall_s: float
    updates_per_s: float
    device_seconds: float
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True)
class Load:
    """What a fleet did.

    Attributes:
        phones: How many of each profile.
        compile_s: Before the first round, or reading what was compiled before.
    """

    phones: dict[str, int]
    cohort_size: int
    num_parameters: int
    num_workers: int
    compile_s: float
    rounds: tuple[RoundLoad, ...]


Watch = Callable[[int, int], None]  # told the rounds that are over and the reports of the one that is not


@dataclass
class TimedRounds:
    """Holds an emulated fleet's rounds, and notes what each took."""

    rounds: EmulatedRounds
    clock: Callable[[], float]
    watch: Watch

    def __post_init__(self) -> None:
        self.store, self.blobs, self.run = self.rounds.store, self.rounds.blobs, self.rounds.run
        self.loads: list[RoundLoad] = []

    def hold_all(self, plans: Sequence[RoundPlan]) -> list[RoundResult]:
        """Hold rounds, one after the other."""
        return [self._hold(plan) for plan in plans]

    def _hold(self, plan: RoundPlan) -> RoundResult:
        number, before, virtual, began = len(self.loads), self._total(), self.rounds.clock.time, self.clock()
        result = self.rounds.hold(plan, lambda num_reports: self.watch(number, num_reports))
        wall_s, after = self.clock() - began, self._total()
        load = RoundLoad(
            number=number,
            reason=result.reason,
            num_reports=result.num_reports,
            virtual_s=self.rounds.clock.time - virtual,
            wall_s=wall_s,
            updates_per_s=result.num_reports / wall_s,
            device_seconds=after.device_seconds - before.device_seconds,
            bytes_up=after.bytes_up - before.bytes_up,
            bytes_down=after.bytes_down - before.bytes_down,
        )
        self.loads.append(load)
        self.watch(number + 1, 0)
        return result

    def close(self) -> None:
        """Let the fleet go."""
        self.rounds.close()

    def _total(self) -> PhaseCost:
        return next(
            iter(costs_by_phase(self.store, self.run.run_id)), PhaseCost("load", None, "train", 0, 0, 0.0, 0, 0)
        )


def run_load(request: LoadRequest, folder: Path, clock: Callable[[], float], watch: Watch) -> Load:
    """Train the smallest network of the run file's space, with the first of each hyper-parameter, for some rounds.

    Args:
        folder: Of the run; an empty one.
        clock: Seconds of this machine.

    Raises:
        SourceError, UnknownProfileError, ValueError: See `fleet_of`.
        RoundFailedError: Too few reports came, in every attempt.
    """
    run_file, made = _resize(request, folder)
    began = clock()
    trained, artifacts = _smallest(run_file, folder, made.source.spec)
    num_parameters = artifacts.get(trained.architecture).manifest.num_parameters
    compile_s = clock() - began
    with EmulatedRounds(made.run, folder, made.terms, made.data, made.source) as rounds:
        timed = TimedRounds(rounds, clock, watch)
        cohort = run_file.round.cohort_size
        trainer = Trainer(run_file, timed, artifacts, {}, {}, made.terms.rotation, lambda *_: None)
        (done,) = trainer.train([Job(Part("load", 0), trainer.start(trained), request.num_rounds)])
        if done.failed:
            raise RoundFailedError(done.failed)
        names = [phone.profile.name for phone in rounds.fleet.phones]
    phones = {name: names.count(name) for name in sorted(set(names))}
    return Load(phones, cohort, num_parameters, made.terms.num_workers, compile_s, tuple(timed.loads))


def _resize(request: LoadRequest, folder: Path) -> tuple[RunFile, EmulatedRun]:
    """The run file and its fleet with as many phones and workers as were asked for."""
    run_file = request.run_file
    made = fleet_of(run_file, folder, budget=_budget(run_file, request.num_rounds))
    if request.num_workers is not None:
        made = made._replace(terms=replace(made.terms, num_workers=request.num_workers))
    shares, count = made.data.shares, request.num_phones or len(made.data.shares)
    made = made._replace(data=replace(made.data, shares=tuple(shares[i % len(shares)] for i in range(count))))
    scale = count / len(shares)
    cohort = max(1, round(run_file.round.cohort_size * scale))
    least = min(cohort, max(1, round(run_file.round.min_reports * scale)))
    section = run_file.round.model_copy(update={"cohort_size": cohort, "min_reports": least})
    return run_file.model_copy(update={"round": section}), made


def _budget(run_file: RunFile, num_rounds: int) -> Budget | None:
    """What the rounds need, whatever the run may spend: nothing of a load is kept."""
    privacy = run_file.privacy
    if privacy is None:
        return None
    is_client = privacy.unit == "client"  # whose update is one step, whatever training it took
    steps = 1 if is_client else (run_file.training.local_steps or (1,))[0]
    rate = privacy.update.sample_rate or 1.0
    release = Release("update", "train", rate, privacy.update.noise_multiplier, steps, privacy.unit)
    planned = [release] * (num_rounds * MAX_ATTEMPTS)
    epsilon = epsilon_of_schedule(planned, privacy.delta)
    return Budget(epsilon, privacy.delta, planned_order(planned, privacy.delta), privacy.unit)


def _smallest(run_file: RunFile, folder: Path, spec: ExampleSpec) -> tuple[Candidate, Artifacts]:
    space = space_of(run_file, spec)
    first = {name: options[0] for name, options in space.hyper_parameters.choices().items()}
    artifacts = Artifacts(folder / "artifacts", spec, run_file.training.artifact_batch_size)
    return Candidate(space.smallest(), HyperParameters(**first)), artifacts
