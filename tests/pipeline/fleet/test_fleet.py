from collections import Counter

import pytest

from device_runtime.client_records import Response, Stop, TransportFailed, WorkFailed
from pipeline.fleet import fleet as module
from pipeline.fleet.availability import AvailabilityTerms
from pipeline.fleet.durations import ChunkTimes
from pipeline.fleet.errors import FleetError


class AwayBetween:
    """A phone that is away in one spell."""

    def __init__(self, start: float, end: float) -> None:
        self.start, self.end = start, end

    def next_time(self, time: float) -> float:
        return self.end if self.start <= time < self.end else time


@pytest.fixture
def events(monkeypatch):
    """Every event that reached a client: (time, phone's device id, event)."""
    seen = []
    real = module.advance

    def advance(state, event, now):
        seen.append((now, state.device_id, event))
        return real(state, event, now)

    monkeypatch.setattr(module, "advance", advance)
    return seen


@pytest.fixture
def exchanges(monkeypatch):
    """Every exchange with the server: (bytes up, bytes down, status)."""
    seen = []
    real = module.AsgiTransport.send

    def send(transport, method, target, headers, body):
        answer = real(transport, method, target, headers, body)
        seen.append((len(body), len(answer.body), answer.status))
        return answer

    monkeypatch.setattr(module.AsgiTransport, "send", send)
    return seen


def count_costs(run) -> Counter:
    rows = run.rows("SELECT assignment_id FROM costs WHERE examples > 0")
    return Counter(assignment for (assignment,) in rows)


