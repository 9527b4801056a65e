"""The client as a step function: `advance(state, event, now)` gives the next state and what to do about it.

It holds the whole protocol and nothing else: no file, no network, no clock, no random number. A process drives it with
HTTP and a real clock, the fleet drives thousands from a heap, an app from its scheduler. The driver saves the state
before it does the action, so a client that was killed at any moment goes on with the action of its last state: an
update that was stored is sent again, work that was not finished is done again (and charged again).
"""

from dataclasses import replace

from device_runtime.artifact import ArtifactError
from device_runtime.client_records import (
    BlobsLost,
    ClientState,
    Described,
    Event,
    Response,
    Sleep,
    Started,
    Step,
    Stop,
    TransportFailed,
    Woke,
    WorkDone,
    WorkFailed,
)
from device_runtime.client_replies import (
    UnreadableReplyError,
    UntrustedReplyError,
    detail_of,
    files_named_by,
    is_sha256,
    open_reply,
    problem_type,
    refusal_of,
)
from device_runtime.client_requests import (
    LONGEST_COME_BACK_S,
    LONGEST_PAUSE_S,
    come_back_pause,
    own_pause,
    post,
    proceed,
    rest,
)
from device_runtime.measurement_pack import PackError
from device_runtime.signing import SigningKey
from device_runtime.wire import (
    PROTOCOL,
    REPLAY_NONCE_HEADER,
    AbortReason,
    Assignment,
    CheckIn,
    CheckInReply,
    EnrolmentReceipt,
    ServerInfo,
    Window,
)
from profiles.records import RecordError, decode_record, encode_record

_LEASED = frozenset({"fetch", "work", "upload", "report", "abort"})


def new_client(key: SigningKey, is_emulated: bool) -> ClientState:
    """The state of a device that has met no server yet; emulated where its key was given to it."""
    return ClientState(key.key_id, key.public_key, "emulated" if is_emulated else "real")


def advance(state: ClientState, event: Event, now: float) -> Step:
    """Take one step.

    Args:
        event: What came of the last action.
        now: Seconds on the driver's clock, the same clock in every call for this state.

    Returns:
        The state to save, then the action to do.
    """
    match event:
        case Started():
            return _start(state, now)
        case Woke():
            return _wake(state, now)
        case Described(check_in):
            return _send_check_in(state, check_in)
        case Response():
            return _respond(state, event, now)
        case TransportFailed(detail):
            return _fail(state, detail, now)
        case WorkDone(report):
            return proceed(replace(state, report=report, phase="upload" if report.blob_sha256 else "report"))
        case WorkFailed(reason, detail):
            return _abort(state, reason, detail)
        case BlobsLost(detail):
            return _fetch_again(state, detail)


def _start(state: ClientState, now: float) -> Step:
    # The nonce is old and the server may be another one: ask again before anything is sent to it.
    state = replace(state, nonce=None, is_second_try=False)
    if state.pause is not None and not state.pause.is_asked:
        state = replace(state, pause=None, num_failures=0, failing_since=None)
    return _wake(state, now)


def _wake(state: ClientState, now: float) -> Step:
    pause = state.pause
    if pause is not None and 0 < pause.earliest - now <= LONGEST_COME_BACK_S:  # beyond it, the clock was set back
        return state, Sleep(pause.earliest - now, pause.latest - now)
    return proceed(_without_late_lease(replace(state, pause=None), now))


def _send_check_in(state: ClientState, check_in: CheckIn) -> Step:
    if state.phase != "check-in" or state.nonce is None:
        return proceed(state)
    state = replace(state, runtime_version=check_in.runtime_version)
    return state, post(state, "/v1/check-in", encode_record(check_in))


