"""A scripted server that speaks the protocol, and a phone that drives `advance` without a file or a clock."""

import hashlib
import sys
from dataclasses import dataclass, field, replace

import pytest

from device_runtime.client import advance, new_client
from device_runtime.client_records import (
    ClientState,
    Describe,
    Described,
    Measure,
    Request,
    Response,
    Sleep,
    Started,
    Stop,
    Train,
    Woke,
    WorkDone,
)
from device_runtime.signing import SigningKey, reply_message
from device_runtime.terms import TrainTerms
from device_runtime.wire import (
    Abort,
    Assignment,
    CheckIn,
    CheckInReply,
    Enrolment,
    EnrolmentReceipt,
    Problem,
    Report,
    ReportReceipt,
    ServerInfo,
    Window,
)
from profiles.records import decode_record, encode_record

SERVER, OTHER = SigningKey.derived(b"seed", "server"), SigningKey.derived(b"seed", "other")
DEVICE = SigningKey.derived(b"seed", "device")
PARAMETERS = hashlib.sha256(b"parameters").hexdigest()
UPDATE = hashlib.sha256(b"update").hexdigest()
PROFILE = hashlib.sha256(b"profile").hexdigest()
CHECK_IN = CheckIn("1.19.2", 17, "0" * 64, {"train": 5})


@dataclass
class FakeServer:
    """Answers as the protocol says; `script` maps a step's name to answers that come first."""

    files: dict[str, bytes]
    assignments: list[Assignment] = field(default_factory=list)
    script: dict[str, list[object]] = field(default_factory=dict)
    key: SigningKey = SERVER
    enrolled: list[Enrolment] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    aborts: list[Abort] = field(default_factory=list)
    num_nonces: int = 0

    def answer(self, request: Request):
        name = step_name(request)
        self.seen.append(name)
        if self.script.get(name):
            event = self.script[name].pop(0)
            return self._with_nonce(event) if isinstance(event, Response) else event
        if name != "server" and request.nonce != f"nonce {self.num_nonces}":
            return self._with_nonce(problem(401, "stale-nonce"))
        return self._with_nonce(getattr(self, "_" + name.replace("-", "_"))(request))

    def signed(self, record, nonce=None) -> Response:
        """A signed answer to the request of now, or to the one that will carry `nonce`."""
        body = encode_record(record)
        message = reply_message(DEVICE.key_id, nonce or f"nonce {self.num_nonces}", body)
        return Response(200, {"handheld-signature": self.key.sign(message)}, body)

    def _server(self, request):
        return Response(200, {}, encode_record(ServerInfo(self.key.public_key)))

    def _enrolment(self, request):
        self.enrolled.append(decode_record(Enrolment, request.body))
        return self.signed(EnrolmentReceipt(DEVICE.key_id, self.key.public_key))

    def _check_in(self, request):
        if not self.enrolled:
            return problem(401, "not-enrolled")
        decode_record(CheckIn, request.body)
        if self.assignments:
            return self.signed(CheckInReply(self.assignments[0]))
        return self.signed(CheckInReply(come_back=Window(5, 15)))

    def _blob(self, request):
        data = self.files.get(request.save_as)
        return problem(404, "unknown-blob") if data is None else Response(200, {}, data)

    def _upload(self, request):
        return Response(201)

    def _report(self, request):
        self.reports.append(decode_record(Report, request.body))
        self.assignments.pop(0)
        return Response(202, {}, encode_record(ReportReceipt(1, 1)))

    def _abort(self, request):
        self.aborts.append(decode_record(Abort, request.body))
        self.assignments.pop(0)
        return Response(204)

    def _with_nonce(self, response):
        self.num_nonces += 1
        return replace(response, headers={**response.headers, "replay-nonce": f"nonce {self.num_nonces}"})


def problem(status, name, detail="the reason and the cure"):
    return Response(status, {}, encode_record(Problem(f"urn:handheld:problem:{name}", name, status, detail)))


def step_name(action):
    if not isinstance(action, Request):
        return type(action).__name__.lower()
    if action.method == "PUT" and action.blob:
        return "upload"
    name = {"/v1/server": "server", "/v1/enrolment": "enrolment", "/v1/check-in": "check-in"}.get(action.target)
    return name or ("blob" if "/blobs/" in action.target else action.target.rpartition("/")[2])


@dataclass
class Phone:
    """Drives `advance` as a driver would, without a file or a clock of its own; keeps every state that was saved."""

    server: FakeServer
    state: ClientState = field(default_factory=lambda: new_client(DEVICE, True))
    now: float = 1000.0
    saved: list[ClientState] = field(default_factory=list)
    worked: list[str] = field(default_factory=list)
    work: list[object] = field(default_factory=list)  # events in place of WorkDone

    def step(self, event):
        self.state, action = advance(self.state, event, self.now)
        self.saved.append(decode_record(ClientState, encode_record(self.state)))
        return action

    def react(self, action):
        if isinstance(action, Request):
            return self.server.answer(action)
        if isinstance(action, Describe):
            return Described(CHECK_IN)
        if isinstance(action, Sleep):
            self.now += action.earliest_s
            return Woke()
        assignment = action.assignment
        self.worked.append(assignment.assignment_id)
        if self.work:
            return self.work.pop(0)
        if isinstance(action, Train):
            return WorkDone(Report(assignment.assignment_id, 5, UPDATE, work_s=1.0))
        if isinstance(action, Measure):
            return WorkDone(Report(assignment.assignment_id, 0, profile_sha256=PROFILE))
        return WorkDone(Report(assignment.assignment_id, 5, None, {"accuracy": 4.0}))

    def run(self, event=None, max_steps=60):
        """Until it rests or stops; gives that action."""
        action = self.step(Started() if event is None else event)
        for _ in range(max_steps):
            if isinstance(action, (Sleep, Stop)):
                return action
            action = self.step(self.react(action))
        raise AssertionError(f"no rest after {max_steps} steps: {self.server.seen}")


@pytest.fixture
def fakes():
    """What is defined here: test files cannot import a conftest."""
    return sys.modules[__name__]


@pytest.fixture
def artifact_id(artifact_files):
    return hashlib.sha256(artifact_files["manifest.json"]).hexdigest()


@pytest.fixture
def make_assignment(artifact_id):
    def make(number=0, **changes):
        terms = {} if changes.get("kind") == "evaluate" else {"train": TrainTerms(0.1, local_steps=1, batch_size=4)}
        values = {
            "assignment_id": f"run-{number}",
            "run_id": "run",
            "kind": "train",
            "artifact_id": artifact_id,
            "parameters_sha256": PARAMETERS,
            "lease_s": 60.0,
        }
        return Assignment(**(values | terms | changes))

    return make


@pytest.fixture
def server(artifact_files):
    files = {hashlib.sha256(data).hexdigest(): data for data in (*artifact_files.values(), b"parameters")}
    return FakeServer(files)


@pytest.fixture
def phone(server):
    return Phone(server)


@pytest.fixture
def serving(server, make_assignment):
    """A server with one assignment to train."""
    server.assignments = [make_assignment()]
    return server
