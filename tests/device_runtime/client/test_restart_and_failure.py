from dataclasses import replace

import pytest

from device_runtime.client_records import (
    Sleep,
    Started,
    Stop,
    Train,
    TransportFailed,
    Woke,
)
from device_runtime.client_requests import LONGEST_PAUSE_S

TRAINING = ["server", "enrolment", "check-in", "blob", "blob", "blob", "blob", "upload", "report", "check-in"]


class TestRestart:
    @pytest.mark.parametrize("stop_after", range(2 * len(TRAINING)))
    def test_killed_after_any_step_and_started_again_each_report_is_counted_once(
        self, phone, serving, stop_after, fakes
    ):
        action = phone.step(Started())
        for _ in range(stop_after):
            if isinstance(action, Sleep):
                break
            action = phone.step(phone.react(action))
        again = fakes.Phone(serving, phone.saved[-1], phone.now)
        again.run()
        assert [report.assignment_id for report in serving.reports] == ["run-0"]
        assert again.state.num_reported == 1

    @pytest.mark.parametrize("is_answer_lost", [False, True])
    def test_a_stored_update_is_sent_again_and_nothing_is_trained_again(self, phone, serving, is_answer_lost, fakes):
        lost = TransportFailed("broken")
        serving.script["report"] = [lost] if is_answer_lost else [fakes.problem(503, "busy")]
        assert phone.run() == Sleep(0.5, 1.0)
        again = fakes.Phone(serving, phone.saved[-1], phone.now)
        again.run()
        assert serving.seen[-4:] == ["report", "server", "report", "check-in"]
        assert (phone.worked, again.worked) == (["run-0"], [])

    def test_work_that_was_not_finished_is_done_again(self, phone, serving, fakes):
        action = phone.step(Started())
        while not isinstance(action, Train):
            action = phone.step(phone.react(action))
        again = fakes.Phone(serving, phone.saved[-1], phone.now)
        again.run()
        assert again.worked == ["run-0"]
        assert len(serving.reports) == 1

    def test_a_window_of_the_server_is_kept_through_a_restart_and_a_pause_of_its_own_is_not(self, phone, server, fakes):
        phone.run()
        assert fakes.Phone(server, phone.state, phone.now + 1).run() == Sleep(4, 14)
        server.script["check-in"] = [fakes.problem(503, "busy")]
        phone.now += 15
        phone.run(Woke())
        assert fakes.Phone(server, phone.state, phone.now).run() == Sleep(5, 15)

    def test_after_a_restart_the_server_is_asked_who_it_is_before_anything_is_sent(self, phone, serving, fakes):
        serving.script["upload"] = [TransportFailed("broken")]
        phone.run()
        stranger = fakes.FakeServer(serving.files, list(serving.assignments), key=fakes.OTHER)
        stop = fakes.Phone(stranger, phone.state, phone.now).run()
        assert isinstance(stop, Stop)
        assert stranger.seen == ["server"]


