"""Drive many clients from a heap of (virtual time, phone); step function, application and private step are real.

Events happen in the order of (time, phone). Requests reach the application at the moment they would arrive; work is
begun when a phone begins it and looked at when the phone would be done, so that a pool computes ahead of the clock.
Nothing depends on which process was faster: the same seed gives the same bytes over any number of workers.

A phone that goes away goes on with its work and does nothing else until it is back. An exchange that would end while
it is away breaks, whatever the server made of it: the phone sends its request again, as after any broken connection.
"""

import hashlib
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from device_runtime.accounting import BudgetExceededError
from device_runtime.client import advance
from device_runtime.client_records import (
    Action,
    Describe,
    Described,
    Evaluate,
    Event,
    Measure,
    Request,
    Response,
    Sleep,
    Started,
    Stop,
    Train,
    TransportFailed,
    Woke,
    WorkDone,
    WorkFailed,
)
from device_runtime.client_requests import request_headers
from device_runtime.measure_work import plan_of, profile_result
from device_runtime.measurement_pack import decode_manifest
from device_runtime.specs import Manifest
from device_runtime.terms import MeasureTerms
from device_runtime.wire import Assignment
from device_runtime.work import split_of_assignment
from pipeline.coordinator.blobs import BlobFolder
from pipeline.fleet.asgi import AsgiTransport
from pipeline.fleet.durations import ChunkTimes, TimesOf, chunk_runs, measure_seconds, transfer_seconds
from pipeline.fleet.errors import FleetError
from pipeline.fleet.phones import Charge, Phone
from pipeline.fleet.workers import Failure, Outcome, Workers
from profiles.records import decode_record
from profiles.schema import DeviceProfile

START_SPREAD_S = 2.0  # a fleet whose phones all knock in the same instant is no fleet