def _respond(state: ClientState, response: Response, now: float) -> Step:
    is_greeting = state.nonce is None
    newest = response.headers.get(REPLAY_NONCE_HEADER.lower(), state.nonce)
    state = replace(state, nonce=newest, asked_with=state.nonce)
    if response.status == 401:
        return _reintroduce(state, response, now)
    state = replace(state, is_second_try=False)
    if response.status == 426:
        return state, Stop(detail_of(response))
    if response.status in {408, 425, 429} or not 200 <= response.status < 500 or 300 <= response.status < 400:
        return _fail(state, f"the server answered {response.status}: {detail_of(response)}", now)
    try:
        return _greet(state, response, now) if is_greeting else _HANDLERS[state.phase](state, response, now)
    except UntrustedReplyError as error:
        # Without a nonce the next try begins with the server's key, and stops if that is another one.
        return _fail(replace(state, nonce=None, num_forged=state.num_forged + 1), str(error), now)
    except UnreadableReplyError as error:
        return state, Stop(str(error))


def _reintroduce(state: ClientState, response: Response, now: float) -> Step:
    problem = problem_type(response)
    if problem == "stale-nonce" and not state.is_second_try:
        return proceed(replace(state, is_second_try=True))
    if problem == "not-enrolled" and state.phase != "enrol" and not state.num_failures:
        # What is done stays: if the server knows the assignment after all, it is told again at check-in.
        return proceed(replace(state, phase="enrol", num_failures=1, failing_since=now))
    return _fail(state, f"the server refused the signature: {detail_of(response)}", now)


def _greet(state: ClientState, response: Response, now: float) -> Step:
    try:
        info = decode_record(ServerInfo, response.body)
    except RecordError as error:
        return state, Stop(f"this is no Handheld server ({response.status}; {error}); check the URL")
    if info.protocol != PROTOCOL:
        return state, Stop(f"the server speaks {info.protocol}, this client {PROTOCOL}: update the older of the two")
    if state.server_key not in {None, info.public_key}:
        return state, Stop(
            "the server's key is not the one pinned at enrolment: either this is another server, or somebody stands in "
            "between; check the URL, and only if the operator confirms a new key, forget the enrolment and enrol again"
        )
    state = replace(state, server_key=info.public_key)
    if state.nonce is None:
        return _fail(state, f"the server gave no {REPLAY_NONCE_HEADER}", now)
    return proceed(state)


def _enrolled(state: ClientState, response: Response, _now: float) -> Step:
    if response.status >= 400:
        return state, Stop(f"the server refused to enrol this device: {detail_of(response)}")
    receipt = open_reply(EnrolmentReceipt, state, response)
    if (receipt.device_id, receipt.server_public_key) != (state.device_id, state.server_key):
        raise UntrustedReplyError("the enrolment receipt is for another device or of another server")
    return proceed(replace(state, phase="check-in"))


def _checked_in(state: ClientState, response: Response, now: float) -> Step:
    if response.status >= 400:
        return state, Stop(f"the server has no work for this device: {detail_of(response)}")
    reply = open_reply(CheckInReply, state, response)
    state = _well(state)
    if reply.assignment is not None:
        return _take(state, reply.assignment, now)
    return rest(_drop(state), come_back_pause(reply.come_back or Window(0, LONGEST_PAUSE_S), now), now)


def _take(state: ClientState, assignment: Assignment, now: float) -> Step:
    if assignment.assignment_id == state.given_up:
        # The same key serves elsewhere, or the server does not listen: never work for it twice.
        state = replace(_drop(state), num_aborts=state.num_aborts + 1)
        return rest(state, own_pause(state.num_aborts, now), now)
    report = state.report
    if state.assignment is None or state.assignment.assignment_id != assignment.assignment_id:
        report = None
    state = replace(_drop(state), assignment=assignment, lease_ends=now + assignment.lease_s, report=report)
    if report is not None:
        return proceed(replace(state, phase="upload" if report.blob_sha256 else "report"))
    refusal = refusal_of(state, assignment)
    if refusal:
        return _abort(state, "refused", refusal)
    return proceed(replace(state, phase="fetch", to_fetch=(assignment.artifact_id,)))


