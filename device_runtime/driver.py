"""Run one client as a process: its folder, HTTP, the real clock and the system's randomness around `advance`."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnxruntime

from device_runtime.accounting import Budget
from device_runtime.client import advance, new_client
from device_runtime.client_records import (
    Action,
    BlobsLost,
    ClientState,
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
from device_runtime.examples.source import ExampleSource
from device_runtime.http_transport import HttpTransport
from device_runtime.ledger import Ledger, LedgerError, read_ledger
from device_runtime.measure_work import measure_assignment
from device_runtime.private_random import PrivateRandom
from device_runtime.signing import SigningKey
from device_runtime.state_folder import BlobMissingError, StateFolder, StateFolderError, source_id
from device_runtime.stopping import StopFlag
from device_runtime.wire import Assignment, CheckIn, Conditions
from device_runtime.work import (
    ABORT_REASONS,
    Holdings,
    SessionCache,
    WorkResult,
    abort_reason_of,
    count_examples,
    perform,
    timed_report,
)
from profiles.records import record_id
from profiles.schema import DeviceClass

Watch = Callable[[ClientState, Action], None]
LeavingReason = Literal["not-ready", "reported", "resting", "no-answer", "stopped", "interrupted"]
# Highest opset of the default domain since a version of ONNX Runtime (onnxruntime.ai, "Compatibility").
_OPSETS = (((1, 12), 17), ((1, 14), 18), ((1, 15), 19), ((1, 17), 20), ((1, 18), 21))


@dataclass(frozen=True)
class ClientTerms:
    """What a client is and whom it serves.

    Attributes:
        source_name: Of the data; its ledger and its split key go by this name, so it must stay the same.
        budget: None takes no private assignment.
        emulated_seed: Derives key and all randomness; None for a real client.
        trusts_sums: See `Holdings`.
        device_class: Which budgets of a run file hold for its profile, should it be measured.
    """

    server_url: str
    source: ExampleSource = field(repr=False)
    source_name: str
    budget: Budget | None
    conditions: Conditions = field(default_factory=Conditions)
    emulated_seed: int | None = None
    trusts_sums: bool = False
    device_class: DeviceClass = "desktop"


@dataclass(frozen=True)
class Limits:
    """When to leave; without any, only when stopped.

    Attributes:
        max_reports: After so many reports.
        is_resting_over: Leave in place of resting.
        patience_s: After so many seconds without a good answer.
    """

    max_reports: int | None = None
    is_resting_over: bool = False
    patience_s: float | None = None


ONCE = Limits(max_reports=1, is_resting_over=True)


@dataclass(frozen=True)
class Outcome:
    """How a run of the client ended.

    Attributes:
        reason: `stopped`: only a person can help, `detail` names the cure. `no-answer`: the server is gone.
        num_reported: Reports taken by the server in this run.
        rest_s: With `resting`: come back after so many seconds at the earliest.
    """

    reason: LeavingReason
    num_reported: int
    detail: str = ""
    rest_s: float | None = None


class DeviceClient:
    """Drives one client; owns nothing but its place in the state folder, which the caller opened."""

    def __init__(self, folder: StateFolder, terms: ClientTerms, clock: Callable[[], float] = time.time) -> None:
        """Read the folder's key, state and ledger.

        Raises:
            StateFolderError: The folder belongs to another kind of client.
            LedgerError: The ledger is damaged or counts at another order.
        """
        self._folder, self._terms, self._clock = folder, terms, clock
        self._seed = None if terms.emulated_seed is None else str(terms.emulated_seed).encode()
        self._key = folder.load_key() if self._seed is None else SigningKey.derived(self._seed, "device key")
        self._state = self._load_state()
        source = data_source_id(terms.source_name, terms.emulated_seed)
        split_key = folder.split_key(source)  # before the ledger: beside one, a missing key is refused
        ledger = open_ledger(folder, source, terms.budget)
        self._holdings = Holdings(terms.source, split_key, ledger, terms.trusts_sums)
        self._sessions, self._rng = SessionCache(), np.random.default_rng(terms.emulated_seed)

    def run(self, limits: Limits, stop: StopFlag, watch: Watch = lambda _state, _action: None) -> Outcome:
        """Take part until a limit is reached, only a person can help, or `stop` is set.

        Args:
            stop: Ends a rest at once and everything else after the step it is in.
            watch: Told every step, before its action is done.
        """
        before = self._state.num_reported
        with HttpTransport(self._terms.server_url, self._key) as transport:
            event: Event = Started()
            while True:
                self._state, action = advance(self._state, event, self._clock())
                self._folder.save_state(self._state)
                watch(self._state, action)
                outcome = self._leave(action, limits, stop, self._state.num_reported - before)
                if outcome is not None:
                    return outcome
                event = self._act(action, transport, stop)

    def _leave(self, action: Action, limits: Limits, stop: StopFlag, num_reported: int) -> Outcome | None:
        state = self._state
        if isinstance(action, Stop):
            return Outcome("stopped", num_reported, action.reason)
        if stop.is_set():
            return Outcome("interrupted", num_reported)
        if limits.max_reports is not None and num_reported >= limits.max_reports:
            return Outcome("reported", num_reported)
        if state.failing_since is not None and isinstance(action, Sleep):
            is_over = limits.is_resting_over
            if limits.patience_s is not None:
                is_over = is_over or self._clock() - state.failing_since >= limits.patience_s
            return Outcome("no-answer", num_reported, state.note) if is_over else None
        if limits.is_resting_over and isinstance(action, Sleep):
            return Outcome("resting", num_reported, state.note, max(0.0, action.earliest_s))
        return None

    def _act(self, action: Action, transport: HttpTransport, stop: StopFlag) -> Event:
        match action:
            case Request():
                return self._send(action, transport)
            case Describe():
                self._folder.evict(self._state.files)
                return Described(self._describe())
            case Train(assignment) | Evaluate(assignment) | Measure(assignment):
                return self._work(assignment)
            case Sleep(earliest_s, latest_s):
                stop.wait(max(0.0, self._rng.uniform(earliest_s, latest_s)))
                return Woke()
            case Stop(reason):
                raise ValueError(f"there is nothing to do after a stop: {reason}")

    def _send(self, request: Request, transport: HttpTransport) -> Event:
        sha256 = request.save_as
        try:
            if sha256 is not None:
                return Response(200, body=self._folder.read_blob(sha256))
        except BlobMissingError:
            pass  # not cached: the server has it
        try:
            body = request.body if request.blob is None else self._folder.read_update(request.blob)
        except BlobMissingError as error:
            return BlobsLost(str(error))
        answer = transport.send(request, body)
        if sha256 is None or isinstance(answer, TransportFailed) or answer.status != 200:
            return answer
        is_intact = self._folder.write_blob(sha256, answer.body)
        return Response(answer.status, answer.headers, answer.body, is_intact)

    def _work(self, assignment: Assignment) -> Event:
        started = time.monotonic()
        try:
            result = self._perform(assignment)
        except BlobMissingError as error:
            return BlobsLost(str(error))
        except tuple(ABORT_REASONS) as error:
            return WorkFailed(abort_reason_of(error), f"{assignment.kind} was given up: {error}")
        if result.update is not None:
            self._folder.write_update(result.update)
        return WorkDone(timed_report(assignment, result.report, time.monotonic() - started))

    def _perform(self, assignment: Assignment) -> WorkResult:
        read_blob = self._folder.read_blob
        if assignment.measure is not None:
            device_class = self._terms.device_class
            return measure_assignment(assignment, self._key.key_id, device_class, read_blob, time.perf_counter)
        private_random = self._private_random(assignment)
        return perform(assignment, self._holdings, read_blob, private_random, self._sessions)

    def _private_random(self, assignment: Assignment) -> PrivateRandom:
        if self._seed is None:
            return PrivateRandom.from_system()
        return PrivateRandom.derived(self._seed, f"{self._key.key_id}/{assignment.assignment_id}")

    def _describe(self) -> CheckIn:
        holdings = self._holdings
        return CheckIn(
            runtime_version=onnxruntime.__version__,
            opset=opset_of(onnxruntime.__version__),
            spec_id=record_id(holdings.source.spec),
            num_examples=count_examples(holdings.source, holdings.split_key),
            free_memory_mib=free_memory_mib(),
            conditions=self._terms.conditions,
            headroom=None if holdings.ledger is None else holdings.ledger.headroom(),
        )

    def _load_state(self) -> ClientState:
        state = self._folder.load_state() or new_client(self._key, self._seed is not None)
        if state.device_id != self._key.key_id:
            raise StateFolderError(
                f"{self._folder.path} belongs to the {state.kind} device {state.device_id[:8]}, this is another one; "
                "name another folder, or forget that enrolment first"
            )
        return state


def open_ledger(folder: StateFolder, source: str, budget: Budget | None) -> Ledger | None:
    """The ledger of a data source; None for a client without a budget.

    Raises:
        LedgerError: It is damaged, or there is one and no budget is given: ordinary work would spend what it guards.
    """
    storage = folder.ledger_storage(source)
    if budget is not None:
        return Ledger(storage, source, budget)
    if read_ledger(storage) is not None:
        raise LedgerError(f"{storage}: this data has a privacy budget for its lifetime; give epsilon and delta again")
    return None


def data_source_id(name: str, emulated_seed: int | None = None) -> str:
    """The id that ledger and split key of a data source go by; an emulated run has its own of both."""
    return source_id(name if emulated_seed is None else f"emulated {emulated_seed} {name}")


def opset_of(runtime_version: str) -> int:
    """Highest opset of the default domain that a version of ONNX Runtime is known to run; 0 for one before 1.12."""
    found = tuple(int(part) for part in runtime_version.split(".")[:2])
    return max((opset for since, opset in _OPSETS if since <= found), default=0)


def free_memory_mib() -> int | None:
    """Memory that is free now; None where the platform does not tell."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    except (AttributeError, OSError, ValueError):
        return None


def run_client(
    folder: StateFolder,
    terms: ClientTerms,
    limits: Limits,
    stop: StopFlag,
    watch: Watch = lambda _state, _action: None,
) -> Outcome:
    """Run one client on an open state folder; see `DeviceClient`."""
    return DeviceClient(folder, terms).run(limits, stop, watch)
