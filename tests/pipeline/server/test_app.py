import hashlib
from dataclasses import replace

import numpy as np
import pytest

from device_runtime.signing import SigningKey
from device_runtime.vectors import write_vector
from device_runtime.wire import (
    DEVICE_HEADER,
    REPLAY_NONCE_HEADER,
    SIGNATURE_HEADER,
    Abort,
    CheckInReply,
    Enrolment,
    EnrolmentReceipt,
    Report,
    ReportReceipt,
    ServerInfo,
)
from pipeline.coordinator import reporting
from pipeline.coordinator.cost_ledger import costs_by_phase
from profiles.records import decode_record, encode_record

ONES = np.ones(6)


def test_the_server_tells_its_key_to_anybody(make_phone):
    response = make_phone().send("GET", "/v1/server")
    info = decode_record(ServerInfo, response.content)
    assert info.public_key == SigningKey.derived(b"seed", "server").public_key
    assert REPLAY_NONCE_HEADER not in response.headers


def test_enrolling_gives_a_signed_receipt_and_again_the_same(make_phone):
    phone = make_phone()
    first, second = phone.enrol(), phone.enrol()
    phone.check_reply(first)
    receipt = decode_record(EnrolmentReceipt, first.content)
    assert (receipt.device_id, first.content) == (phone.key.key_id, second.content)


