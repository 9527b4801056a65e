"""The search loop: ask for trials, train and score them side by side, tell, save; until no more are asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from device_runtime.arrays import Vector
from device_runtime.segments import Positions, positions_of
from device_runtime.terms import ARCHITECTURE, Split
from device_runtime.vectors import read_vector
from pipeline.compile.artifact import initial_parameters
from pipeline.coordinator.cost_ledger import PhaseCost, costs_by_phase
from pipeline.coordinator.publish import publish_parameters
from pipeline.searching.curves import Curves
from pipeline.searching.progress import Progress, Step, load_progress, save_step
from pipeline.searching.rounds import Rounds
from pipeline.searching.sharing import OverlapMean, SharedWeights, keep_shared, read_shared, step_shared
from pipeline.searching.trials import Job, Model, Part, RoundFailedError, Score, Trained, Trainer
from pipeline.server_optimizer import ServerOptimizer, optimizer_of
from profiles.records import from_plain, record_id, to_plain
from search.algorithm import NoWinnerError, SearchAlgorithm
from search.architecture import Architecture
from search.candidate import NOT_ASKED, Candidate, Observation, Trial
from search.layers import num_parameters
from search.slicing import inherit, places

Shared = Mapping[Architecture, SharedWeights]
Merged = Mapping[tuple[Architecture, tuple[tuple[int, float], ...]], Vector]


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

    def check_start(self) -> None:
        """Ask for the first trials, which changes nothing: what limits refuse is told before anything is kept.

        Raises:
            InfeasibleError, NoWinnerError: There is nothing to try.
        """
        state = self.algorithm.init(self.seed)
        if not self.algorithm.ask(state, self.parallel):
            self.algorithm.winners(state, ())

    def run(self) -> Progress:
        """Run all trials, from the beginning or from the last step that was saved."""
        progress = load_progress(self._rounds.store, self._run_id) or Progress(to_plain(self.algorithm.init(self.seed)))
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
            save_step(self._rounds.store, self._run_id, progress)
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
        candidate, parameters = self._weights_of(progress, trial)
        return self.trainer.start(candidate, None if is_fresh else parameters)

    def _weights_of(self, progress: Progress, trial: int) -> tuple[Candidate, Vector]:
        """A trial's candidate, and its parameters f32[P] when it was over."""
        place = next(i for i, one in enumerate(progress.observations) if one.trial.index == trial)
        candidate, sha256 = progress.observations[place].trial.candidate, progress.weights[place]
        if not sha256:
            raise ValueError(f"trial {trial} has no weights of its own: they were its supernet's, and nobody scored it")
        data = self._rounds.blobs.get(sha256)
        return candidate, read_vector(data, "parameters", num_parameters(candidate.architecture))

    def _run_step(self, trials: Sequence[Trial], progress: Progress) -> tuple[tuple[Observation, ...], Progress]:
        self.trainer.artifacts.get_all([trial.candidate.architecture for trial in trials])
        supernets = dict.fromkeys(t.supernet for t in trials if t.supernet is not None and not t.merged)
        shared = {supernet: self._shared(supernet, progress) for supernet in supernets}
        merges = dict.fromkeys((t.supernet, t.merged) for t in trials if t.supernet is not None and t.merged)
        merged = {key: self._merged(*key, progress) for key in merges}  # a rung's trials all start from one
        jobs = [self._job(trial, shared, merged, progress) for trial in trials]
        for trial, job in zip(trials, jobs, strict=True):
            self.watcher.began(job.part, trial, trial.rounds)
        trained = self.trainer.train(jobs)
        stepped = _step_shared(list(zip(trials, jobs, trained, strict=True)), shared)
        observations = self._observe(trials, jobs, trained, shared | stepped)
        weights = tuple(
            self._publish(one.model) if _has_weights(trial) else "" for trial, one in zip(trials, trained, strict=True)
        )
        step = Step(observations, weights, self.curves.of_trials({trial.index for trial in trials}))
        store, blobs = self._rounds.store, self._rounds.blobs
        return observations, replace(
            progress,
            steps=(*progress.steps, step),
            shared=progress.shared | {record_id(one): keep_shared(store, blobs, stepped[one]) for one in stepped},
        )

    def _shared(self, supernet: Architecture, progress: Progress) -> SharedWeights:
        """The shared weights of a supernet; at first its initial ones."""
        kept = progress.shared.get(record_id(supernet))
        if kept is None:
            return SharedWeights(initial_parameters(supernet, self.trainer.run_file.run.seed))
        return read_shared(self._rounds.blobs, kept, num_parameters(supernet))

    def _job(self, trial: Trial, shared: Shared, merged: Merged, progress: Progress) -> Job:
        part = Part("search", trial.index, trial.phase)
        model = self._start(trial, shared, merged, progress)
        return Job(part, model, trial.rounds, trial.clients, trial.moves, trial.reward)

    def _start(self, trial: Trial, shared: Shared, merged: Merged, progress: Progress) -> Model:
        candidate = trial.candidate
        if trial.supernet is not None:
            key = trial.supernet, trial.merged
            whole = merged[key] if trial.merged else shared[trial.supernet].parameters
            return self.trainer.start(candidate, whole[_places(trial.supernet, candidate.architecture)])
        if trial.start_from is None:
            return self.trainer.start(candidate)
        before, parameters = self._weights_of(progress, trial.start_from)
        inherited = inherit(before.architecture, parameters, candidate.architecture, "strongest")
        return self.trainer.start(candidate, inherited)

    def _merged(self, supernet: Architecture, merged: Sequence[tuple[int, float]], progress: Progress) -> Vector:
        """Parameters f32[P] of a supernet, each the mean over the trials that hold it; fresh where none does."""
        fresh = initial_parameters(supernet, self.trainer.run_file.run.seed)
        mean = OverlapMean(len(fresh))
        for trial, share in merged:
            candidate, parameters = self._weights_of(progress, trial)
            mean.add(_places(supernet, candidate.architecture), parameters, share)
        return np.where(mean.is_moved, mean.mean(), fresh)

    def _architecture_weights(self, trial: Trial, shared: Shared) -> tuple[float, ...]:
        if trial.supernet is None or trial.merged or not trial.supernet.is_supernet:
            return ()
        manifest = self.trainer.artifacts.get(trial.supernet).manifest
        weights = shared[trial.supernet].parameters[positions_of(manifest, {ARCHITECTURE})]
        return tuple(map(float, weights))

    def _observe(
        self,
        trials: Sequence[Trial],
        jobs: Sequence[Job],
        trained: Sequence[Trained],
        shared: Shared,
    ) -> tuple[Observation, ...]:
        asked = [i for i, trial in enumerate(trials) if trial.is_scored and not trained[i].failed]
        scoring = [replace(jobs[i], model=trained[i].model) for i in asked]
        scores = dict(zip(asked, self.trainer.evaluate(scoring, "validation"), strict=True))
        ledger = costs_by_phase(self._rounds.store, self._run_id)
        observations = []
        for i, trial in enumerate(trials):
            score = scores.get(i, trained[i].failed or NOT_ASKED)
            if isinstance(score, Score):
                self.watcher.scored(jobs[i].part, "validation", score)
            costs = [cost for cost in ledger if (cost.phase, cost.trial) == (trial.phase, trial.index)]
            weights = self._architecture_weights(trial, shared)
            observations.append(_observation(trial, trained[i], score, costs, weights))
        return tuple(observations)

    @property
    def _rounds(self) -> Rounds:
        return self.trainer.rounds

    @property
    def _run_id(self) -> str:
        return self._rounds.run.run_id

    def _publish(self, model: Model) -> str:
        return publish_parameters(self._rounds.store, self._rounds.blobs, model.parameters)


