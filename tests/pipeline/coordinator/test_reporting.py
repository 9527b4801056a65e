import hashlib

import numpy as np
import pytest

from device_runtime.vectors import write_vector
from device_runtime.wire import Abort, Report
from pipeline.coordinator.blobs import BlobFolder
from pipeline.coordinator.reporting import (
    BadUpdateError,
    NotAssignedError,
    Upload,
    max_upload_bytes,
    take_abort,
    take_report,
    take_upload,
)
from pipeline.coordinator.round_rows import UnknownAssignmentError
from pipeline.coordinator.rounds import BadMessageError, ConflictingReportError, RoundClosedError
from profiles.records import RecordError, encode_record

ONES = np.ones(6)


@pytest.fixture
def opened(world):
    world.run()
    world.enrol(1, 2, 3, 4)
    world.round_id = world.open()
    return world


def put(world, number, data):
    upload = Upload(world.device_id(number), hashlib.sha256(data).hexdigest(), data)
    return take_upload(world.store, world.blobs, upload, world.now)


def abort(world, number, assignment_id):
    message = Abort(assignment_id, "conditions")
    take_abort(world.store, world.device_id(number), assignment_id, message, world.now)


def test_an_update_is_taken_once_and_again_harmlessly(opened):
    opened.assignment(1)
    data = write_vector("parameter_update", ONES.astype(np.float32))
    assert put(opened, 1, data)
    assert not put(opened, 1, data)
    assert opened.blobs.get(hashlib.sha256(data).hexdigest()) == data


def test_equal_updates_belong_to_their_own_assignments(opened):
    opened.open(round_key="second")
    for number in (1, 2):
        opened.serve(number, ONES)
    opened.now = 1.0
    assert opened.load(opened.round_id).num_reported == 2
    opened.serve(1, ONES)
    assert opened.load("run-1").num_reported == 1


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("parameter_update", [np.nan] * 6, "must be finite, got 6 of 6"),
        ("parameter_update", [1, 2, 3, 4, 5, np.inf], "must be finite, got 1 of 6"),
        ("parameter_update", [1.0] * 5, r"shape \[6\], got F32 of shape \[5\]"),
        ("gradient_sum", [1.0] * 6, "exactly the tensor 'parameter_update', got"),
    ],
)
def test_a_vector_that_was_not_asked_for_is_refused_and_not_kept(opened, name, values, message):
    opened.assignment(1)
    before = opened.blobs.names()
    with pytest.raises(BadUpdateError, match=message):
        opened.send_update(1, values, name)
    assert opened.blobs.names() == before


def test_bytes_of_another_hash_or_format_are_refused(opened):
    opened.assignment(1)
    with pytest.raises(BadUpdateError, match="must have the sha256 it is named by"):
        take_upload(opened.store, opened.blobs, Upload(opened.device_id(1), "0" * 64, b"something"), 0.0)
    with pytest.raises(BadUpdateError, match="no safetensors file"):
        put(opened, 1, b"something")


def test_noise_on_the_sum_asks_for_the_gradient_sum(world):
    world.private_run()
    world.enrol(1)
    world.open(**world.private_training("sum"))
    world.assignment(1)
    with pytest.raises(BadUpdateError, match="exactly the tensor 'gradient_sum'"):
        world.send_update(1, ONES)
    world.send_update(1, ONES, "gradient_sum")


def test_one_assignment_takes_one_update(opened):
    opened.assignment(1)
    opened.send_update(1, ONES)
    with pytest.raises(ConflictingReportError, match="has a different blob: one is taken"):
        opened.send_update(1, 2 * ONES)


def test_an_update_needs_an_assignment_to_train(opened):
    with pytest.raises(RoundClosedError, match="no assignment to send a blob for"):
        opened.send_update(1, ONES)
    opened.assignment(1)
    opened.now = 100.0
    with pytest.raises(RoundClosedError, match="has ended"):
        opened.send_update(1, ONES)


def test_an_evaluation_takes_no_update(world):
    world.run()
    world.enrol(1)
    world.open(**world.evaluation())
    world.assignment(1)
    assert max_upload_bytes(world.store, world.device_id(1)) is None
    with pytest.raises(RoundClosedError, match="no assignment to send a blob for"):
        world.send_update(1, ONES)


def test_the_largest_update_has_room_for_the_header_and_little_more(opened):
    opened.assignment(1)
    size = len(write_vector("parameter_update", ONES.astype(np.float32)))
    assert size <= max_upload_bytes(opened.store, opened.device_id(1)) < size + 1100


def test_a_blob_whose_round_closed_meanwhile_may_be_as_large_as_it_was_and_one_that_came_may_not(opened):
    opened.assignment(1)
    opened.serve(2)
    before = max_upload_bytes(opened.store, opened.device_id(1))
    opened.now = 100.0
    opened.close(opened.round_id)
    sizes = [max_upload_bytes(opened.store, opened.device_id(number)) for number in (1, 2, 3)]
    assert sizes == [before, None, None]


