"""The search loop: ask for trials, train and score them, tell, save; until the algorithm asks for no more."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from device_runtime.terms import Split
from pipeline.coordinator.cost_ledger import costs_by_phase
from pipeline.run_result import ClassCost, CurvePoint, TrialResult
from pipeline.searching.rounds import Rounds
from pipeline.searching.trials import Model, Part, Score, Trainer
from profiles.records import from_plain, to_plain
from profiles.schema import DeviceProfile
from search.algorithm import SearchAlgorithm
from search.candidate import Observation, Trial
from search.cost import cost_of
from search.layers import num_parameters

_STATE = "search"


class Watcher(Protocol):
    """Told how far a search is."""

    def began(self, part: Part, trial: Trial | None, num_rounds: int) -> None: ...
    def trained(self, part: Part, num_rounds: int, model: Model) -> None: ...
    def scored(self, part: Part, split: Split, score: Score) -> None: ...


class Unwatched:
    """A watcher that tells nobody."""

    def began(self, part: Part, trial: Trial | None, num_rounds: int) -> None: ...
    def trained(self, part: Part, num_rounds: int, model: Model) -> None: ...
    def scored(self, part: Part, split: Split, score: Score) -> None: ...


@dataclass(frozen=True)
class Progress:
    """What a search knows so far; saved after every step.

    Attributes:
        state: Of the algorithm, as plain data.
        observations: Of all trials, in the order of their indices.
    """

    state: Any
    observations: tuple[Observation, ...] = ()
    is_over: bool = False


@dataclass(frozen=True)
class Search:
    """One search over the rounds of one run.

    Attributes:
        parallel: Trials asked for at a time.
    """

    algorithm: SearchAlgorithm[Any]
    trainer: Trainer
    rounds: Rounds
    seed: int
    parallel: int
    watcher: Watcher

    def run(self) -> Progress:
        """Run all trials, from the beginning or from the last step that was saved."""
        progress = self._load()
        while not progress.is_over:
            state = from_plain(self.algorithm.state_type, progress.state)
            trials = self.algorithm.ask(state, self.parallel)
            if not trials:
                progress = Progress(progress.state, progress.observations, is_over=True)
                continue
            observations = tuple(self._observe(trial) for trial in trials)
            state = self.algorithm.tell(state, observations)
            progress = Progress(to_plain(state), (*progress.observations, *observations))
            self._save(progress)
        return progress

    def trained(self, trial: Trial) -> Model:
        """A trial's model after its rounds; rounds that were held are read, not held again."""
        part = Part("search", trial.index)
        start = self.trainer.start(trial.candidate)
        self.watcher.began(part, trial, trial.rounds)
        return self.trainer.train(part, start, trial.rounds)

    def _observe(self, trial: Trial) -> Observation:
        part, model = Part("search", trial.index), self.trained(trial)
        score = self.trainer.evaluate(part, model, "validation")
        self.watcher.scored(part, "validation", score)
        cost = next(
            cost for cost in costs_by_phase(self.rounds.store, self.rounds.run.run_id) if cost.trial == trial.index
        )
        return Observation(
            trial=trial,
            accuracy=score.accuracy,
            num_examples=score.num_examples,
            client_seconds=cost.device_seconds,
            bytes_up=cost.bytes_up,
            bytes_down=cost.bytes_down,
        )

    def _load(self) -> Progress:
        with self.rounds.store.transaction():
            found = self.rounds.store.get_record(self.rounds.run.run_id, _STATE)
        return Progress(to_plain(self.algorithm.init(self.seed))) if found is None else from_plain(Progress, found)

    def _save(self, progress: Progress) -> None:
        with self.rounds.store.transaction():
            self.rounds.store.put_record(self.rounds.run.run_id, _STATE, progress)


def best_of(observations: tuple[Observation, ...]) -> Observation:
    """The observation with the highest accuracy, the earliest of equals."""
    scored = [observation for observation in observations if observation.is_scored]
    return max(scored, key=lambda observation: (observation.accuracy, -observation.trial.index))


def trial_result(
    observation: Observation, is_noisy: bool, profiles: tuple[DeviceProfile, ...], batch_size: int
) -> TrialResult:
    """An observation with its predicted costs, for the result."""
    candidate = observation.trial.candidate
    costs = [(profile, cost_of(candidate.architecture, profile, batch_size)) for profile in profiles]
    return TrialResult(
        index=observation.trial.index,
        candidate=candidate,
        num_parameters=num_parameters(candidate.architecture),
        accuracy=observation.accuracy,
        is_noisy=is_noisy,
        num_examples=observation.num_examples,
        costs=tuple(
            ClassCost(
                profile.name,
                profile.device_class,
                cost.latency_ms,
                cost.training_step_ms,
                cost.peak_memory_mib,
                cost.size_kib,
            )
            for profile, cost in costs
        ),
    )


@dataclass
class Curves:
    """Collects the emulator's exact accuracies while a search runs.

    Attributes:
        accuracy: Exact accuracy of a model on a split; None where nobody knows it (a real run).
    """

    accuracy: Callable[[Model, Split], float] | None
    _points: dict[tuple[str, int | None, int], CurvePoint] = field(default_factory=dict)

    def add(self, part: Part, num_rounds: int, model: Model) -> None:
        """Note the model after a round."""
        key = (part.phase, part.trial, num_rounds)
        if self.accuracy is None or key in self._points:  # a round that is read again has its point
            return
        self._points[key] = CurvePoint(*key, self.accuracy(model, "validation"))

    @property
    def points(self) -> tuple[CurvePoint, ...]:
        """All points, the search's trials first; a resumed search notes them in another order."""
        return tuple(sorted(self._points.values(), key=lambda p: (p.trial is None, p.trial or 0, p.round)))

    def last_of_trials(self) -> dict[str, float]:
        """Exact accuracy of each trial when it was scored, by trial."""
        return {str(point.trial): point.accuracy for point in self.points if point.trial is not None}
