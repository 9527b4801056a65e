"""The one table from errors to RFC 9457 problem documents."""

from http import HTTPStatus

from starlette.exceptions import HTTPException

from device_runtime.signing import SignatureError
from device_runtime.wire import Problem
from pipeline.coordinator.blobs import UnknownBlobError
from pipeline.coordinator.check_in import NotEnrolledError
from pipeline.coordinator.eligibility import UpgradeRequiredError, WrongKindError, WrongSpecError
from pipeline.coordinator.reporting import BadUpdateError, NotAssignedError
from pipeline.coordinator.round_rows import UnknownAssignmentError
from pipeline.coordinator.rounds import BadMessageError, ConflictingReportError, RoundClosedError
from pipeline.server.nonces import StaleNonceError
from pipeline.server.requests import TooLargeError
from profiles.records import RecordError

# name of the problem (after `urn:handheld:problem:`), status, title
PROBLEMS: dict[type[Exception], tuple[str, int, str]] = {
    RecordError: ("bad-request", 422, "The message cannot be read"),
    BadMessageError: ("bad-request", 422, "The message does not say what was asked"),
    BadUpdateError: ("bad-update", 422, "The update is not what was asked for"),
    SignatureError: ("bad-signature", 401, "The signature does not fit"),
    StaleNonceError: ("stale-nonce", 401, "The nonce is not valid any more"),
    NotEnrolledError: ("not-enrolled", 401, "The device is not enrolled"),
    NotAssignedError: ("not-assigned", 403, "The assignment is another device's"),
    WrongKindError: ("wrong-kind", 403, "Emulated and real devices do not mix"),
    WrongSpecError: ("wrong-spec", 403, "The examples are of another specification"),
    UnknownBlobError: ("unknown-blob", 404, "There is no such blob"),
    UnknownAssignmentError: ("unknown-assignment", 404, "There is no such assignment"),
    ConflictingReportError: ("conflicting-report", 409, "Something else was sent before"),
    RoundClosedError: ("round-closed", 409, "The round takes nothing more"),  # the client drops it and checks in again
    TooLargeError: ("too-large", 413, "The body is too large"),
    UpgradeRequiredError: ("upgrade-required", 426, "The device is older than the artifact needs"),
}


def problem_of(error: Exception) -> Problem:
    """The document that tells this error."""
    if isinstance(error, HTTPException):
        title = HTTPStatus(error.status_code).phrase
        return _problem(title.lower().replace(" ", "-"), error.status_code, title, f"{title}; see /v1/openapi.json")
    name, status, title = next(PROBLEMS[cls] for cls in type(error).__mro__ if cls in PROBLEMS)
    return _problem(name, status, title, str(error))


def internal_problem() -> Problem:
    """What a device is told of a defect; the details are in the server's log."""
    return _problem("internal", 500, "The server failed", "The server failed; come back later")


def _problem(name: str, status: int, title: str, detail: str) -> Problem:
    return Problem(f"urn:handheld:problem:{name}", title, status, detail)