def test_receipts_number_the_reports_and_stay_the_same(opened):
    first, second = opened.assignment(1), opened.assignment(2)
    update = opened.send_update(1, ONES)
    report = Report(first.assignment_id, 20, update)
    receipt = opened.send_report(1, report)
    assert (receipt.num_reported, receipt.cohort_size) == (1, 3)
    opened.send_report(2, Report(second.assignment_id, 20, opened.send_update(2, ONES)))
    assert opened.send_report(1, report) == receipt
    assert opened.load(opened.round_id).num_reported == 2
    opened.now = 100.0
    opened.close(opened.round_id)
    assert opened.send_report(1, report) == receipt


def test_a_second_different_report_conflicts_and_changes_nothing(opened):
    assignment = opened.serve(1, ONES)
    update = hashlib.sha256(write_vector("parameter_update", ONES.astype(np.float32))).hexdigest()
    with pytest.raises(ConflictingReportError):
        opened.send_report(1, Report(assignment.assignment_id, 21, update))
    opened.now = 100.0
    assert opened.close(opened.round_id).num_examples == 20


def test_a_report_names_the_update_that_came(opened):
    assignment = opened.assignment(1)
    with pytest.raises(BadUpdateError, match="none came: PUT the blob before its report"):
        opened.send_report(1, Report(assignment.assignment_id, 20, "0" * 64))
    opened.send_update(1, ONES)
    with pytest.raises(BadUpdateError, match="must name the update that this assignment sent"):
        opened.send_report(1, Report(assignment.assignment_id, 20, "0" * 64))
    assert opened.load(opened.round_id).num_reported == 0


def test_nobody_takes_another_devices_update_as_its_own(opened):
    opened.assignment(1)
    stolen = opened.send_update(1, ONES)
    assignment = opened.assignment(2)
    with pytest.raises(BadUpdateError, match="none came"):
        opened.send_report(2, Report(assignment.assignment_id, 20, stolen))


def test_only_the_assigned_device_reports_or_aborts(opened):
    assignment = opened.assignment(1)
    with pytest.raises(NotAssignedError, match="belongs to another device"):
        opened.send_report(2, Report(assignment.assignment_id, 20, "0" * 64))
    with pytest.raises(NotAssignedError):
        abort(opened, 2, assignment.assignment_id)
    with pytest.raises(UnknownAssignmentError, match="there is no assignment 'run-9-9'"):
        opened.send_report(1, Report("run-9-9", 20, "0" * 64))


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b"\xff"])
def test_a_report_that_cannot_be_read_is_refused(opened, body):
    opened.assignment(1)
    with pytest.raises(RecordError):
        take_report(opened.store, opened.device_id(1), "run-0-0", body, 0.0)


def test_a_report_that_says_something_else_is_refused_and_changes_nothing(opened):
    assignment = opened.assignment(1)
    body = encode_record(Report("run-0-7", 20, opened.send_update(1, ONES)))
    with pytest.raises(BadMessageError, match="assignment_id must be the one in the path"):
        take_report(opened.store, opened.device_id(1), assignment.assignment_id, body, 0.0)
    assert opened.load(opened.round_id).num_reported == 0


def test_reports_come_too_late_after_the_deadline(opened):
    assignment = opened.assignment(1)
    update = opened.send_update(1, ONES)
    opened.now = 100.0
    with pytest.raises(RoundClosedError, match="has ended"):
        opened.send_report(1, Report(assignment.assignment_id, 20, update))


def test_a_lost_device_may_still_report_while_its_place_is_free(opened):
    assignment = opened.assignment(1)
    opened.now = 50.0
    opened.send_report(1, Report(assignment.assignment_id, 20, opened.send_update(1, ONES)))
    round_ = opened.load(opened.round_id)
    assert (round_.num_open, round_.num_reported) == (0, 1)


def test_a_lost_device_whose_place_is_taken_is_told_to_drop_its_work(world):
    world.run()
    world.enrol(1, 2)
    world.open(cohort_size=1)
    world.assignment(1)
    world.now = 30.0
    world.assignment(2)
    with pytest.raises(RoundClosedError, match="its place went to another"):
        world.send_update(1, ONES)


def test_an_abort_frees_the_place_and_is_harmless_again_or_too_late(opened):
    for number in (1, 2, 3):
        opened.assignment(number)
    for _ in range(2):
        abort(opened, 1, "run-0-0")
    assert opened.load(opened.round_id).num_open == 2
    assert opened.assignment(4).assignment_id == "run-0-3"
    assert opened.check_in(1).assignment is None
    opened.now = 100.0
    opened.close(opened.round_id)
    abort(opened, 2, "run-0-1")


def test_an_abort_names_its_own_assignment(opened):
    opened.assignment(1)
    with pytest.raises(BadMessageError, match="assignment_id must be the one in the path"):
        take_abort(opened.store, opened.device_id(1), "run-0-0", Abort("run-0-1", "failed"), 0.0)


def test_an_update_that_cannot_be_written_is_not_acknowledged(opened, monkeypatch):
    opened.assignment(1)

    def fail(self, data):
        raise OSError("the disk is full")

    monkeypatch.setattr(BlobFolder, "put", fail)
    with pytest.raises(OSError, match="disk is full"):
        opened.send_update(1, ONES)
    monkeypatch.undo()
    assert opened.send_update(1, 2 * ONES)
