"""The search loop: ask for trials, train and score them side by side, tell, save; until no more are asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from device_runtime.arrays import Vector
from device_runtime.terms import Split
from device_runtime.vectors import read_vector
from pipeline.compile.artifact import initial_parameters
from pipeline.coordinator.cost_ledger import PhaseCost, costs_by_phase
from pipeline.coordinator.publish import publish_parameters
from pipeline.run_result import ClassCost, CurvePoint, TrialResult
from pipeline.searching.rounds import Rounds
from pipeline.searching.sharing import OverlapMean
from pipeline.searching.trials import Job, Model, Part, RoundFailedError, Score, Trained, Trainer
from profiles.records import from_plain, to_plain
from profiles.schema import DeviceProfile
from search.algorithm import NoWinnerError, SearchAlgorithm
from search.architecture import Architecture
from search.candidate import Observation, Trial
from search.cost import cost_of
from search.layers import num_parameters
from search.slicing import inherit, places

_STATE = "search"
NOT_ASKED = "no score was asked for"


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


@dataclass
class Curves:
    """Collects the emulator's exact accuracies while a search runs.

    Attributes:
        accuracy: Exact accuracy of a model on a split; None where nobody knows it (a real run).
    """

    accuracy: Callable[[Model, Split], float] | None
    _points: dict[tuple[str, int, int], CurvePoint] = field(default_factory=dict)

    def add(self, part: Part, num_rounds: int, model: Model) -> None:
        """Note the model after a round."""
        key = (part.phase, part.trial, num_rounds)
        if self.accuracy is None or key in self._points:  # a round that is read again has its point
            return
        self._points[key] = CurvePoint(*key, self.accuracy(model, "validation"))

    def restore(self, points: Sequence[CurvePoint]) -> None:
        """Take back the points that were kept with the progress of a search."""
        self._points.update({(point.phase, point.trial, point.round): point for point in points})

    @property
    def points(self) -> tuple[CurvePoint, ...]:
        """All points, the search's first; a resumed search notes them in another order."""
        return tuple(sorted(self._points.values(), key=lambda p: (p.phase != "search", p.trial, p.round)))

    def last_of_trials(self) -> dict[str, float]:
        """Exact accuracy of each trial when it was over, by trial."""
        return {str(point.trial): point.accuracy for point in self.points if point.phase == "search"}


@dataclass(frozen=True)
class Progress:
    """What a search knows so far; saved after every step.

    Attributes:
        state: Of the algorithm, as plain data.
        observations: Of all trials, in the order of their indices.
        weights: sha256 of each trial's parameters, in the same order.
        shared: sha256 of the supernet's parameters; empty where there is none.
        curve: What the emulator knows of the trials' exact accuracies.
    """

    state: Any
    observations: tuple[Observation, ...] = ()
    weights: tuple[str, ...] = ()
    shared: str = ""
    curve: tuple[CurvePoint, ...] = ()
    is_over: bool = False


