import hashlib
import json
import re

import pytest

from device_runtime.client_records import (
    Evaluate,
    Request,
    Response,
    Sleep,
    Started,
    Stop,
    Train,
    Woke,
    WorkFailed,
)
from device_runtime.terms import EvaluateTerms
from device_runtime.wire import (
    CheckInReply,
    Enrolment,
    ServerInfo,
    Window,
)
from profiles.records import encode_record

TRAINING = ["server", "enrolment", "check-in", "blob", "blob", "blob", "blob", "upload", "report", "check-in"]


class TestPath:
    def test_it_enrols_fetches_trains_uploads_reports_and_checks_in_again(self, phone, serving, fakes):
        assert phone.run() == Sleep(5, 15)
        assert serving.seen == TRAINING
        assert serving.enrolled == [Enrolment(fakes.DEVICE.public_key, "emulated")]
        assert [report.update_sha256 for report in serving.reports] == [fakes.UPDATE]
        assert (phone.state.num_reported, phone.state.assignment, phone.state.report) == (1, None, None)

    def test_an_evaluation_has_nothing_to_upload(self, phone, server, make_assignment):
        server.assignments = [make_assignment(kind="evaluate", evaluate=EvaluateTerms("test", ("accuracy",)))]
        phone.run()
        assert "upload" not in server.seen
        assert server.reports[0].metric_sums == {"accuracy": 4.0}

    def test_all_files_of_the_assignment_are_asked_for_by_hash(self, phone, serving, artifact_id):
        saved = []
        action = phone.step(Started())
        while not isinstance(action, Train):
            saved += [action.save_as] if isinstance(action, Request) and action.save_as else []
            action = phone.step(phone.react(action))
        assert saved[0] == artifact_id
        assert set(saved) == set(serving.files)

    def test_frozen_tensors_are_one_more_file(self, phone, server, make_assignment, artifact_files):
        frozen = {"sha256": hashlib.sha256(b"frozen").hexdigest(), "shapes": {"backbone": [2]}}
        manifest = json.dumps(json.loads(artifact_files["manifest.json"]) | {"frozen": frozen}).encode()
        artifact_id = hashlib.sha256(manifest).hexdigest()
        server.files |= {artifact_id: manifest, frozen["sha256"]: b"frozen"}
        server.assignments = [make_assignment(artifact_id=artifact_id)]
        assert phone.run() == Sleep(5, 15)
        assert server.seen.count("blob") == TRAINING.count("blob") + 1
        assert any(frozen["sha256"] in state.to_fetch for state in phone.saved)

    def test_what_the_last_assignment_named_is_remembered_for_the_cache(self, phone, serving):
        phone.run()
        assert phone.state.assignment is None
        assert set(phone.state.files) == set(serving.files)

    def test_it_comes_back_within_the_servers_window_and_takes_the_next_assignment(
        self, phone, server, make_assignment
    ):
        assert phone.run() == Sleep(5, 15)
        server.assignments = [make_assignment(1), make_assignment(2)]
        phone.now += 3
        assert phone.run(Woke()) == Sleep(2, 12)
        assert server.reports == []
        phone.now += 2
        phone.run(Woke())
        assert [report.assignment_id for report in server.reports] == ["run-1", "run-2"]

    @pytest.mark.parametrize(
        ("window", "sleep"),
        [
            (Window(-5, -1), Sleep(0, 0.01)),
            (Window(20, 10), Sleep(20, 20)),
            (Window(1e12, 1e12), Sleep(86400, 86400)),
        ],
    )
    def test_a_window_that_makes_no_sense_is_made_sensible(self, phone, server, window, sleep):
        server.script["check-in"] = [server.signed(CheckInReply(come_back=window), "nonce 2")]
        server.enrolled = [None]
        rest = phone.run()
        assert (rest.earliest_s, rest.latest_s) == (pytest.approx(sleep.earliest_s), pytest.approx(sleep.latest_s))

    def test_a_clock_set_back_by_years_does_not_make_it_sleep_for_years(self, phone):
        phone.run()
        phone.now -= 1e8
        assert phone.run(Woke()).earliest_s == pytest.approx(5)

    def test_the_state_is_small_and_the_same_events_give_the_same_states(self, server, serving, artifact_files, fakes):
        first, second = fakes.Phone(serving), fakes.Phone(fakes.FakeServer(serving.files, list(serving.assignments)))
        first.run()
        second.run()
        assert first.saved == second.saved
        assert max(len(encode_record(state)) for state in first.saved) < 3000


class TestStop:
    @pytest.mark.parametrize(
        ("step", "answer", "reason"),
        [
            ("check-in", (426, "upgrade-required", "update the app"), "update the app"),
            ("check-in", (403, "wrong-spec", "give both the same data"), "give both the same data"),
            ("enrolment", (403, "wrong-kind", "every run here is real"), "every run here is real"),
            ("server", (404, b"<html>"), "no Handheld server .404.*check the URL"),
            ("server", (200, b"hello"), "no Handheld server .200.*check the URL"),
        ],
    )
    def test_what_only_a_person_can_mend_stops_with_the_reason_and_can_be_tried_again(
        self, phone, step, answer, reason, fakes
    ):
        phone.server.script[step] = [Response(answer[0], {}, answer[1]) if step == "server" else fakes.problem(*answer)]
        stop = phone.run()
        assert isinstance(stop, Stop)
        assert re.search(reason, stop.reason)
        assert phone.run() == Sleep(5, 15)

    def test_a_newer_protocol_is_named(self, phone, server, fakes):
        server.script["server"] = [Response(200, {}, encode_record(ServerInfo(fakes.SERVER.public_key, "handheld-v9")))]
        assert (
            phone.run().reason == "the server speaks handheld-v9, this client handheld-v1: update the older of the two"
        )

    def test_a_signed_answer_of_a_newer_schema_is_named(self, phone, server):
        server.enrolled = [None]
        server.script["check-in"] = [server.signed(CheckInReply(come_back=Window(1, 2), schema=2), "nonce 2")]
        assert "schema is 2, this version reads up to 1" in phone.run().reason


@pytest.mark.parametrize("reason", ["budget", "too-few-examples", "diverged", "refused"])
def test_work_that_cannot_be_done_is_given_back_with_its_reason(phone, serving, make_assignment, reason):
    phone.work = [WorkFailed(reason, "because")]
    assert phone.run() == Sleep(0.5, 1.0)
    assert [abort.reason for abort in serving.aborts] == [reason]
    assert phone.state.note == "because"
    serving.assignments = [make_assignment(1)]
    phone.now += 1
    phone.run(Woke())
    assert phone.state.num_aborts == 0


def test_a_server_that_offers_what_was_given_back_is_not_worked_for_in_a_circle(phone, serving, make_assignment):
    phone.work = [WorkFailed("diverged", "because")] * 99
    pauses = [phone.run()]
    for _ in range(4):
        serving.assignments = [make_assignment()]
        phone.now += pauses[-1].latest_s
        pauses.append(phone.run(Woke()))
    assert phone.worked == ["run-0"]
    assert [pause.latest_s for pause in pauses] == [1, 2, 4, 8, 16]


def test_evaluation_is_its_own_action(phone, server, make_assignment):
    server.assignments = [make_assignment(kind="evaluate", evaluate=EvaluateTerms("test", ("accuracy",)))]
    action = phone.step(Started())
    while not isinstance(action, (Train, Evaluate)):
        action = phone.step(phone.react(action))
    assert isinstance(action, Evaluate)