def test_link_times_and_work_add_up_to_the_moment_of_the_report(emulate, exchanges):
    run = emulate(num_phones=1)
    run.train(1, cohort_size=1)
    *before, (report, _, status) = exchanges
    assert status == 202
    latency, up, down = 0.05, 10e6, 20e6
    expected = sum(2 * latency + sent * 8 / up + got * 8 / down for sent, got, _ in before)
    expected += latency + report * 8 / up
    chunks = -(-run.results[0].num_examples // 8)
    assert run.rounds.clock.time == pytest.approx(expected + chunks * 0.02)


def test_a_slower_link_and_a_slower_processor_make_a_later_report(emulate, kit):
    times = {}
    for name, mbit_s, train_s in (("base", 20.0, 0.1), ("link", 0.1, 0.1), ("processor", 20.0, 5.0)):
        chunk = ChunkTimes(train_s, 0.1)
        run = emulate(name, num_phones=1, profiles=(kit.profile("p", mbit_s),), times_of=lambda *_, chunk=chunk: chunk)
        run.train(1, cohort_size=1)
        times[name] = run.rounds.clock.time
    assert times["base"] < min(times["link"], times["processor"])


def test_a_blob_that_a_phone_holds_is_not_sent_again(emulate, exchanges):
    run = emulate(num_phones=1)
    run.train(1, cohort_size=1)
    first = sum(down for _, down, _ in exchanges)
    exchanges.clear()
    run.train(1, cohort_size=1)
    assert sum(down for _, down, _ in exchanges) < first / 3


def test_device_seconds_of_a_round_are_what_its_phones_worked(emulate):
    run = emulate(num_phones=2)
    run.train(1, cohort_size=2)
    seconds = dict(run.rows("SELECT device_id, sum(device_seconds) FROM costs GROUP BY device_id"))
    for phone, per_chunk in zip(run.rounds.fleet.phones, (0.02, 0.5), strict=True):
        chunks = -(-phone.check_in.num_examples["train"] // 8)
        assert seconds[phone.key.key_id] == pytest.approx(chunks * per_chunk)


def test_a_straggler_s_work_is_counted_and_its_report_comes_too_late(emulate, events):
    run = emulate(num_phones=2, times_of=lambda *_: ChunkTimes(2.0, 1.0))
    run.train(1, cohort_size=1, over_selection=2.0)
    (slow,) = [phone for phone in run.rounds.fleet.phones if phone.profile.name == "slow"]
    run.train(2, cohort_size=2)
    refused = [event for _, device, event in events if device == slow.key.key_id and getattr(event, "status", 0) == 409]
    assert len(refused) == 1
    assert [result.num_reports for result in run.results[1:]] == [2, 2]
    (seconds,) = run.rows(
        f"SELECT sum(device_seconds) FROM costs WHERE assignment_id LIKE 'run-0-%' AND device_id = '{slow.key.key_id}'"
    )
    assert seconds[0] > 0


@pytest.mark.parametrize("lost", ["the report", "its answer"])
def test_a_phone_that_goes_away_around_its_report_is_counted_once(lost, emulate, events):
    whole = emulate("whole", num_phones=1)
    whole.train(1, cohort_size=1)
    reported_at = whole.rounds.clock.time
    run = emulate("broken", num_phones=1)
    start = reported_at - 1e-9 if lost == "the report" else reported_at + 1e-9
    run.rounds.fleet.phones[0].availability = AwayBetween(start, reported_at + 20)
    events.clear()
    run.train(2, cohort_size=1)
    broken = [(now, event) for now, _, event in events if isinstance(event, TransportFailed)]
    assert [now for now, _ in broken] == [reported_at + 20]
    assert [result.num_reports for result in run.results] == [1, 1]
    assert set(count_costs(run).values()) == {1}
    assert run.results[0].aggregate_sha256 == whole.results[0].aggregate_sha256


def test_a_phone_goes_on_working_while_it_is_away_and_tells_when_it_is_back(emulate, events):
    run = emulate(num_phones=1, times_of=lambda *_: ChunkTimes(10.0, 1.0))
    run.rounds.fleet.phones[0].availability = AwayBetween(5.0, 60.0)
    run.train(1, cohort_size=1)
    assert run.results[0].num_reports == 1
    assert 60 < run.rounds.clock.time < 61
    assert not any(isinstance(event, TransportFailed) for _, _, event in events)


def test_a_phone_that_vanishes_does_not_stall_the_round(emulate):
    run = emulate(num_phones=3)
    run.rounds.fleet.phones[0].availability = AwayBetween(0.3, 1e9)
    (result,) = run.train(1, cohort_size=2, over_selection=1.5)
    assert (result.status, result.num_reports) == ("closed", 2)
    assert run.rounds.clock.time < 300


def test_the_deadline_ends_a_round_that_nobody_completes(emulate):
    run = emulate(num_phones=3)
    run.rounds.fleet.phones[0].availability = AwayBetween(0.3, 1e9)
    (result,) = run.train(1, cohort_size=3, deadline_s=60.0)
    assert (result.status, result.num_reports) == ("closed", 2)
    assert run.rounds.clock.time == 60


def test_rounds_complete_with_phones_that_come_and_go(emulate, events):
    run = emulate(num_phones=8, availability=AvailabilityTerms(0.5, 5.0))
    results = run.train(4, cohort_size=4, over_selection=1.5)
    assert [(result.status, result.num_reports) for result in results] == [("closed", 4)] * 4
    assert set(count_costs(run).values()) == {1}
    assert any(isinstance(event, TransportFailed) for _, _, event in events)


def stop(fleet, *indices: int) -> None:
    for index in indices:
        fleet._begin(fleet.phones[index], Stop("update the app"))
        fleet.pending.pop(index)
    fleet._heap[:] = [entry for entry in fleet._heap if entry[1] not in indices]


def test_the_others_go_on_when_one_phone_has_stopped(emulate):
    run = emulate(num_phones=3)
    stop(run.rounds.fleet, 0)
    (result,) = run.train(1, cohort_size=3, deadline_s=60.0)
    assert (result.status, result.num_reports) == ("closed", 2)


def test_a_round_ends_at_its_deadline_when_the_last_phone_stops_in_it(emulate, monkeypatch):
    run = emulate(num_phones=2)
    real = module.advance

    def advance(state, event, now):
        if isinstance(event, Response) and event.status == 202:
            return state, Stop("update the app")
        return real(state, event, now)

    monkeypatch.setattr(module, "advance", advance)
    (result,) = run.train(1, cohort_size=3, deadline_s=60.0)
    assert (result.status, result.num_reports, run.rounds.clock.time) == ("closed", 2, 60)
    with pytest.raises(FleetError, match="every phone of the fleet has stopped: update the app"):
        run.train(1)


def test_a_fleet_without_a_phone_says_so(emulate):
    with pytest.raises(FleetError, match="it has no phone"):
        emulate(num_phones=0).train(1)


def test_work_that_cannot_be_done_is_given_back(emulate, events, monkeypatch):
    run = emulate(num_phones=2)
    monkeypatch.setattr(run.rounds.workers._inline, "perform", lambda *_: module.Failure("diverged", "lower it"))
    (result,) = run.train(1, cohort_size=2, deadline_s=60.0)
    assert (result.status, result.num_reports) == ("failed", 0)
    assert [event.reason for _, _, event in events if isinstance(event, WorkFailed)] == ["diverged"] * 2
    assert run.rows("SELECT status FROM assignments") == [("aborted",)] * 2


def test_a_damaged_download_is_no_blob_of_the_phone(emulate, monkeypatch, events):
    real = module.AsgiTransport.send
    is_first = iter([True])

    def send(transport, method, target, headers, body):
        answer = real(transport, method, target, headers, body)
        if "/v1/blobs/" in target and method == "GET" and next(is_first, False):
            return Response(answer.status, answer.headers, answer.body + b"x")
        return answer

    monkeypatch.setattr(module.AsgiTransport, "send", send)
    run = emulate(num_phones=1)
    (result,) = run.train(1, cohort_size=1)
    assert result.num_reports == 1
    assert [event.is_intact for _, _, event in events if isinstance(event, Response)].count(False) == 1


def test_requests_are_signed_for_the_phone_that_sends_them(emulate, monkeypatch):
    run = emulate(num_phones=1)
    monkeypatch.setattr(module, "request_headers", lambda request, body, key: {"Handheld-Device": key.key_id})
    (result,) = run.train(1, cohort_size=1, deadline_s=30.0)
    assert result.num_reports == 0
