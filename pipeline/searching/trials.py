"""Train and score models in rounds with the clients of a run, several models side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from device_runtime.arrays import Vector
from device_runtime.artifact import Artifact
from device_runtime.segments import Positions, moving_segments, positions_of
from device_runtime.terms import ClientPrivacyTerms, EvaluateTerms, RewardTerms, Split, TrainTerms
from pipeline.compile.artifact import initial_parameters
from pipeline.coordinator.plans import RoundPlan
from pipeline.coordinator.publish import publish_artifact, publish_parameters, read_aggregate
from pipeline.coordinator.rounds import RoundResult
from pipeline.run_sections import RunFile
from pipeline.searching.artifacts import Artifacts
from pipeline.searching.attempts import hold_rounds
from pipeline.searching.rounds import Rounds, RunClient
from pipeline.searching.terms import evaluate_terms, mean_of, train_terms
from pipeline.server_optimizer import optimizer_of
from search.candidate import Candidate, Moves, Reward

MAX_ATTEMPTS = 3


class RoundFailedError(RuntimeError):
    """A round failed in every attempt; the message says how."""


@dataclass(frozen=True)
class Model:
    """A candidate with parameters f32[P]."""

    candidate: Candidate
    artifact: Artifact
    parameters: Vector = field(repr=False)


@dataclass(frozen=True)
class Part:
    """Which part of a run rounds belong to.

    Attributes:
        phase: `search`, `final` or `test`.
        trial: Whose candidate it is.
        counted: The phase of the ledgers that it counts under; None for its own.
    """

    phase: str
    trial: int
    counted: str | None = None

    def key(self, name: str) -> str:
        """Name of a round, unique in the run."""
        return f"{self.phase}/{self.trial}/{name}"


@dataclass(frozen=True)
class Job:
    """A model to train or to score for a part of the run.

    Attributes:
        rounds: To train.
        clients: Ids of the devices that take part; None for all.
        eligible: Ids of those that a training's cohorts of the usual size are drawn from, where `clients` is None; None
            for all.
        moves, reward: As of a trial.
    """

    part: Part
    model: Model
    rounds: int = 0
    clients: tuple[str, ...] | None = None
    moves: Moves = "all"
    reward: Reward | None = None
    eligible: tuple[str, ...] | None = None

    @property
    def moving(self) -> Positions:
        """Which of the model's parameters its training moves."""
        manifest = self.model.artifact.manifest
        return positions_of(manifest, moving_segments(manifest, self.moves))


@dataclass(frozen=True)
class Trained:
    """What came of a job to train.

    Attributes:
        weight: Of its last round in a mean with others': examples or reports, by the run's weighting; in the client
            unit the reports that were expected.
        failed: Why a round could not be held; the model is as it was before.
        update: f32[p], mean update of the last round before the server's optimiser, of what moves (`Job.moving`); None
            where no round was held.
        reward: Mean over the clients' validation examples after the last round, in the private client unit over the
            clients; None where none was asked for.
        num_rewarded: Examples behind it.
    """

    model: Model
    weight: float = 0.0
    failed: str = ""
    update: Vector | None = field(default=None, repr=False)
    reward: float | None = None
    num_rewarded: int = 0


@dataclass(frozen=True)
class Score:
    """Fused metrics over a cohort's split.

    Attributes:
        accuracy: Share of examples that are right; with noise where the run is private, so possibly outside [0, 1].
        num_reports: Clients that it was fused over.
        expected_reports: By what their sum was divided in the client unit; None elsewhere.
    """

    accuracy: float
    num_examples: int
    num_reports: int
    expected_reports: int | None = None


Watch = Callable[[Part, int, Model], None]
Terms = TrainTerms | EvaluateTerms


