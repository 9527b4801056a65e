import hashlib

import pytest

from device_runtime.signing import SigningKey
from device_runtime.wire import Report, ReportReceipt
from pipeline.coordinator import reporting
from pipeline.coordinator.worker import open_round
from pipeline.server.app import create_app
from profiles.catalogue import load_profile
from profiles.records import decode_record, encode_record

SERVER_KEY = SigningKey.derived(b"seed", "server")
PROFILE = encode_record(load_profile("pixel-4"))
SHA256 = hashlib.sha256(PROFILE).hexdigest()


@pytest.fixture
def app(world):
    """An open round that measures, and nobody enrolled."""
    world.run()
    world.round_id = open_round(world.store, world.blobs, world.measure(), world.now)
    return create_app(world.store, world.blobs, SERVER_KEY, b"n" * 32, lambda: world.now)


def put(phone, data):
    return phone.request("PUT", f"/v1/blobs/{hashlib.sha256(data).hexdigest()}", data)


def test_a_whole_part_of_a_measuring_round(phone, world):
    assignment = phone.assignment(world.check_in_message)
    assert (assignment.kind, assignment.parameters_sha256, assignment.measure.is_quick) == ("measure", None, True)
    for name in (assignment.artifact_id, *(path.stem for path in world.pack_folder.glob("*.onnx"))):
        assert hashlib.sha256(phone.request("GET", f"/v1/blobs/{name}").content).hexdigest() == name
    assert [put(phone, PROFILE).status_code for _ in range(2)] == [201, 200]
    answer = phone.report(Report(assignment.assignment_id, 0, profile_sha256=SHA256, work_s=1.0))
    assert (answer.status_code, decode_record(ReportReceipt, answer.content)) == (202, ReportReceipt(1, 3))


def test_what_is_no_profile_is_a_bad_update(phone, world, expect_problem):
    phone.assignment(world.check_in_message)
    problem = expect_problem(put(phone, b'{"name":"phone"}'), "bad-update", 422)
    assert "DeviceProfile lacks" in problem.detail


def test_a_profile_that_is_too_large_is_refused_before_it_is_read(phone, world, expect_problem):
    phone.assignment(world.check_in_message)
    expect_problem(put(phone, b" " * (reporting.MAX_PROFILE_BYTES + 1)), "too-large", 413)


def test_a_profile_belongs_to_its_device(phone, make_phone, world, expect_problem):
    assignment = phone.assignment(world.check_in_message)
    put(phone, PROFILE)
    other = make_phone(2)
    other.enrol()
    expect_problem(other.request("GET", f"/v1/blobs/{SHA256}"), "unknown-blob", 404)
    expect_problem(put(other, PROFILE), "round-closed", 409)
    stolen = Report(assignment.assignment_id, 0, profile_sha256=SHA256)
    expect_problem(other.report(stolen), "not-assigned", 403)
    assert phone.request("GET", f"/v1/blobs/{SHA256}").content == PROFILE


def test_a_report_without_its_profile_is_refused(phone, world, expect_problem):
    assignment = phone.assignment(world.check_in_message)
    problem = expect_problem(phone.report(Report(assignment.assignment_id, 0)), "bad-request", 422)
    assert "profile_sha256 must name the profile" in problem.detail