class VirtualClock:
    """Seconds since the fleet began; it stands still while anything is computed."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        """The current moment."""
        return self.time


@dataclass(frozen=True)
class Arrival:
    """A request that reaches the server at its time."""

    request: Request


@dataclass(frozen=True)
class Delivery:
    """An event that reaches the phone at its time."""

    event: Event


@dataclass(frozen=True)
class Working:
    """An assignment, charged and begun, that the phone is done with at its time."""

    assignment: Assignment


Pending = Arrival | Delivery | Working


@dataclass(frozen=True)
class World:
    """What a fleet lives in.

    Attributes:
        blobs: The server's folder; what a phone has cached lies there under the same name.
        times_of: How long a chunk takes on a profile.
    """

    transport: AsgiTransport
    blobs: BlobFolder
    workers: Workers
    clock: VirtualClock
    times_of: TimesOf


class Fleet:
    """Owns the phones and what is under way.

    Attributes:
        pending: What each phone is about and when it happens; a phone that has stopped is missing.
        device_seconds: Time worked by assignment id, since it was last taken.
        charges: What the phones' ledgers noted, since it was last taken.
        changed: Phones whose state or pending changed, since it was last taken.
        stopped: Phones that only a person could help, and why.
        num_reports: Reports that the server took.
    """

    def __init__(self, phones: Sequence[Phone], world: World) -> None:
        self.phones, self.clock = list(phones), world.clock
        self.pending: dict[int, tuple[float, Pending]] = {}
        self.device_seconds: dict[str, float] = {}
        self.charges: list[Charge] = []
        self.changed: set[int] = set()
        self.stopped: dict[int, str] = {}
        self.num_reports = 0
        self._world = world
        self._heap: list[tuple[float, int]] = []
        self._outcomes: dict[int, Callable[[], Outcome]] = {}
        self._manifest = lru_cache(maxsize=64)(self._read_manifest)
        self._chunk_times = lru_cache(maxsize=1024)(self._predict_chunk_times)
        self._measure_seconds = lru_cache(maxsize=1024)(self._predict_measure_seconds)

    def start(self) -> None:
        """Switch every phone on, one after the other within `START_SPREAD_S`."""
        for phone in self.phones:
            at = self.clock.time + START_SPREAD_S * phone.index / len(self.phones)
            self.schedule(phone.index, at, Delivery(Started()))

    def check_alive(self) -> None:
        """Raise FleetError when no phone will ever do anything again."""
        if not self.pending:
            reasons = "; ".join(sorted(set(self.stopped.values()))) or "it has no phone"
            raise FleetError(f"every phone of the fleet has stopped: {reasons}")

    def run_until_report(self, deadline: float) -> None:
        """Let time pass until the server took one more report, or until `deadline`."""
        before = self.num_reports
        while self._heap and self._heap[0][0] < deadline:
            self._step()
            if self.num_reports > before:
                return
        self.clock.time = max(self.clock.time, deadline)

    def schedule(self, index: int, time: float, pending: Pending) -> None:
        """Put what a phone does next at its time; work is begun now."""
        if isinstance(pending, Working):
            self._outcomes[index] = self._begin_work(index, pending.assignment)
        self._put(index, time, pending)

    def _put(self, index: int, time: float, pending: Pending) -> None:
        self.pending[index] = (time, pending)
        heapq.heappush(self._heap, (time, index))
        self.changed.add(index)

    def _step(self) -> None:
        time, index = heapq.heappop(self._heap)
        _, pending = self.pending.pop(index)
        self.changed.add(index)
        phone = self.phones[index]
        there = phone.availability.next_time(time)
        if there > time:
            self._put(index, there, _break_exchange(pending))
            return
        self.clock.time = time
        match pending:
            case Arrival(request):
                self._serve(phone, request)
            case Delivery(event):
                self._advance(phone, event)
            case Working():
                self._advance(phone, self._finish(phone))

    def _advance(self, phone: Phone, event: Event) -> None:
        phone.state, action = advance(phone.state, event, self.clock.time)
        self._begin(phone, action)

    def _begin(self, phone: Phone, action: Action) -> None:
        now = self.clock.time
        match action:
            case Request():
                self._send(phone, action)
            case Describe():
                self.schedule(phone.index, now, Delivery(Described(phone.describe())))
            case Train(assignment) | Evaluate(assignment) | Measure(assignment):
                self._work(phone, assignment)
            case Sleep(earliest_s, latest_s):
                rest_s = earliest_s + phone.rest_fraction(now) * (latest_s - earliest_s)
                self.schedule(phone.index, now + max(0.0, rest_s), Delivery(Woke()))
            case Stop(reason):
                self.stopped[phone.index] = reason

    def _send(self, phone: Phone, request: Request) -> None:
        now, link = self.clock.time, phone.link
        if request.save_as is not None and request.save_as in phone.cached:
            phone.keep_blob(request.save_as)
            body = self._world.blobs.get(request.save_as)
            self.schedule(phone.index, now, Delivery(Response(200, body=body)))
            return
        size = len(phone.body_of(request))
        self.schedule(phone.index, now + transfer_seconds(size, link.upload_mbit_s, link.latency_ms), Arrival(request))

    def _serve(self, phone: Phone, request: Request) -> None:
        body, link = phone.body_of(request), phone.link
        headers = request_headers(request, body, phone.key)
        answer = self._world.transport.send(request.method, request.target, headers, body)
        if request.save_as is not None and answer.status == 200:
            answer = _keep_download(phone, request.save_as, answer)
        self.num_reports += answer.status == 202
        after = self.clock.time + transfer_seconds(len(answer.body), link.download_mbit_s, link.latency_ms)
        self.schedule(phone.index, after, Delivery(answer))

    def _work(self, phone: Phone, assignment: Assignment) -> None:
        try:
            charge = phone.charge(assignment)
        except BudgetExceededError as error:
            self.schedule(phone.index, self.clock.time, Delivery(WorkFailed("budget", str(error))))
            return
        if charge is not None:
            self.charges.append(charge)
        seconds = self._work_seconds(phone, assignment)
        worked = self.device_seconds.get(assignment.assignment_id, 0.0)
        self.device_seconds[assignment.assignment_id] = worked + seconds
        self.schedule(phone.index, self.clock.time + seconds, Working(assignment))

    def _work_seconds(self, phone: Phone, assignment: Assignment) -> float:
        if assignment.measure is not None:
            return self._measure_seconds(phone.profile, assignment.artifact_id, assignment.measure)
        counts = phone.check_in.num_examples
        times = self._chunk_times(phone.profile, assignment.artifact_id)
        batch_size = self._manifest(assignment.artifact_id).batch_size
        own = counts[split_of_assignment(assignment)]
        runs = chunk_runs(assignment, own, batch_size, counts["validation"])
        return phone.work(assignment.assignment_id, runs, times, self.clock.time)

    def _begin_work(self, index: int, assignment: Assignment) -> Callable[[], Outcome]:
        if assignment.measure is not None:  # what an emulated phone can do is what its profile says
            return partial(profile_result, assignment, self.phones[index].profile)
        return self._world.workers.begin(index, assignment)

    def _finish(self, phone: Phone) -> Event:
        outcome = self._outcomes.pop(phone.index)()
        if isinstance(outcome, Failure):
            return WorkFailed(outcome.reason, outcome.detail)
        if outcome.update is not None and outcome.report.blob_sha256 is not None:
            phone.updates = {outcome.report.blob_sha256: outcome.update}
        return WorkDone(outcome.report)

    def _read_manifest(self, artifact_id: str) -> Manifest:
        return decode_record(Manifest, self._world.blobs.get(artifact_id))

    def _predict_chunk_times(self, profile: DeviceProfile, artifact_id: str) -> ChunkTimes:
        return self._world.times_of(profile, self._manifest(artifact_id))

    def _predict_measure_seconds(self, profile: DeviceProfile, pack_id: str, terms: MeasureTerms) -> float:
        pack = decode_manifest(self._world.blobs.get(pack_id), f"measurement pack {pack_id}")
        return measure_seconds(profile, pack, plan_of(terms))


def _break_exchange(pending: Pending) -> Pending:
    """What reaches a phone that comes back, in place of what would have happened while it was away."""
    if isinstance(pending, Arrival) or (isinstance(pending, Delivery) and isinstance(pending.event, Response)):
        return Delivery(TransportFailed("the phone went away before the answer came"))
    return pending


def _keep_download(phone: Phone, sha256: str, answer: Response) -> Response:
    is_intact = hashlib.sha256(answer.body).hexdigest() == sha256
    if is_intact:
        phone.keep_blob(sha256)
    return replace(answer, is_intact=is_intact)