def _fetched(state: ClientState, response: Response, _now: float) -> Step:
    if response.status >= 400:
        return _abort(state, "failed", f"a file of the assignment cannot be had: {detail_of(response)}")
    if not response.is_intact:
        return _fetch_again(state, f"blob {state.to_fetch[0]} came damaged", state.to_fetch)
    assignment, left = state.assignment, state.to_fetch[1:]
    if assignment is not None and state.to_fetch[0] == assignment.artifact_id:
        try:
            left = files_named_by(assignment, response.body, state.runtime_version)
        except (ArtifactError, PackError) as error:
            return _abort(state, "refused", str(error))
        if not all(map(is_sha256, left)):
            return _abort(state, "refused", "the manifest must name its graphs by sha256; compile it again")
        state = replace(state, files=(assignment.artifact_id, *left))
    return proceed(replace(_well(state), to_fetch=left, phase="fetch" if left else "work"))


def _fetch_again(state: ClientState, detail: str, to_fetch: tuple[str, ...] = ()) -> Step:
    assignment = state.assignment
    if state.is_fetched_again or assignment is None:
        return _abort(state, "failed", f"{detail}, for the second time")
    to_fetch = to_fetch or (assignment.artifact_id,)
    return proceed(replace(state, phase="fetch", to_fetch=to_fetch, is_fetched_again=True, report=None, note=detail))


def _uploaded(state: ClientState, response: Response, _now: float) -> Step:
    if response.status >= 400:
        return _give_up(state, response)
    return proceed(replace(_well(state), phase="report"))


def _reported(state: ClientState, response: Response, _now: float) -> Step:
    if response.status >= 400:
        return _give_up(state, response)
    state = replace(_well(state), num_reported=state.num_reported + 1, num_aborts=0, note="")
    return proceed(replace(_drop(state), phase="check-in"))


def _give_up(state: ClientState, response: Response) -> Step:
    """The server does not take the result: for good (the round is over), or because something is wrong with it."""
    if response.status in {403, 404, 409, 410}:
        if problem_type(response) == "conflicting-report":
            state = replace(state, given_up=_assignment_id(state))
        return proceed(replace(_drop(_well(state)), phase="check-in", note=detail_of(response)))
    return _abort(state, "failed", f"the server refused the result: {detail_of(response)}")


def _aborted(state: ClientState, _response: Response, now: float) -> Step:
    given_up = _assignment_id(state)
    state = replace(_drop(_well(state)), phase="check-in", num_aborts=state.num_aborts + 1, given_up=given_up)
    return rest(state, own_pause(state.num_aborts, now), now)


_HANDLERS = {
    "enrol": _enrolled,
    "check-in": _checked_in,
    "fetch": _fetched,
    "work": lambda state, _response, _now: proceed(state),
    "upload": _uploaded,
    "report": _reported,
    "abort": _aborted,
}


def _abort(state: ClientState, reason: AbortReason, detail: str) -> Step:
    return proceed(replace(state, phase="abort", abort_reason=reason, report=None, note=detail))


def _fail(state: ClientState, note: str, now: float) -> Step:
    since = now if state.failing_since is None else state.failing_since
    state = replace(state, num_failures=state.num_failures + 1, failing_since=since, is_second_try=False, note=note)
    return rest(_without_late_lease(state, now), own_pause(state.num_failures, now), now)


def _without_late_lease(state: ClientState, now: float) -> ClientState:
    """Back to check-in where the lease ran out; a result is kept in case the server still wants it."""
    if state.phase in _LEASED and now >= state.lease_ends:
        return replace(state, phase="check-in", abort_reason=None, note="the assignment's lease ran out")
    return state


def _assignment_id(state: ClientState) -> str | None:
    return None if state.assignment is None else state.assignment.assignment_id


def _drop(state: ClientState) -> ClientState:
    return replace(
        state, assignment=None, lease_ends=0.0, to_fetch=(), is_fetched_again=False, report=None, abort_reason=None
    )


def _well(state: ClientState) -> ClientState:
    return replace(state, num_failures=0, failing_since=None)
