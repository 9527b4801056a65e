"""Train candidates in rounds and observe them: one trial from its first parameters to its score."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from math import ceil

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
from pipeline.searching.rounds import Rounds
from pipeline.searching.schedule import terms_of
from pipeline.server_optimizer import FedAvgM
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
        trial: None outside the search.
    """

    phase: str
    trial: int | None = None

    def key(self, name: str) -> str:
        """Name of a round, unique in the run."""
        return f"{self.phase}/{name}" if self.trial is None else f"{self.phase}/{self.trial}/{name}"


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


@dataclass(frozen=True)
class Trainer:
    """Holds a run's rounds of training and evaluation.

    Attributes:
        num_clients: Clients wanted in an evaluation, by split: those that hold examples of it.
        watch: Told after every round of training: the part, the number of rounds so far, the model.
    """

    run_file: RunFile
    rounds: Rounds
    artifacts: Artifacts
    num_clients: Mapping[Split, int]
    rotation: int
    watch: Watch

    def start(self, candidate: Candidate) -> Model:
        """A candidate with its initial parameters, drawn from the run's seed."""
        artifact = self.artifacts.get(candidate.architecture)
        publish_artifact(self.rounds.store, self.rounds.blobs, self.artifacts.folder_of(artifact))
        return Model(candidate, artifact, initial_parameters(candidate.architecture, self.run_file.run.seed))

    def train(self, part: Part, model: Model, num_rounds: int) -> Model:
        """Train for some rounds; the server's momentum starts at rest."""
        hyper = model.candidate.hyper_parameters
        optimizer = FedAvgM(hyper.server_learning_rate, hyper.server_momentum)
        state, parameters = optimizer.init(len(model.parameters)), model.parameters
        for i in range(num_rounds):
            result = self._hold(part, f"train/{i}", model, self._train_terms(hyper))
            if result.aggregate_sha256 is None:
                raise RoundFailedError(f"round {result.round_id} has no aggregate")
            update = read_aggregate(self.rounds.blobs, result.aggregate_sha256, len(parameters))
            state, parameters = optimizer.step(state, parameters, update)
            model = Model(model.candidate, model.artifact, parameters)
            self.watch(part, i + 1, model)
        return model

    def evaluate(self, part: Part, model: Model, split: Split) -> Score:
        """Fuse the clients' accuracy on one of their splits."""
        privacy = terms_of(self.run_file.privacy, "test" if split == "test" else "metrics")
        terms = EvaluateTerms(split, ("accuracy",), privacy=privacy)
        result = self._hold(part, f"evaluate/{split}", model, terms)
        rate = 1.0 if privacy is None else privacy.sample_rate
        total = (result.metric_sums or {})["accuracy"]
        return Score(total / (rate * result.num_examples), result.num_examples, result.num_reports)

    def _hold(self, part: Part, name: str, model: Model, terms: TrainTerms | EvaluateTerms) -> RoundResult:
        sha256 = publish_parameters(self.rounds.store, self.rounds.blobs, model.parameters)
        reasons: list[str] = []
        for attempt in count():
            key = part.key(name) + (f"/attempt {attempt + 1}" if attempt else "")
            was_held = self._is_held(key)
            result = self.rounds.hold(self._plan(part, key, (model.artifact.artifact_id, sha256), terms))
            if result.status == "closed":
                return result
            if not was_held:  # what failed before this search was resumed is no reason to give up now
                reasons.append(result.reason)
            if len(reasons) == MAX_ATTEMPTS:
                break
        raise RoundFailedError(
            f"round {part.key(name)} failed {MAX_ATTEMPTS} times: {'; then: '.join(reasons)}; bring more clients and "
            "resume, or begin anew with a longer round.deadline_s or a smaller round.min_reports"
        )

    def _is_held(self, key: str) -> bool:
        store = self.rounds.store
        with store.transaction():
            found = find_round(store, self.rounds.run.run_id, key)
        return found is not None and found.status != "open"

    def _plan(self, part: Part, key: str, work: tuple[str, str], terms: TrainTerms | EvaluateTerms) -> RoundPlan:
        section = self.run_file.round
        train = terms if isinstance(terms, TrainTerms) else None
        evaluate = terms if isinstance(terms, EvaluateTerms) else None
        cohort = section.cohort_size if evaluate is None else self.num_clients[evaluate.split]
        share = section.min_reports / section.cohort_size
        return RoundPlan(
            run_id=self.rounds.run.run_id,
            round_key=key,
            phase=part.phase,
            kind="train" if evaluate is None else "evaluate",
            artifact_id=work[0],
            parameters_sha256=work[1],
            cohort_size=cohort,
            min_reports=section.min_reports if evaluate is None else max(1, ceil(share * cohort)),
            deadline_s=section.deadline_s,
            lease_s=section.deadline_s,
            train=train,
            evaluate=evaluate,
            trial=part.trial,
            over_selection=section.over_selection if evaluate is None else 1.0,
            weighting=section.weighting,
            rotation=self.rotation,
            min_train_examples=self.run_file.data.min_train_examples,
        )

    def _train_terms(self, hyper: HyperParameters) -> TrainTerms:
        return TrainTerms(
            learning_rate=hyper.learning_rate,
            local_steps=hyper.local_steps,
            local_epochs=hyper.local_epochs,
            batch_size=hyper.batch_size,
            momentum=hyper.momentum,
            max_grad_norm=hyper.max_grad_norm,
            privacy=terms_of(self.run_file.privacy, "update"),
        )
