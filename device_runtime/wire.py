"""The device protocol's messages (`/v1`): frozen records that travel as JSON, with durations and never instants.

Bytes and not records are hashed and signed: whoever receives a message checks the bytes it got. Errors are RFC 9457
problem documents (`Problem`).
"""

from dataclasses import dataclass, field
from typing import Literal

from device_runtime.terms import MAX_ORDER, EvaluateTerms, MeasureTerms, Split, TrainTerms
from profiles.records import later

PROTOCOL = "handheld-v1"
Encoding = Literal["float32", "int8", "masked-int"]  # the last two are reserved names
RunKind = Literal["emulated", "real"]
AssignmentKind = Literal["train", "evaluate", "measure"]

DEVICE_HEADER = "Handheld-Device"
NONCE_HEADER = "Handheld-Nonce"
SIGNATURE_HEADER = "Handheld-Signature"
REPLAY_NONCE_HEADER = "Replay-Nonce"
PROBLEM_TYPE = "application/problem+json"
MAX_BLOB_BYTES = 2**30  # the largest file that a client downloads


@dataclass(frozen=True)
class ServerInfo:
    """Answer to `GET /v1/server`, the one request that needs no signature.

    Attributes:
        public_key: The server's P-256 key, SPKI DER in base64; pinned at enrolment.
    """

    public_key: str
    protocol: str = PROTOCOL
    schema: int = 1


@dataclass(frozen=True)
class Enrolment:
    """Body of `POST /v1/enrolment`, signed with the key it brings.

    Attributes:
        public_key: The device's P-256 key, SPKI DER in base64; the device id is the sha256 of the DER bytes.
        kind: `emulated` from a client whose key or seed was given to it.
    """

    public_key: str
    kind: RunKind
    schema: int = 1


@dataclass(frozen=True)
class EnrolmentReceipt:
    """Answer to an enrolment, signed by the server; enrolling again gives the same."""

    device_id: str
    server_public_key: str
    schema: int = 1


@dataclass(frozen=True)
class Conditions:
    """What the phone is doing; None where the platform does not tell."""

    is_charging: bool | None = None
    is_unmetered: bool | None = None
    is_idle: bool | None = None


@dataclass(frozen=True)
class Headroom:
    """What the phone's own ledger still allows.

    Attributes:
        order: The order of its filter, in [2, 256].
        rdp: Renyi divergence left at that order, by split.
    """

    order: int
    rdp: dict[str, float]

    def __post_init__(self) -> None:
        if not 2 <= self.order <= MAX_ORDER:
            raise ValueError(f"order must be in [2, {MAX_ORDER}], got {self.order}")
        if any(not left >= 0 for left in self.rdp.values()):
            raise ValueError(f"rdp must be >= 0, got {self.rdp}")


@dataclass(frozen=True)
class CheckIn:
    """Body of `POST /v1/check-in`.

    Attributes:
        runtime_version: Of ONNX Runtime.
        opset: Highest of the default domain that it runs.
        schemas: Versions of these records that the client reads.
        spec_id: sha256 of the canonical bytes of its example specification.
        num_examples: Public counts by split.
        headroom: None for a client without a privacy budget: it takes no private assignment.
        profile_id: sha256 of its device profile, where it has one.
        device_class: Performance class of that profile.
    """

    runtime_version: str
    opset: int
    spec_id: str
    num_examples: dict[str, int]
    schemas: tuple[int, ...] = (1,)
    encodings: tuple[Encoding, ...] = ("float32",)
    free_memory_mib: int | None = None
    conditions: Conditions = field(default_factory=Conditions)
    headroom: Headroom | None = None
    profile_id: str | None = None
    device_class: str | None = None
    schema: int = 1


@dataclass(frozen=True)
class Assignment:
    """One client's part in a round.

    Attributes:
        assignment_id: Unique at the server.
        artifact_id: sha256 of `manifest.json`, the blob to fetch first; it names the graphs. To `measure`, that of a
            measurement pack.
        parameters_sha256: The blob with the parameters to start from; None to `measure`, which needs none.
        lease_s: Seconds from now within which the report must arrive.
        rotation: Which fifth of the examples is the test split; emulated runs only, 0 otherwise.
        encoding: Of the update.
        train, evaluate, measure: The terms, by kind.
    """

    assignment_id: str
    run_id: str
    kind: AssignmentKind
    artifact_id: str
    parameters_sha256: str | None
    lease_s: float
    rotation: int = 0
    encoding: Encoding = "float32"
    train: TrainTerms | None = None
    evaluate: EvaluateTerms | None = None
    measure: MeasureTerms | None = None
    schema: int = 1

    def __post_init__(self) -> None:
        given = {"train": self.train, "evaluate": self.evaluate, "measure": self.measure}
        if given.pop(self.kind) is None or any(given.values()):
            raise ValueError(f"an assignment to {self.kind} must carry exactly its own terms")
        if (self.parameters_sha256 is None) != (self.kind == "measure"):
            raise ValueError("parameters_sha256 must be given to train and to evaluate, and left out to measure")


@dataclass(frozen=True)
class Window:
    """Come back between `earliest_s` and `latest_s` seconds from now, at a moment of your own choosing."""

    earliest_s: float
    latest_s: float


@dataclass(frozen=True)
class CheckInReply:
    """Answer to a check-in, signed by the server: the open assignment, or when to come back (exactly one)."""

    assignment: Assignment | None = None
    come_back: Window | None = None
    schema: int = 1


@dataclass(frozen=True)
class Report:
    """Body of `PUT /v1/assignments/{assignment_id}/report`; idempotent.

    Attributes:
        num_examples: Size of the split, public; never the number drawn. 0 for `measure`, which reads none.
        update_sha256: The blob with `parameter_update` or `gradient_sum`, for `train`.
        metric_sums: By name, for `evaluate`; for `train` the reward where one was asked for.
        num_scored: Size of the split that a reward is a sum over, public; 0 without one.
        profile_sha256: The blob with the canonical JSON of a `DeviceProfile`, for `measure`.
        work_s: Seconds the phone worked; None in private assignments, where time would tell the number drawn.
    """

    assignment_id: str
    num_examples: int
    update_sha256: str | None = None
    metric_sums: dict[str, float] | None = None
    work_s: float | None = None
    profile_sha256: str | None = None
    num_scored: int = later(0)
    schema: int = 1

    @property
    def blob_sha256(self) -> str | None:
        """The blob that must come before the report; None where it needs none."""
        return self.update_sha256 or self.profile_sha256


@dataclass(frozen=True)
class ReportReceipt:
    """Answer to a report: how far the round is."""

    num_reported: int
    cohort_size: int
    schema: int = 1


AbortReason = Literal["too-few-examples", "budget", "diverged", "conditions", "refused", "failed"]


@dataclass(frozen=True)
class Abort:
    """Body of `POST /v1/assignments/{assignment_id}/abort`: the client gives its place back.

    Attributes:
        reason: In a private run nothing here may depend on private data beyond what a release already told.
    """

    assignment_id: str
    reason: AbortReason
    schema: int = 1


@dataclass(frozen=True)
class Problem:
    """An RFC 9457 problem document.

    Attributes:
        type: `urn:handheld:problem:NAME`, e.g. `stale-nonce`, `upgrade-required`, `not-enrolled`, `bad-signature`,
            `round-closed`, `conflicting-report`, `bad-update`, `too-large`, `unknown-blob`, `bad-request`.
        detail: What is wrong and the cure.
    """

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = None


SPLITS: tuple[Split, ...] = ("train", "validation", "test")
