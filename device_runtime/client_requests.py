"""What the client asks for in each phase, how a request is signed, and how long it rests."""

from dataclasses import replace

from device_runtime.client_records import (
    ClientState,
    Describe,
    Evaluate,
    Measure,
    Pause,
    Request,
    Sleep,
    Step,
    Train,
)
from device_runtime.signing import SigningKey, request_message
from device_runtime.wire import (
    DEVICE_HEADER,
    NONCE_HEADER,
    SIGNATURE_HEADER,
    Abort,
    Assignment,
    AssignmentKind,
    Enrolment,
    Window,
)
from profiles.records import encode_record

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 300.0
LONGEST_COME_BACK_S = 86_400.0
_WORK: dict[AssignmentKind, type[Train] | type[Evaluate] | type[Measure]] = {
    "train": Train,
    "evaluate": Evaluate,
    "measure": Measure,
}


def request_headers(request: Request, body: bytes, key: SigningKey) -> dict[str, str]:
    """The headers that name the device and sign a request.

    Args:
        body: What is sent: the request's own or the bytes of its blob.
    """
    headers = {DEVICE_HEADER: key.key_id}
    if request.nonce is not None:
        message = request_message(request.method, request.target, body, request.nonce)
        headers |= {NONCE_HEADER: request.nonce, SIGNATURE_HEADER: key.sign(message)}
    return headers


def proceed(state: ClientState) -> Step:
    """Ask for what the state's phase needs."""
    assignment = state.assignment
    if state.phase == "work" and assignment is not None:
        return state, _WORK[assignment.kind](assignment)
    if state.nonce is None:
        return state, Request("GET", "/v1/server")
    if state.phase == "enrol":
        return state, post(state, "/v1/enrolment", encode_record(Enrolment(state.public_key, state.kind)))
    if assignment is None or state.phase == "check-in":
        return replace(state, phase="check-in"), Describe()
    return state, _assignment_request(state, assignment)


def _assignment_request(state: ClientState, assignment: Assignment) -> Request:
    path = f"/v1/assignments/{assignment.assignment_id}"
    if state.phase == "fetch":
        sha256 = state.to_fetch[0]
        return Request("GET", f"/v1/blobs/{sha256}", state.nonce, save_as=sha256)
    if state.phase == "abort" or state.report is None:
        message = Abort(assignment.assignment_id, state.abort_reason or "failed")
        return post(state, f"{path}/abort", encode_record(message))
    if state.phase == "upload":
        sha256 = str(state.report.blob_sha256)
        return Request("PUT", f"/v1/blobs/{sha256}", state.nonce, blob=sha256)
    return Request("PUT", f"{path}/report", state.nonce, encode_record(state.report))


def post(state: ClientState, target: str, body: bytes) -> Request:
    """A signed POST."""
    return Request("POST", target, state.nonce, body)


def rest(state: ClientState, pause: Pause, now: float) -> Step:
    """Note a pause and sleep through it."""
    return replace(state, pause=pause), Sleep(pause.earliest - now, pause.latest - now)


def own_pause(count: int, now: float) -> Pause:
    """Exponential in `count`, with room for jitter, bounded."""
    latest_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(count - 1, 30))
    return Pause(now + latest_s / 2, now + latest_s, is_asked=False)


def come_back_pause(window: Window, now: float) -> Pause:
    """The server's window, made sensible: in order, not negative, at most a day."""
    earliest_s = min(max(window.earliest_s, 0.0), LONGEST_COME_BACK_S)
    latest_s = min(max(window.latest_s, earliest_s, 0.01), LONGEST_COME_BACK_S)
    return Pause(now + earliest_s, now + latest_s, is_asked=True)