class TestFailure:
    def test_pauses_grow_to_a_bound_and_leave_room_for_jitter(self, phone, server):
        server.script["server"] = [TransportFailed("refused")] * 20
        pauses = [phone.run()]
        for _ in range(15):
            phone.now += pauses[-1].latest_s
            pauses.append(phone.run(Woke()))
        assert pauses[:3] == [Sleep(0.5, 1.0), Sleep(1.0, 2.0), Sleep(2.0, 4.0)]
        assert pauses[-1] == Sleep(LONGEST_PAUSE_S / 2, LONGEST_PAUSE_S)
        assert (phone.state.failing_since, phone.state.num_failures, phone.state.note) == (1000.0, 16, "refused")

    @pytest.mark.parametrize("status", [302, 408, 425, 429, 500, 502, 503])
    def test_a_passing_failure_is_tried_again_and_forgotten_after_success(self, phone, serving, status, fakes):
        serving.script["blob"] = [fakes.problem(status, "busy")]
        assert phone.run() == Sleep(0.5, 1.0)
        phone.now += 1
        phone.run(Woke())
        assert len(serving.reports) == 1
        assert (phone.state.num_failures, phone.state.failing_since) == (0, None)

    def test_an_assignment_is_given_up_when_its_lease_has_run_out(self, phone, serving, make_assignment):
        serving.script["upload"] = [TransportFailed("broken")] * 99
        action = phone.run()
        serving.assignments = [make_assignment(7)]
        while serving.seen.count("check-in") < 2:
            assert phone.state.phase == "upload"
            phone.now += action.latest_s
            action = phone.run(Woke())
        assert 1060 <= phone.now <= 1060 + 64
        serving.script["upload"] = []
        phone.now += action.latest_s
        phone.run(Woke())
        assert [report.assignment_id for report in serving.reports] == ["run-7"]

    def test_a_result_whose_lease_ran_out_is_sent_if_the_server_asks_for_it_after_all(self, phone, serving):
        serving.script["upload"] = [TransportFailed("broken")]
        phone.run()
        phone.now += 100
        phone.run(Woke())
        assert phone.worked == ["run-0"]
        assert len(serving.reports) == 1

    def test_a_stale_nonce_is_retried_once_at_once(self, phone, serving, fakes):
        serving.script["report"] = [fakes.problem(401, "stale-nonce")]
        assert phone.run() == Sleep(5, 15)
        assert serving.seen.count("report") == 2
        serving.assignments = [replace(serving.assignments[0])] if serving.assignments else []
        serving.script["check-in"] = [fakes.problem(401, "stale-nonce"), fakes.problem(401, "stale-nonce")]
        phone.now += 15
        assert phone.run(Woke()) == Sleep(0.5, 1.0)

    @pytest.mark.parametrize(
        ("step", "answer"),
        [
            ("report", (409, "round-closed")),
            ("report", (403, "not-assigned")),
            ("report", (404, "unknown-assignment")),
            ("report", (410, "gone")),
            ("upload", (409, "round-closed")),
        ],
    )
    def test_a_result_that_came_too_late_is_dropped(self, phone, serving, step, answer, fakes):
        serving.script[step] = [fakes.problem(*answer)]
        action = phone.step(Started())
        while "report" not in serving.seen and step not in serving.seen:
            action = phone.step(phone.react(action))
        serving.assignments = [replace(serving.assignments[0], assignment_id="run-1")]
        while not isinstance(action, Sleep):
            action = phone.step(phone.react(action))
        assert [report.assignment_id for report in serving.reports] == ["run-1"]
        assert serving.aborts == []

    def test_a_conflicting_report_is_never_worked_for_again(self, phone, serving, fakes):
        serving.script["upload"] = [fakes.problem(409, "conflicting-report")]
        assert phone.run() == Sleep(0.5, 1.0)
        phone.now += 1
        assert phone.run(Woke()) == Sleep(1.0, 2.0)
        assert phone.worked == ["run-0"]

    @pytest.mark.parametrize("step", ["upload", "report"])
    def test_a_result_that_the_server_finds_wrong_is_given_back(self, phone, serving, step, fakes):
        serving.script[step] = [fakes.problem(422, "bad-update", "parameter_update must be finite")]
        phone.run()
        assert [abort.reason for abort in serving.aborts] == ["failed"]
        assert "must be finite" in phone.state.note

    def test_a_server_that_forgot_the_device_enrols_it_again_and_gets_its_report(self, phone, serving, fakes):
        serving.script["report"] = [fakes.problem(401, "not-enrolled")]
        phone.run()
        assert (len(serving.enrolled), len(serving.reports), phone.worked) == (2, 1, ["run-0"])

    def test_a_server_that_forgets_at_once_is_not_asked_in_a_circle(self, phone, server, fakes):
        server.script["check-in"] = [fakes.problem(401, "not-enrolled")] * 5
        assert isinstance(phone.run(max_steps=12), Sleep)

    def test_a_bad_signature_waits(self, phone, server, fakes):
        server.script["check-in"] = [fakes.problem(401, "bad-signature", "the signature does not fit")]
        assert phone.run() == Sleep(0.5, 1.0)
        assert "does not fit" in phone.state.note