def _has_weights(trial: Trial) -> bool:
    """Whether anybody may ask for what a trial ends with: what went into shared weights unscored is theirs."""
    return trial.supernet is None or bool(trial.merged) or trial.is_scored or trial.rounds == 0


def _places(supernet: Architecture, architecture: Architecture) -> Positions:
    """Where the parameters of a network lie in those of its supernet."""
    return slice(None) if supernet == architecture else places(supernet, architecture, "first")


def _step_shared(parts: Sequence[tuple[Trial, Job, Trained]], shared: Shared) -> dict[Architecture, SharedWeights]:
    """Give what was learnt back: one step of the server's optimiser for each supernet that anybody trained to keep."""
    changes: dict[Architecture, OverlapMean] = {}
    optimizers: dict[Architecture, ServerOptimizer] = {}
    for trial, job, one in parts:
        supernet, optimizer = trial.supernet, optimizer_of(trial.candidate.hyper_parameters)
        if supernet is None or not trial.is_kept or one.update is None:
            continue
        if optimizers.setdefault(supernet, optimizer) != optimizer:
            raise ValueError(
                f"trials of one supernet that train side by side are one step of the server: trial {trial.index} must "
                "have the server's hyper-parameters of those before it"
            )
        where = _places(supernet, trial.candidate.architecture)
        total = changes.setdefault(supernet, OverlapMean(len(shared[supernet].parameters)))
        total.add(job.moving if isinstance(where, slice) else where[job.moving], one.update, one.weight)
    return {one: step_shared(shared[one], changes[one], optimizers[one]) for one in changes}


def _observation(
    trial: Trial,
    trained: Trained,
    score: Score | str,
    costs: Sequence[PhaseCost],
    architecture_weights: tuple[float, ...],
) -> Observation:
    reward = {} if trial.reward is None or trained.reward is None else {str(trial.reward): trained.reward}
    return Observation(
        trial=trial,
        accuracy=score.accuracy if isinstance(score, Score) else 0.0,
        num_examples=score.num_examples if isinstance(score, Score) else 0,
        metrics=reward,
        client_seconds=sum(cost.device_seconds for cost in costs),
        bytes_up=sum(cost.bytes_up for cost in costs),
        bytes_down=sum(cost.bytes_down for cost in costs),
        failed="" if isinstance(score, Score) else score,
        num_rewarded=trained.num_rewarded,
        architecture_weights=architecture_weights,
    )
