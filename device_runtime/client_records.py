"""What the client's step function takes and gives: its state, events that reach it, actions that it asks for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from device_runtime.wire import AbortReason, Assignment, CheckIn, Report, RunKind

Phase = Literal["enrol", "check-in", "fetch", "work", "upload", "report", "abort"]


@dataclass(frozen=True)
class Pause:
    """Rest until some moment between `earliest` and `latest`, on the driver's clock.

    Attributes:
        is_asked: By the server; otherwise the client holds back after a failure of its own accord.
    """

    earliest: float
    latest: float
    is_asked: bool


@dataclass(frozen=True)
class ClientState:
    """All that a client must not forget; saved after every step, before the step's action is done.

    Attributes:
        public_key: SPKI DER in base64.
        server_key: The pinned key of the server, SPKI DER in base64; None before the first contact.
        nonce: The newest that the server gave; None asks for one first.
        asked_with: The nonce of the request that is being answered, which a signed answer has to name.
        runtime_version: Of ONNX Runtime, as described at the last check-in.
        lease_ends: When the assignment's lease runs out, on the driver's clock.
        to_fetch: sha256 of the blobs that are still to be looked for, the next one first.
        is_fetched_again: Whether a blob of this assignment came damaged before; the second time it is given up.
        files: sha256 of the blobs of the last assignment whose manifest was read, which the cache keeps for the next.
        report: Of the assignment, once its work is done and the update (if any) is stored.
        abort_reason: Told to the server in phase `abort`.
        is_second_try: Whether the last answer was about a stale nonce.
        num_failures, failing_since: In a row, and when that began; 0 and None after a good answer.
        num_aborts: In a row.
        given_up: The last assignment that was aborted, or for which the server has another report.
        num_forged: Answers whose signature was not the server's, ever.
        num_reported: Reports that the server took, ever.
        note: The last thing worth telling a person.
    """

    device_id: str
    public_key: str
    kind: RunKind
    phase: Phase = "enrol"
    server_key: str | None = None
    nonce: str | None = None
    asked_with: str | None = None
    runtime_version: str = "0"
    pause: Pause | None = None
    assignment: Assignment | None = None
    lease_ends: float = 0.0
    to_fetch: tuple[str, ...] = ()
    is_fetched_again: bool = False
    files: tuple[str, ...] = ()
    report: Report | None = None
    abort_reason: AbortReason | None = None
    is_second_try: bool = False
    num_failures: int = 0
    failing_since: float | None = None
    num_aborts: int = 0
    given_up: str | None = None
    num_forged: int = 0
    num_reported: int = 0
    note: str = ""
    schema: int = 1


@dataclass(frozen=True)
class Started:
    """The process began, perhaps after a kill; the state is as it was last saved."""


@dataclass(frozen=True)
class Woke:
    """The rest that was asked for is over, or somebody woke the client."""


@dataclass(frozen=True)
class Described:
    """The answer to `Describe`."""

    check_in: CheckIn


@dataclass(frozen=True)
class Response:
    """The server's answer, or, to a download, the driver's own from its cache (200 without headers).

    Attributes:
        headers: Names in lower case.
        is_intact: False for a download whose bytes do not fit its hash, which the driver checks before saving.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    is_intact: bool = True


@dataclass(frozen=True)
class TransportFailed:
    """No answer came: no connection, a timeout, a broken one."""

    detail: str


@dataclass(frozen=True)
class WorkDone:
    """The assignment is done, and the update or profile to send, if there is one, is stored for good."""

    report: Report


@dataclass(frozen=True)
class WorkFailed:
    """The assignment cannot be done here."""

    reason: AbortReason
    detail: str


@dataclass(frozen=True)
class BlobsLost:
    """A file that the action needs is gone or damaged on this device."""

    detail: str


Event = Started | Woke | Described | Response | TransportFailed | WorkDone | WorkFailed | BlobsLost


@dataclass(frozen=True)
class Request:
    """Send this and answer with `Response` or `TransportFailed`.

    Attributes:
        nonce: Sign with it; None sends no signature.
        body: JSON.
        blob: sha256 of the stored update or profile to send in place of `body`.
        save_as: sha256 under which to keep the answer's body; what is kept already need not be asked for.
    """

    method: str
    target: str
    nonce: str | None = None
    body: bytes = field(default=b"", repr=False)
    blob: str | None = None
    save_as: str | None = None


@dataclass(frozen=True)
class Describe:
    """Tell what this device is like now: answer with `Described`."""


@dataclass(frozen=True)
class Train:
    """Charge the ledger, train, store the update: answer with `WorkDone`, `WorkFailed` or `BlobsLost`."""

    assignment: Assignment


@dataclass(frozen=True)
class Evaluate:
    """Charge the ledger, evaluate: answer with `WorkDone`, `WorkFailed` or `BlobsLost`."""

    assignment: Assignment


@dataclass(frozen=True)
class Measure:
    """Run the measurement pack, store the profile: answer with `WorkDone`, `WorkFailed` or `BlobsLost`."""

    assignment: Assignment


@dataclass(frozen=True)
class Sleep:
    """Rest between `earliest_s` and `latest_s` seconds, as the driver's random source says, then `Woke`."""

    earliest_s: float
    latest_s: float


@dataclass(frozen=True)
class Stop:
    """Only a person can help: the reason names the cure. After that the driver may begin anew with `Started`."""

    reason: str


Action = Request | Describe | Train | Evaluate | Measure | Sleep | Stop
Step = tuple[ClientState, Action]
