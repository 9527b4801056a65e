from dataclasses import replace
from typing import get_args

import pytest

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
from device_runtime.terms import MeasureTerms, TrainTerms
from device_runtime.wire import Assignment, CheckIn, Headroom, Report
from pipeline.fleet.fleet import Arrival, Delivery, Working
from pipeline.fleet.snapshots import PhoneSnapshot, decode_pending, encode_pending, take_snapshot
from profiles.records import decode_record, encode_record

CHECK_IN = CheckIn("1.19.2", 17, "0" * 64, {"train": 3}, headroom=Headroom(8, {"train": 1 / 3}))
# One of every event that a client knows; a new one needs its row here, and a codec if it holds more than plain data.
EVENTS = {
    Started: Started(),
    Woke: Woke(),
    Described: Described(CHECK_IN),
    Response: Response(200, {"replay-nonce": "n"}, bytes(range(256)), is_intact=False),
    TransportFailed: TransportFailed("no answer"),
    WorkDone: WorkDone(Report("a", 12, "0" * 64, None, 0.1)),
    WorkFailed: WorkFailed("diverged", "lower it"),
    BlobsLost: BlobsLost("gone"),
}
REQUESTS = [
    Request("GET", "/v1/server"),
    Request("POST", "/v1/check-in", "nonce", b"\x00\xff{}"),
    Request("PUT", "/v1/blobs/a", "nonce", blob="a"),
    Request("GET", "/v1/blobs/b", "nonce", save_as="b"),
]
WORK = Assignment("a", "run", "train", "0" * 64, "1" * 64, 60.5, train=TrainTerms(0.1, local_steps=1, batch_size=8))
MEASURING = Assignment("a", "run", "measure", "0" * 64, None, 60.5, measure=MeasureTerms())


@pytest.mark.parametrize("cls", get_args(Event), ids=lambda cls: cls.__name__)
def test_every_event_on_its_way_to_a_phone_survives_a_snapshot(cls):
    check_round_trip(Delivery(EVENTS[cls]))


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: f"{request.method} {request.target}")
def test_every_request_on_its_way_to_the_server_survives_a_snapshot(request_):
    check_round_trip(Arrival(request_))


@pytest.mark.parametrize("work", [WORK, MEASURING], ids=lambda work: work.kind)
def test_work_survives_a_snapshot(work):
    check_round_trip(Working(work))


def check_round_trip(pending):
    kind, plain = encode_pending(pending)
    state = ClientState("0" * 64, "key", "emulated", assignment=WORK, lease_ends=1 / 3)
    kept = PhoneSnapshot(state, 1 / 3, kind, plain, cached=("a", "b"), updates={"a": "AA=="})
    read = decode_record(PhoneSnapshot, encode_record(kept))
    assert read == kept
    assert decode_pending(read.kind, read.pending) == pending


def test_a_phone_is_put_back_as_it_was(emulate):
    before = emulate()
    before.train(2, cohort_size=2, over_selection=2.0)
    kept = [take_snapshot(before.rounds.fleet, i) for i in range(4)]
    after = emulate()
    assert [take_snapshot(after.rounds.fleet, i) for i in range(4)] == kept
    assert any(snapshot.cached for snapshot in kept)


def test_a_phone_that_has_stopped_stays_stopped(emulate):
    before = emulate()
    fleet = before.rounds.fleet
    before.train(1)
    fleet.pending.pop(1)
    fleet.stopped[1] = "update the app"
    snapshot = take_snapshot(fleet, 1)
    assert (snapshot.due, snapshot.stopped) == (None, "update the app")
    assert decode_record(PhoneSnapshot, encode_record(snapshot)) == snapshot


@pytest.mark.parametrize("cls", get_args(Action), ids=lambda cls: cls.__name__)
def test_a_phone_may_be_kept_after_every_action(cls, emulate):
    run = emulate()
    run.train(1)
    fleet, phone = run.rounds.fleet, run.rounds.fleet.phones[0]
    given = replace(WORK, artifact_id=run.artifact_id)
    actions = {
        Request: REQUESTS[1],
        Describe: Describe(),
        Train: Train(given),
        Evaluate: Evaluate(given),
        Measure: Measure(MEASURING),
        Sleep: Sleep(1.0, 2.0),
        Stop: Stop("update the app"),
    }
    fleet._measure_seconds = lambda *_: 1.0  # of no real pack
    fleet.pending.pop(0, None)
    fleet._begin(phone, actions[cls])
    snapshot = take_snapshot(fleet, 0)
    assert decode_record(PhoneSnapshot, encode_record(snapshot)) == snapshot
    assert (snapshot.due is None) == (cls is Stop)