@dataclass(frozen=True)
class Trainer:
    """Holds a run's rounds of training and evaluation.

    Attributes:
        num_clients: Clients wanted in an evaluation with all, by split: those that hold examples of it.
        clients: Devices that a job may name, by id.
        watch: Told after every round of training: the part, the number of rounds so far, the model.
    """

    run_file: RunFile
    rounds: Rounds
    artifacts: Artifacts
    num_clients: Mapping[Split, int]
    clients: Mapping[str, RunClient]
    rotation: int
    watch: Watch

    def start(self, candidate: Candidate, parameters: Vector | None = None) -> Model:
        """A candidate with parameters f32[P]; by default its initial ones, drawn from the run's seed."""
        artifact = self.artifacts.get(candidate.architecture)
        publish_artifact(self.rounds.store, self.rounds.blobs, self.artifacts.folder_of(artifact))
        if parameters is None:
            parameters = initial_parameters(candidate.architecture, self.run_file.run.seed)
        return Model(candidate, artifact, parameters)

    def train(self, jobs: Sequence[Job]) -> list[Trained]:
        """Train models side by side, each for its rounds; the server's optimiser starts at rest."""
        runs = [_Run(job) for job in jobs]
        for number in range(max((job.rounds for job in jobs), default=0)):
            going = [run for run in runs if number < run.job.rounds and not run.trained.failed]
            terms = [self._train_terms(run.job) for run in going]
            asked = [replace(run.job, model=run.model) for run in going]
            for run, its, result in zip(going, terms, self._hold(asked, f"train/{number}", terms), strict=True):
                if isinstance(result, str):
                    run.trained = Trained(run.job.model, failed=result)
                    continue
                self._step(run, its, result)
                self.watch(run.job.part, number + 1, run.model)
        return [run.trained for run in runs]

    def evaluate(self, jobs: Sequence[Job], split: Split) -> list[Score | str]:
        """Fuse the clients' accuracy of each model on one of their splits; a text says why one has no score."""
        privacy = self.run_file.privacy
        terms = [evaluate_terms(privacy, split, self._cohort_size(job, (split,), is_scoring=True)) for job in jobs]
        results = self._hold(jobs, f"evaluate/{split}", terms)
        return [
            result if isinstance(result, str) else _score(result, its)
            for result, its in zip(results, terms, strict=True)
        ]

    def _step(self, run: "_Run", terms: TrainTerms, result: RoundResult) -> None:
        """Take a round's mean update, and what it tells."""
        if result.aggregate_sha256 is None:
            raise RoundFailedError(f"round {result.round_id} has no aggregate")
        update = read_aggregate(self.rounds.blobs, result.aggregate_sha256, run.num_moving)
        weight = result.num_reports if self.run_file.round.weighting == "uniform" else result.num_examples
        if isinstance(terms.privacy, ClientPrivacyTerms):
            weight = terms.privacy.expected_reports
        reward = None if terms.reward is None else _reward(terms.reward, result)
        run.step(Trained(run.model, float(weight), "", update, reward, result.num_scored))

    def _hold(self, jobs: Sequence[Job], name: str, terms: Sequence[Terms]) -> list[RoundResult | str]:
        works = [self._work(job.model) for job in jobs]
        keys = [job.part.key(name) for job in jobs]
        return hold_rounds(self.rounds, keys, lambda i, key: self._plan(jobs[i], key, works[i], terms[i]), MAX_ATTEMPTS)

    def _work(self, model: Model) -> tuple[str, str]:
        sha256 = publish_parameters(self.rounds.store, self.rounds.blobs, model.parameters)
        return model.artifact.artifact_id, sha256

    def _plan(self, job: Job, key: str, work: tuple[str, str], terms: Terms) -> RoundPlan:
        section = self.run_file.round
        train = terms if isinstance(terms, TrainTerms) else None
        evaluate = terms if isinstance(terms, EvaluateTerms) else None
        cohort = self._cohort_size(job, terms.splits, is_scoring=evaluate is not None)
        privacy = self.run_file.privacy
        return RoundPlan(
            run_id=self.rounds.run.run_id,
            round_key=key,
            phase=job.part.counted or job.part.phase,
            kind="train" if evaluate is None else "evaluate",
            artifact_id=work[0],
            parameters_sha256=work[1],
            cohort_size=cohort,
            min_reports=max(1, -(-section.min_reports * cohort // section.cohort_size)),  # its share, rounded up
            deadline_s=section.deadline_s,
            lease_s=section.deadline_s,
            train=train,
            evaluate=evaluate,
            trial=job.part.trial,
            over_selection=section.over_selection if evaluate is None and job.clients is None else 1.0,
            weighting=section.weighting,
            rotation=self.rotation,
            eligible=job.eligible if job.clients is None else job.clients,
            is_at_deadline=isinstance(terms.privacy, ClientPrivacyTerms),
            max_participations=None if privacy is None else privacy.max_participations,
            min_train_examples=self.run_file.data.min_train_examples,
        )

    def _cohort_size(self, job: Job, splits: Sequence[Split], *, is_scoring: bool) -> int:
        """Reports wanted: of the clients that hold examples of all splits that are read, those named, some or all."""
        if job.clients is not None:
            return self._num_holding(job.clients, splits)
        if job.eligible is not None:
            return min(self.run_file.round.cohort_size, self._num_holding(job.eligible, splits))
        if is_scoring and not (self.run_file.privacy and self.run_file.privacy.unit == "client"):
            return self.num_clients[splits[0]]
        holding = (self.num_clients[split] for split in splits if split != "train")  # which every client has
        return min([self.run_file.round.cohort_size, *holding])

    def _num_holding(self, names: Sequence[str], splits: Sequence[Split]) -> int:
        known = [self.clients[name].num_examples for name in names]
        return max(1, sum(all(counts[split] > 0 for split in splits) for counts in known))

    def _train_terms(self, job: Job) -> TrainTerms:
        def make(expected_reports: int) -> TrainTerms:
            hyper = job.model.candidate.hyper_parameters
            return train_terms(self.run_file.privacy, hyper, job.moves, job.reward, expected_reports)

        return make(self._cohort_size(job, make(1).splits, is_scoring=False))


class _Run:
    """A job under way: what came of it so far and the server's optimiser."""

    def __init__(self, job: Job) -> None:
        self.job, self.trained = job, Trained(job.model)
        self._optimizer, self._moving = optimizer_of(job.model.candidate.hyper_parameters), job.moving
        self.num_moving = len(job.model.parameters[self._moving])
        self._state = self._optimizer.init(self.num_moving)

    @property
    def model(self) -> Model:
        return self.trained.model

    def step(self, trained: Trained) -> None:
        """Take what came of a round, and a step along its update."""
        if trained.update is None:
            raise ValueError("a round that closed has an update")
        parameters = self.model.parameters.copy()
        self._state, moved = self._optimizer.step(self._state, parameters[self._moving], trained.update)
        parameters[self._moving] = moved
        self.trained = replace(trained, model=replace(self.model, parameters=parameters))


def _reward(terms: RewardTerms, result: RoundResult) -> float:
    """The mean gain or loss: a bounded loss is told as what is left of its bound (`measure_reward`)."""
    mean = mean_of((result.metric_sums or {})[terms.release], result.num_scored, terms.privacy)
    if terms.loss_bound is None:
        return mean
    return terms.loss_bound * (1.0 - mean if terms.release == "loss" else mean)


def _score(result: RoundResult, terms: EvaluateTerms) -> Score:
    accuracy = mean_of((result.metric_sums or {})["accuracy"], result.num_examples, terms.privacy)
    expected = terms.privacy.expected_reports if isinstance(terms.privacy, ClientPrivacyTerms) else None
    return Score(accuracy, result.num_examples, result.num_reports, expected)
