"""Do one assignment: load and check what it names, charge the ledger, train or evaluate, give the report.

The same functions serve a process on a phone and the emulated fleet; only where bytes, examples and randomness come
from differs, and those are arguments.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors

from device_runtime.accounting import BudgetExceededError, Release, releases_of_terms
from device_runtime.arrays import Vector
from device_runtime.artifact import Artifact, ArtifactError, check_artifact, read_manifest
from device_runtime.descent import DivergedError
from device_runtime.examples.source import ExampleSource, SourceError, check_spec, get_or_null
from device_runtime.examples.splits import split_ids
from device_runtime.ledger import Ledger
from device_runtime.loaded import Examples, LoadedAssignment, TooFewExamplesError, check_trainable
from device_runtime.measurement_pack import PackError
from device_runtime.private_random import PrivateRandom
from device_runtime.scoring import evaluate
from device_runtime.segments import SegmentError
from device_runtime.session import StepSession
from device_runtime.specs import FrozenTensors
from device_runtime.terms import ClientPrivacyTerms, EvaluateTerms, PrivacyTerms, Split, TrainTerms
from device_runtime.training import train
from device_runtime.vectors import VectorError, read_parameters, write_vector
from device_runtime.wire import AbortReason, Assignment, Report

ReadBlob = Callable[[str], bytes]
MAX_SESSIONS = 4


class WorkRefusedError(ValueError):
    """This client takes no part in an assignment, whatever its examples are."""


# The nearest ancestor decides; what no row covers is a defect, which no abort may hide.
ABORT_REASONS: dict[type[Exception], AbortReason] = {
    TooFewExamplesError: "too-few-examples",
    BudgetExceededError: "budget",
    DivergedError: "diverged",
    ArtifactError: "refused",
    PackError: "refused",
    SegmentError: "refused",
    SourceError: "refused",
    VectorError: "refused",
    WorkRefusedError: "refused",
    ValueError: "failed",
    # ONNX Runtime's own have no ancestor in common.
    runtime_errors.Fail: "failed",
    runtime_errors.InvalidArgument: "failed",
    runtime_errors.InvalidGraph: "failed",
    runtime_errors.InvalidProtobuf: "failed",
    runtime_errors.NotImplemented: "failed",
    runtime_errors.RuntimeException: "failed",
    MemoryError: "failed",
}


@dataclass(frozen=True)
class Holdings:
    """What a client works with.

    Attributes:
        split_key: Secret of the data source.
        ledger: None for a client without a privacy budget: it takes no private assignment, and one that has a budget
            takes no other.
        trusts_sums: Whether the server may see raw sums and add the noise itself (`noise_at = "sum"`); against it there
            is then no privacy, so nobody but the app says so.
    """

    source: ExampleSource
    split_key: bytes = field(repr=False)
    ledger: Ledger | None
    trusts_sums: bool = False


@dataclass(frozen=True)
class WorkResult:
    """What came of an assignment.

    Attributes:
        report: Without `work_s`, which the driver adds where it may (`timed_report`).
        update: Bytes to store and send, safetensors or a profile; None after an evaluation.
        num_chunks: Graph runs, for the cost of emulated devices; never leaves a phone.
    """

    report: Report
    update: bytes | None = field(repr=False)
    num_chunks: int


Compute = Callable[[PrivateRandom], WorkResult]


class SessionCache:
    """Sessions by artifact id, the ones used last; they hold no client's data, so that a fleet shares one cache.

    Artifacts with the same frozen tensors share one copy of them here too.
    """

    def __init__(self, max_sessions: int = MAX_SESSIONS) -> None:
        self._opened: OrderedDict[str, tuple[StepSession, Mapping[str, Vector]]] = OrderedDict()
        self._max_sessions = max_sessions

    def open(self, artifact_id: str, read_blob: ReadBlob) -> StepSession:
        """The session of an artifact whose files `read_blob` gives."""
        if artifact_id not in self._opened:
            artifact = load_artifact(artifact_id, read_blob, self._find_frozen)
            self._opened[artifact_id] = StepSession(artifact), artifact.frozen
        self._opened.move_to_end(artifact_id)
        while len(self._opened) > self._max_sessions:
            self._opened.popitem(last=False)
        return self._opened[artifact_id][0]

    def _find_frozen(self, wanted: FrozenTensors) -> Mapping[str, Vector] | None:
        opened = self._opened.values()
        return next((frozen for session, frozen in opened if session.manifest.frozen == wanted), None)


def load_artifact(
    artifact_id: str,
    read_blob: ReadBlob,
    find_frozen: Callable[[FrozenTensors], Mapping[str, Vector] | None] = lambda _: None,
) -> Artifact:
    """An artifact from its blobs; raises ArtifactError, or what `read_blob` raises.

    Args:
        find_frozen: Gives frozen tensors that were read before; None for those to read.
    """
    manifest = read_blob(artifact_id)
    record = read_manifest(manifest)
    gradient, graph = read_blob(record.gradient_sha256), read_blob(record.evaluate_sha256)
    frozen: Mapping[str, Vector] | bytes | None = None
    if record.frozen is not None:
        frozen = find_frozen(record.frozen)
        frozen = read_blob(record.frozen.sha256) if frozen is None else frozen
    return check_artifact(manifest, gradient, graph, frozen, artifact_id)


def privacy_of(assignment: Assignment) -> PrivacyTerms | ClientPrivacyTerms | None:
    """The privacy that the terms ask for; a reward and steps of their own have it of the same kind."""
    terms = assignment.train or assignment.evaluate
    return None if terms is None else terms.privacy


def split_of_assignment(assignment: Assignment) -> Split:
    """Whose examples an assignment's report counts."""
    return _splits_of(assignment)[0]


