"""Train and score models in rounds with the clients of a run, several models side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from device_runtime.arrays import Vector
from device_runtime.artifact import Artifact
from device_runtime.terms import EvaluateTerms, Split, TrainTerms
from pipeline.compile.artifact import initial_parameters
from pipeline.coordinator.plans import RoundPlan
from pipeline.coordinator.publish import publish_artifact, publish_parameters, read_aggregate
from pipeline.coordinator.round_rows import find_round
from pipeline.coordinator.rounds import RoundResult
from pipeline.run_sections import RunFile
from pipeline.searching.artifacts import Artifacts
from pipeline.searching.rounds import Rounds, RunClient
from pipeline.searching.schedule import terms_of
from pipeline.server_optimizer import optimizer_of
from search.candidate import Candidate, HyperParameters

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
    """

    phase: str
    trial: int

    def key(self, name: str) -> str:
        """Name of a round, unique in the run."""
        return f"{self.phase}/{self.trial}/{name}"


@dataclass(frozen=True)
class Job:
    """A model to train or to score for a part of the run.

    Attributes:
        rounds: To train.
        clients: Ids of the devices that take part; None for all.
    """

    part: Part
    model: Model
    rounds: int = 0
    clients: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Trained:
    """What came of a job to train.

    Attributes:
        weight: Of its last round in a mean with others': examples or reports, by the run's weighting.
        failed: Why a round could not be held; the model is as it was before.
    """

    model: Model
    weight: float = 0.0
    failed: str = ""


@dataclass(frozen=True)
class Score:
    """Fused metrics over a cohort's split.

    Attributes:
        accuracy: Share of examples that are right; with noise where the run is private, so possibly outside [0, 1].
        num_reports: Clients that it was fused over.
    """

    accuracy: float
    num_examples: int
    num_reports: int


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
            going = [run for run in runs if number < run.job.rounds and not run.failed]
            terms = [self._train_terms(run.model.candidate.hyper_parameters) for run in going]
            asked = [replace(run.job, model=run.model) for run in going]
            for run, result in zip(going, self._hold(asked, f"train/{number}", terms), strict=True):
                if isinstance(result, str):
                    run.failed = result
                    continue
                run.step(read_aggregate(self.rounds.blobs, _aggregate_of(result), len(run.model.parameters)))
                is_uniform = self.run_file.round.weighting == "uniform"
                run.weight = float(result.num_reports if is_uniform else result.num_examples)
                self.watch(run.job.part, number + 1, run.model)
        return [Trained(run.job.model if run.failed else run.model, run.weight, run.failed) for run in runs]

    def evaluate(self, jobs: Sequence[Job], split: Split) -> list[Score | str]:
        """Fuse the clients' accuracy of each model on one of their splits; a text says why one has no score."""
        privacy = terms_of(self.run_file.privacy, "test" if split == "test" else "metrics")
        terms = EvaluateTerms(split, ("accuracy",), privacy=privacy)
        rate = 1.0 if privacy is None else privacy.sample_rate
        results = self._hold(jobs, f"evaluate/{split}", [terms] * len(jobs))
        return [result if isinstance(result, str) else _score(result, rate) for result in results]

    def _hold(self, jobs: Sequence[Job], name: str, terms: Sequence[Terms]) -> list[RoundResult | str]:
        """One round a job, side by side; those that fail are held again, up to MAX_ATTEMPTS times."""
        works = [self._work(job.model) for job in jobs]
        results: dict[int, RoundResult | str] = {}
        reasons: list[list[str]] = [[] for _ in jobs]
        for attempt in count():
            suffix = f"/attempt {attempt + 1}" if attempt else ""
            waiting = [i for i in range(len(jobs)) if i not in results]
            if not waiting:
                return [results[i] for i in range(len(jobs))]
            keys = {i: jobs[i].part.key(name) + suffix for i in waiting}
            were_held = {i for i in waiting if self._is_held(keys[i])}
            plans = [self._plan(jobs[i], keys[i], works[i], terms[i]) for i in waiting]
            for i, result in zip(waiting, self.rounds.hold_all(plans), strict=True):
                if result.status == "closed":
                    results[i] = result
                    continue
                # Of real phones, what failed before this search was resumed is no reason to give up now; emulated ones
                # must come to the same result as if it had never stopped.
                if i not in were_held or self.rounds.run.kind == "emulated":
                    reasons[i].append(result.reason)
                if len(reasons[i]) == MAX_ATTEMPTS:
                    results[i] = (
                        f"round {jobs[i].part.key(name)} failed {MAX_ATTEMPTS} times: {'; then: '.join(reasons[i])}; "
                        "bring more clients and resume, or begin anew with a longer round.deadline_s or a smaller "
                        "round.min_reports"
                    )
        raise AssertionError("count() never ends")

    def _work(self, model: Model) -> tuple[str, str]:
        sha256 = publish_parameters(self.rounds.store, self.rounds.blobs, model.parameters)
        return model.artifact.artifact_id, sha256

    def _is_held(self, key: str) -> bool:
        store = self.rounds.store
        with store.transaction():
            found = find_round(store, self.rounds.run.run_id, key)
        return found is not None and found.status != "open"

    def _plan(self, job: Job, key: str, work: tuple[str, str], terms: Terms) -> RoundPlan:
        section = self.run_file.round
        train = terms if isinstance(terms, TrainTerms) else None
        evaluate = terms if isinstance(terms, EvaluateTerms) else None
        cohort = self._cohort_size(job.clients, evaluate)
        return RoundPlan(
            run_id=self.rounds.run.run_id,
            round_key=key,
            phase=job.part.phase,
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
            eligible=job.clients,
            min_train_examples=self.run_file.data.min_train_examples,
        )

    def _cohort_size(self, clients: tuple[str, ...] | None, evaluate: EvaluateTerms | None) -> int:
        if clients is not None:
            split: Split = "train" if evaluate is None else evaluate.split
            return max(1, sum(self.clients[name].num_examples[split] > 0 for name in clients))
        return self.run_file.round.cohort_size if evaluate is None else self.num_clients[evaluate.split]

    def _train_terms(self, hyper: HyperParameters) -> TrainTerms:
        return TrainTerms(
            learning_rate=hyper.learning_rate,
            local_steps=hyper.local_steps,
            local_epochs=hyper.local_epochs,
            batch_size=hyper.batch_size,
            momentum=hyper.momentum,
            proximal=hyper.proximal,
            max_grad_norm=hyper.max_grad_norm,
            privacy=terms_of(self.run_file.privacy, "update"),
        )


class _Run:
    """A job under way: the model so far and the server's optimiser."""

    def __init__(self, job: Job) -> None:
        hyper = job.model.candidate.hyper_parameters
        self.job, self.model, self.weight, self.failed = job, job.model, 0.0, ""
        self._optimizer = optimizer_of(hyper)
        self._state = self._optimizer.init(len(job.model.parameters))

    def step(self, update: Vector) -> None:
        """Take a round's mean update f32[P]."""
        self._state, parameters = self._optimizer.step(self._state, self.model.parameters, update)
        self.model = replace(self.model, parameters=parameters)


def _aggregate_of(result: RoundResult) -> str:
    if result.aggregate_sha256 is None:
        raise RoundFailedError(f"round {result.round_id} has no aggregate")
    return result.aggregate_sha256


def _score(result: RoundResult, rate: float) -> Score:
    total = (result.metric_sums or {})["accuracy"]
    return Score(total / (rate * result.num_examples), result.num_examples, result.num_reports)