@dataclass(frozen=True)
class Search:
    """One search over the rounds of one run.

    Attributes:
        parallel: Trials asked for at a time; they train side by side.
        curves: Told of every round of training by the trainer.
    """

    algorithm: SearchAlgorithm[Any]
    trainer: Trainer
    seed: int
    parallel: int
    watcher: Watcher
    curves: Curves

    def run(self) -> Progress:
        """Run all trials, from the beginning or from the last step that was saved."""
        progress = self._load()
        self.curves.restore(progress.curve)
        while not progress.is_over:
            state = from_plain(self.algorithm.state_type, progress.state)
            trials = self.algorithm.ask(state, self.parallel)
            if not trials:
                progress = replace(progress, is_over=True)
                continue
            observations, progress = self._run_step(trials, progress)
            state = self.algorithm.tell(state, observations)
            self._check_end(state, observations, progress)
            progress = replace(progress, state=to_plain(state))
            self._save(progress)
        return progress

    def _check_end(self, state: Any, observations: Sequence[Observation], progress: Progress) -> None:
        """Save no step whose failures end the search without a network: resumed, it is tried again."""
        failed = next((one.failed for one in observations if one.failed and one.failed != NOT_ASKED), "")
        if not failed or self.algorithm.ask(state, 1):
            return
        try:
            self.algorithm.winners(state, progress.observations)
        except NoWinnerError as error:
            raise RoundFailedError(f"{error}: {failed}") from error

    def winners(self, progress: Progress) -> dict[str, int]:
        """Index of the trial that each platform ships, by the name of its profile."""
        state = from_plain(self.algorithm.state_type, progress.state)
        return self.algorithm.winners(state, progress.observations)

    def model_of(self, progress: Progress, trial: int, is_fresh: bool = False) -> Model:
        """A trial's model when it was over, or its network with fresh weights."""
        place = next(i for i, one in enumerate(progress.observations) if one.trial.index == trial)
        candidate = progress.observations[place].trial.candidate
        if is_fresh:
            return self.trainer.start(candidate)
        return self.trainer.start(candidate, self._read(progress.weights[place], candidate.architecture))

    def _run_step(self, trials: Sequence[Trial], progress: Progress) -> tuple[tuple[Observation, ...], Progress]:
        self.trainer.artifacts.get_all([trial.candidate.architecture for trial in trials])
        jobs = [Job(Part("search", t.index), self._start(t, progress), t.rounds, t.clients) for t in trials]
        for trial, job in zip(trials, jobs, strict=True):
            self.watcher.began(job.part, trial, trial.rounds)
        trained = self.trainer.train(jobs)
        shared = self._share(trials, jobs, trained, progress)
        observations = self._observe(trials, jobs, trained)
        return observations, replace(
            progress,
            observations=(*progress.observations, *observations),
            weights=(*progress.weights, *(self._publish(one.model) for one in trained)),
            shared=shared,
            curve=self.curves.points,
        )

    def _start(self, trial: Trial, progress: Progress) -> Model:
        candidate = trial.candidate
        if trial.supernet is not None:
            shared = self._supernet(trial.supernet, progress)
            return self.trainer.start(candidate, inherit(trial.supernet, shared, candidate.architecture, "first"))
        if trial.start_from is None:
            return self.trainer.start(candidate)
        before = self.model_of(progress, trial.start_from)
        architecture = before.candidate.architecture
        parameters = inherit(architecture, before.parameters, candidate.architecture, "strongest")
        return self.trainer.start(candidate, parameters)

    def _supernet(self, architecture: Architecture, progress: Progress) -> Vector:
        """The shared weights f32[P]; at first the initial ones of the largest network."""
        if not progress.shared:
            return initial_parameters(architecture, self.trainer.run_file.run.seed)
        return self._read(progress.shared, architecture)

    def _share(
        self, trials: Sequence[Trial], jobs: Sequence[Job], trained: Sequence[Trained], progress: Progress
    ) -> str:
        """Give what was learnt back to the shared weights: each one's mean change over the trials that trained it."""
        learnt = [(t, j, m) for t, j, m in zip(trials, jobs, trained, strict=True) if t.supernet and m.weight > 0]
        if not learnt:
            return progress.shared
        supernet = learnt[0][0].supernet
        if supernet is None or any(trial.supernet != supernet for trial, _, _ in learnt):
            raise ValueError("the trials of one search share the weights of one supernet")
        shared = self._supernet(supernet, progress)
        changes = OverlapMean(len(shared))
        for trial, job, one in learnt:
            where = places(supernet, trial.candidate.architecture, "first")
            changes.add(where, one.model.parameters - job.model.parameters, one.weight)
        return publish_parameters(self._rounds.store, self._rounds.blobs, shared + changes.mean())

    def _observe(
        self, trials: Sequence[Trial], jobs: Sequence[Job], trained: Sequence[Trained]
    ) -> tuple[Observation, ...]:
        asked = [i for i, trial in enumerate(trials) if trial.is_scored and not trained[i].failed]
        scoring = [replace(jobs[i], model=trained[i].model) for i in asked]
        scores = dict(zip(asked, self.trainer.evaluate(scoring, "validation"), strict=True))
        ledger = costs_by_phase(self._rounds.store, self._rounds.run.run_id)
        costs = [cost for cost in ledger if cost.phase == "search"]
        observations = []
        for i, trial in enumerate(trials):
            score = scores.get(i, trained[i].failed or NOT_ASKED)
            if isinstance(score, Score):
                self.watcher.scored(jobs[i].part, "validation", score)
            observations.append(_observation(trial, score, [cost for cost in costs if cost.trial == trial.index]))
        return tuple(observations)

    @property
    def _rounds(self) -> Rounds:
        return self.trainer.rounds

    def _publish(self, model: Model) -> str:
        return publish_parameters(self._rounds.store, self._rounds.blobs, model.parameters)

    def _read(self, sha256: str, architecture: Architecture) -> Vector:
        return read_vector(self._rounds.blobs.get(sha256), "parameters", num_parameters(architecture))

    def _load(self) -> Progress:
        with self._rounds.store.transaction():
            found = self._rounds.store.get_record(self._rounds.run.run_id, _STATE)
        return Progress(to_plain(self.algorithm.init(self.seed))) if found is None else from_plain(Progress, found)

    def _save(self, progress: Progress) -> None:
        with self._rounds.store.transaction():
            self._rounds.store.put_record(self._rounds.run.run_id, _STATE, progress)


def _observation(trial: Trial, score: Score | str, costs: Sequence[PhaseCost]) -> Observation:
    return Observation(
        trial=trial,
        accuracy=score.accuracy if isinstance(score, Score) else 0.0,
        num_examples=score.num_examples if isinstance(score, Score) else 0,
        client_seconds=sum(cost.device_seconds for cost in costs),
        bytes_up=sum(cost.bytes_up for cost in costs),
        bytes_down=sum(cost.bytes_down for cost in costs),
        failed="" if isinstance(score, Score) else score,
    )


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
        rounds=observation.trial.rounds,
        start_from=observation.trial.start_from,
        is_shared=observation.trial.supernet is not None,
        num_clients=None if observation.trial.clients is None else len(observation.trial.clients),
        failed=observation.failed,
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