def releases_of(assignment: Assignment) -> tuple[Release, ...]:
    """All that doing an assignment releases; nothing of one without privacy, which no budget pays for."""
    return releases_of_terms(assignment.train or assignment.evaluate)


def count_examples(source: ExampleSource, split_key: bytes, rotation: int = 0) -> dict[str, int]:
    """How many examples each split holds; public."""
    return {split: len(ids) for split, ids in split_ids(source, split_key, rotation).items()}


def charge_assignment(assignment: Assignment, ledger: Ledger | None) -> None:
    """Charge all that an assignment releases, before any of it is computed; measuring releases nothing of the examples.

    Raises:
        BudgetExceededError: The ledger has no room for it, or there is none and the assignment is private, or there is
            one and the assignment is not.
    """
    releases = releases_of(assignment)
    if assignment.measure is not None or (not releases and ledger is None):
        return
    if ledger is None:
        raise BudgetExceededError(
            "the assignment spends privacy and this client has no budget; give it one (--epsilon and --delta)"
        )
    if not releases:
        raise BudgetExceededError(
            "the assignment is not private: it would spend an infinite epsilon and this client's is "
            f"{ledger.budget.epsilon:g}; start a private run, or a client without a budget"
        )
    ledger.charge(releases, assignment.assignment_id)


def perform(
    assignment: Assignment,
    holdings: Holdings,
    read_blob: ReadBlob,
    private_random: PrivateRandom,
    sessions: SessionCache,
) -> WorkResult:
    """Do an assignment; the ledger is charged after all that can be refused was, and before the examples are touched.

    Args:
        read_blob: Gives the bytes of a sha256.
        private_random: Fresh for this call.

    Raises:
        Exception: One of `ABORT_REASONS`, or what `read_blob` raises.
    """
    compute = _load(assignment, holdings, read_blob, sessions)
    charge_assignment(assignment, holdings.ledger)
    return compute(private_random)


def perform_charged(
    assignment: Assignment,
    holdings: Holdings,
    read_blob: ReadBlob,
    private_random: PrivateRandom,
    sessions: SessionCache,
) -> WorkResult:
    """Like `perform`, for a caller that holds the ledger elsewhere and has charged it (`charge_assignment`)."""
    return _load(assignment, holdings, read_blob, sessions)(private_random)


def read_examples(assignment: Assignment, holdings: Holdings) -> dict[Split, Examples]:
    """The examples that an assignment sees, by split; in private work those that cannot be read as null records."""
    source = holdings.source
    ids = split_ids(source, holdings.split_key, assignment.rotation)
    read = source.get if privacy_of(assignment) is None else partial(get_or_null, source)
    return {split: Examples(*read(ids[split])) for split in _splits_of(assignment)}


def abort_reason_of(error: Exception) -> AbortReason:
    """What to tell the server of one of `ABORT_REASONS`."""
    return next(ABORT_REASONS[cls] for cls in type(error).__mro__ if cls in ABORT_REASONS)


def timed_report(assignment: Assignment, report: Report, work_s: float) -> Report:
    """Add how long the work took, except where that would tell how many examples were drawn."""
    return report if privacy_of(assignment) is not None else replace(report, work_s=work_s)


def _splits_of(assignment: Assignment) -> tuple[Split, ...]:
    terms = assignment.train or assignment.evaluate
    return ("train",) if terms is None else terms.splits


def _load(assignment: Assignment, holdings: Holdings, read_blob: ReadBlob, sessions: SessionCache) -> Compute:
    """Read and check all that an assignment names; what is left is to compute."""
    if assignment.parameters_sha256 is None:
        raise WorkRefusedError(f"there is nothing to train or evaluate in an assignment to {assignment.kind}")
    privacy = privacy_of(assignment)
    if privacy is not None and privacy.noise_at == "sum" and not holdings.trusts_sums:
        raise WorkRefusedError(
            "the assignment asks for raw sums that the server would add the noise to: against the server that is not "
            "private; --trust-server-with-sums allows it, or the run sets noise_at = 'device'"
        )
    session = sessions.open(assignment.artifact_id, read_blob)
    check_spec(holdings.source.spec, session.manifest.spec)
    parameters = read_parameters(read_blob(assignment.parameters_sha256), session.manifest)
    examples = read_examples(assignment, holdings)
    if assignment.train is not None:
        training = LoadedAssignment(session, parameters, assignment.train)
        check_trainable(training, examples)
        return partial(_train, assignment.assignment_id, training, examples)
    if assignment.evaluate is not None:
        evaluation = LoadedAssignment(session, parameters, assignment.evaluate)
        check_trainable(evaluation, examples)
        return partial(_evaluate, assignment.assignment_id, evaluation, examples)
    raise WorkRefusedError(f"this client cannot {assignment.kind}")


def _train(
    assignment_id: str,
    work: LoadedAssignment[TrainTerms],
    examples: Mapping[Split, Examples],
    private_random: PrivateRandom,
) -> WorkResult:
    update = train(work, examples, private_random)
    data = write_vector(update.name, update.vector)
    report = Report(
        assignment_id,
        update.num_examples,
        update_sha256=hashlib.sha256(data).hexdigest(),
        metric_sums=update.metric_sums,
        num_scored=update.num_scored,
    )
    return WorkResult(report, data, update.num_chunks)


def _evaluate(
    assignment_id: str,
    work: LoadedAssignment[EvaluateTerms],
    examples: Mapping[Split, Examples],
    private_random: PrivateRandom,
) -> WorkResult:
    sums = evaluate(work, examples[work.terms.split], private_random)
    report = Report(assignment_id, sums.num_examples, metric_sums=sums.by_name())
    return WorkResult(report, None, sums.num_chunks)