def test_a_whole_part_of_a_round(phone, world):
    response = phone.check_in(world.check_in_message)
    phone.check_reply(response)
    assignment = decode_record(CheckInReply, response.content).assignment
    manifest = phone.request("GET", f"/v1/blobs/{assignment.artifact_id}").content
    assert hashlib.sha256(manifest).hexdigest() == assignment.artifact_id
    assert phone.request("GET", f"/v1/blobs/{assignment.parameters_sha256}").status_code == 200
    assert [phone.put_update(ONES).status_code for _ in range(2)] == [201, 200]
    update = next(iter(set(world.blobs.names()) - names_before(world)))
    report = Report(assignment.assignment_id, 20, update, work_s=1.0)
    answers = [phone.report(report) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert decode_record(ReportReceipt, answers[0].content) == ReportReceipt(1, 3)
    assert answers[0].content == answers[1].content
    assert world.load(world.round_id).num_reported == 1


def names_before(world):
    manifest = world.manifest()
    return {world.artifact_id, world.parameters_sha256, manifest.gradient_sha256, manifest.evaluate_sha256}


def test_the_reply_of_one_device_is_not_signed_for_another(phone, make_phone, world):
    response = phone.check_in(world.check_in_message)
    with pytest.raises(ValueError, match="does not fit"):
        make_phone(2).check_reply(response)


def test_a_device_that_gets_nothing_is_told_when_to_come_back(phone, make_phone, world):
    world.now = 100.0
    reply = decode_record(CheckInReply, phone.check_in(world.check_in_message).content)
    assert (reply.assignment, reply.come_back.earliest_s, reply.come_back.latest_s) == (None, 5.0, 15.0)


def test_blobs_have_an_etag_and_are_not_sent_to_who_has_them(phone, world):
    target = f"/v1/blobs/{world.artifact_id}"
    response = phone.request("GET", target)
    assert response.headers["etag"] == f'"{world.artifact_id}"'
    assert response.headers["cache-control"].startswith("private, immutable")
    again = phone.request("GET", target, if_none_match=response.headers["etag"])
    assert (again.status_code, again.content) == (304, b"")
    assert phone.request("GET", target, if_none_match='"other"').status_code == 200


def test_another_devices_update_does_not_exist(phone, make_phone, world, expect_problem):
    phone.assignment(world.check_in_message)
    phone.put_update(ONES)
    other = make_phone(2)
    other.enrol()
    (update,) = set(world.blobs.names()) - names_before(world)
    assert phone.request("GET", f"/v1/blobs/{update}").status_code == 200
    for name in (update, "0" * 64, "no-hash"):
        expect_problem(other.request("GET", f"/v1/blobs/{name}"), "unknown-blob", 404)
        expect_problem(other.request("GET", f"/v1/blobs/{name}", if_none_match=f'"{name}"'), "unknown-blob", 404)


def test_every_answer_has_a_nonce_for_the_device_that_is_named(make_phone):
    stranger = make_phone(7)
    for target in ("/v1/server", "/v1/blobs/0", "/v1/nowhere"):
        response = stranger.send("GET", target, headers={DEVICE_HEADER: stranger.key.key_id})
        assert response.headers[REPLAY_NONCE_HEADER]
    for name in ("", "short", "Z" * 64):
        response = stranger.send("GET", "/v1/server", headers={DEVICE_HEADER: name})
        assert REPLAY_NONCE_HEADER not in response.headers


def test_a_stale_nonce_is_told_with_a_fresh_one(phone, world, expect_problem):
    world.now = 601.0
    expect_problem(phone.check_in(world.check_in_message), "stale-nonce", 401)
    assert phone.check_in(world.check_in_message).status_code == 200


def test_another_devices_nonce_is_stale(phone, make_phone, world, expect_problem):
    other = make_phone(2)
    other.enrol()
    phone.nonce = other.nonce
    expect_problem(phone.check_in(world.check_in_message), "stale-nonce", 401)


def test_a_replay_within_a_nonces_life_is_harmless(phone, world):
    body = encode_record(world.check_in_message)
    headers = phone.headers("POST", "/v1/check-in", body)
    answers = [phone.send("POST", "/v1/check-in", body, headers).content for _ in range(2)]
    assert answers[0] == answers[1]
    assert world.load(world.round_id).num_assigned == 1


FORGERIES = {
    "another key": lambda phone, headers: headers | {SIGNATURE_HEADER: SigningKey.derived(b"x", "x").sign(b"anything")},
    "no signature": lambda phone, headers: {k: v for k, v in headers.items() if k != SIGNATURE_HEADER},
    "no base64": lambda phone, headers: headers | {SIGNATURE_HEADER: "!" * 86},
    "no device": lambda phone, headers: {k: v for k, v in headers.items() if k != DEVICE_HEADER},
    "another path": lambda phone, headers: phone.headers("POST", "/v1/elsewhere", b"{}"),
    "another method": lambda phone, headers: phone.headers("PUT", "/v1/check-in", b"{}"),
    "another body": lambda phone, headers: phone.headers("POST", "/v1/check-in", b"[]"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_signature_is_refused(phone, forgery, expect_problem):
    headers = FORGERIES[forgery](phone, phone.headers("POST", "/v1/check-in", b"{}"))
    expect_problem(phone.send("POST", "/v1/check-in", b"{}", headers), "bad-signature", 401)


def test_the_query_is_signed_too(phone, world, expect_problem):
    target = f"/v1/blobs/{world.artifact_id}"
    assert phone.request("GET", f"{target}?a=1").status_code == 200
    expect_problem(
        phone.send("GET", f"{target}?a=2", headers=phone.headers("GET", f"{target}?a=1")), "bad-signature", 401
    )


def test_a_device_enrols_with_its_own_key(make_phone, expect_problem):
    phone, other = make_phone(1), make_phone(2)
    phone.send("GET", "/v1/server", headers={DEVICE_HEADER: phone.key.key_id})
    stolen = Enrolment(other.key.public_key, "emulated")
    expect_problem(phone.request("POST", "/v1/enrolment", stolen), "bad-signature", 401)
    expect_problem(phone.request("POST", "/v1/enrolment", Enrolment("AAAA", "emulated")), "bad-signature", 401)


def test_a_stranger_is_asked_to_enrol(make_phone, world, expect_problem):
    expect_problem(make_phone(9).check_in(world.check_in_message), "not-enrolled", 401)


def test_a_nan_update_is_refused(phone, world, expect_problem):
    phone.assignment(world.check_in_message)
    problem = expect_problem(phone.put_update([np.nan] * 6), "bad-update", 422)
    assert "must be finite, got 6 of 6" in problem.detail


def test_the_same_key_elsewhere_holds_the_same_assignment_and_cannot_report_another_result(
    phone, make_phone, world, expect_problem
):
    twin = make_phone(1)
    assignment = phone.assignment(world.check_in_message)
    assert twin.assignment(world.check_in_message) == assignment
    phone.put_update(ONES)
    expect_problem(twin.put_update(2 * ONES), "conflicting-report", 409)
    (update,) = set(world.blobs.names()) - names_before(world)
    assert phone.report(Report(assignment.assignment_id, 20, update)).status_code == 202
    expect_problem(twin.report(Report(assignment.assignment_id, 21, update)), "conflicting-report", 409)


def test_what_comes_after_the_deadline_is_refused(phone, world, expect_problem):
    assignment = phone.assignment(world.check_in_message)
    phone.put_update(ONES)
    (update,) = set(world.blobs.names()) - names_before(world)
    world.now = 100.0
    expect_problem(phone.report(Report(assignment.assignment_id, 20, update)), "round-closed", 409)
    expect_problem(phone.put_update(2 * ONES), "conflicting-report", 409)


def test_another_devices_assignment_is_refused(phone, make_phone, world, expect_problem):
    assignment = phone.assignment(world.check_in_message)
    other = make_phone(2)
    other.enrol()
    expect_problem(other.report(Report(assignment.assignment_id, 20, "0" * 64)), "not-assigned", 403)
    expect_problem(phone.report(Report("run-8-8", 20, "0" * 64)), "unknown-assignment", 404)


def test_an_abort_is_harmless_twice(phone, world):
    assignment = phone.assignment(world.check_in_message)
    target = f"/v1/assignments/{assignment.assignment_id}/abort"
    for _ in range(2):
        response = phone.request("POST", target, Abort(assignment.assignment_id, "conditions"))
        assert (response.status_code, response.content) == (204, b"")
    assert world.load(world.round_id).num_open == 0


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("POST", "/v1/check-in", b"{"),
        ("POST", "/v1/check-in", b'{"runtime_version": "1", "opsett": 17}'),
        ("POST", "/v1/enrolment", b"{}"),
        ("PUT", "/v1/assignments/run-0-0/report", b"[]"),
        ("POST", "/v1/assignments/run-0-0/abort", b'{"assignment_id": "run-0-1", "reason": "failed"}'),
        ("POST", "/v1/assignments/run-0-0/abort", b'{"assignment_id": "run-0-0", "reason": "bored"}'),
    ],
)
def test_a_message_that_cannot_be_read_is_told_how(phone, method, target, body, expect_problem):
    expect_problem(phone.request(method, target, body), "bad-request", 422)


def test_a_version_that_is_none_is_a_bad_request(phone, world, expect_problem):
    expect_problem(phone.check_in(replace(world.check_in_message, runtime_version="new")), "bad-request", 422)


def test_devices_for_which_nothing_is_here_are_told_why(phone, make_phone, world, expect_problem):
    old = replace(world.check_in_message, runtime_version="1.13.1")
    assert "update the app" in expect_problem(phone.check_in(old), "upgrade-required", 426).detail
    expect_problem(phone.check_in(replace(world.check_in_message, spec_id="other")), "wrong-spec", 403)
    real = make_phone(3)
    real.enrol("real")
    expect_problem(real.check_in(world.check_in_message), "wrong-kind", 403)
    expect_problem(phone.enrol("real"), "wrong-kind", 403)


def test_an_unknown_route_or_method_is_a_problem_too(phone, expect_problem):
    expect_problem(phone.send("GET", "/v1/nowhere"), "not-found", 404)
    expect_problem(phone.send("DELETE", "/v1/server"), "method-not-allowed", 405)


def test_a_record_that_is_too_large_is_not_read_to_its_end(phone, expect_problem):
    read = []

    async def endless():
        for _ in range(1000):
            read.append(1)
            yield b" " * 1024

    headers = phone.headers("POST", "/v1/check-in", b"")
    expect_problem(phone.send("POST", "/v1/check-in", endless(), headers), "too-large", 413)
    assert len(read) < 70


def test_an_update_that_is_too_large_is_refused_by_its_announcement_and_by_its_bytes(phone, world, expect_problem):
    phone.assignment(world.check_in_message)
    expect_problem(phone.put_update(np.ones(6 + 1100 // 4)), "too-large", 413)
    headers = phone.headers("PUT", f"/v1/blobs/{'0' * 64}", b"")
    headers["content-length"] = "1000000000"
    expect_problem(phone.send("PUT", f"/v1/blobs/{'0' * 64}", b"x", headers), "too-large", 413)


def test_a_large_update_whose_round_closed_meanwhile_is_told_so_and_counted(phone, world, expect_problem, monkeypatch):
    monkeypatch.setattr(reporting, "HEADER_BYTES", 80_000)  # so that an update may be larger than a record
    phone.assignment(world.check_in_message)
    world.now = 100.0
    world.close("run-0")
    expect_problem(phone.put_update(np.ones(19_900)), "round-closed", 409)
    (cost,) = costs_by_phase(world.store, "run")
    assert cost.bytes_up == len(write_vector("parameter_update", np.ones(19_900, np.float32))) > 65_536
    expect_problem(phone.put_update(np.ones(30_000)), "too-large", 413)


def test_without_an_assignment_to_train_there_is_no_upload(phone, expect_problem):
    expect_problem(phone.put_update(ONES), "round-closed", 409)


def test_a_defect_is_told_as_one_and_raised(phone, make_phone, world, monkeypatch, expect_problem):
    def fail(*arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(reporting, "accept_report", fail)
    assignment = phone.assignment(world.check_in_message)
    response = phone.report(Report(assignment.assignment_id, 20, "0" * 64))
    expect_problem(response, "internal", 500)
    assert response.headers[REPLAY_NONCE_HEADER]
    assert world.load(world.round_id).num_reported == 0
    phone.raises = True
    with pytest.raises(ZeroDivisionError):
        phone.report(Report(assignment.assignment_id, 20, "0" * 64))
