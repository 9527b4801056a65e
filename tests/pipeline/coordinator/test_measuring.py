"""Rounds that measure: what differs from training and evaluating, from plan to result."""

import hashlib
from dataclasses import replace

import pytest

from device_runtime.terms import MeasureTerms
from device_runtime.wire import Abort, Report
from pipeline.coordinator.blobs import UnknownBlobError, can_read, profiles_of_round
from pipeline.coordinator.cost_ledger import costs_by_phase
from pipeline.coordinator.downloads import read_blob
from pipeline.coordinator.eligibility import UpgradeRequiredError, WrongSpecError
from pipeline.coordinator.plans import RoundPlan, check_plan
from pipeline.coordinator.privacy_ledger import spending_by_phase
from pipeline.coordinator.publish import publish_pack
from pipeline.coordinator.reporting import (
    MAX_PROFILE_BYTES,
    BadUpdateError,
    Upload,
    max_upload_bytes,
    take_abort,
    take_upload,
)
from pipeline.coordinator.rounds import BadMessageError, ConflictingReportError, check_report
from pipeline.coordinator.worker import open_round
from profiles.catalogue import load_profile
from profiles.records import decode_record, encode_record

NAMES = ("pixel-4", "redmi-8", "galaxy-s9")


def open_measuring(world, **changes):
    return open_round(world.store, world.blobs, world.measure(**changes), world.now)


def put(world, number, data):
    upload = Upload(world.device_id(number), hashlib.sha256(data).hexdigest(), data)
    take_upload(world.store, world.blobs, upload, world.now)
    return upload.sha256


def profile(number):
    return encode_record(load_profile(NAMES[number - 1]))


def measure(world, number, **changes):
    """One device's whole part; gives the sha256 of its profile."""
    assignment = world.assignment(number, **changes)
    sha256 = put(world, number, profile(number))
    world.send_report(number, Report(assignment.assignment_id, 0, profile_sha256=sha256, work_s=2.0))
    return sha256


@pytest.fixture
def measuring(world):
    world.run()
    world.enrol(1, 2, 3)
    world.round_id = open_measuring(world)
    return world


def test_a_plan_to_measure_survives_writing_and_becomes_its_assignment(world):
    plan = world.measure()
    assert decode_record(RoundPlan, encode_record(plan)) == plan
    assignment = plan.assignment("run-0-0", 9.0)
    assert (assignment.kind, assignment.parameters_sha256) == ("measure", None)
    assert assignment.measure == MeasureTerms(is_quick=True)
    assert (plan.releases, plan.privacy, plan.min_examples) == ((), None, {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters_sha256": "a" * 64}, "left out to measure"),
        ({"measure": None}, "kind 'measure' must carry exactly its own terms"),
        ({"kind": "train"}, "kind 'train' must carry exactly its own terms"),
    ],
)
def test_a_plan_that_measures_half_is_refused(world, changes, message):
    with pytest.raises(ValueError, match=message):
        world.measure(**changes)
    with pytest.raises(ValueError, match="must be given to train"):
        world.plan(parameters_sha256=None)


def test_profiles_are_kept_as_they_came_in_the_order_of_their_devices(measuring):
    sent = {measuring.device_id(number): measure(measuring, number) for number in (2, 3, 1)}
    result = measuring.close(measuring.round_id)
    in_order = [sent[device] for device in sorted(sent)]
    assert (result.status, result.num_reports, result.num_examples) == ("closed", 3, 0)
    assert list(result.profiles) == in_order
    assert (result.aggregate_sha256, result.metric_sums) == (None, None)
    assert [measuring.blobs.get(sha256) for sha256 in sent.values()] == [profile(number) for number in (2, 3, 1)]
    with measuring.store.transaction():
        assert list(profiles_of_round(measuring.store, measuring.round_id).items()) == sorted(sent.items())


def test_a_profile_is_its_owners_alone_also_after_the_round(measuring):
    sha256 = measure(measuring, 1)
    measuring.now = 100.0
    measuring.close(measuring.round_id)
    with measuring.store.transaction():
        assert can_read(measuring.store, sha256, measuring.device_id(1))
        assert not can_read(measuring.store, sha256, measuring.device_id(2))
    with pytest.raises(UnknownBlobError):
        read_blob(measuring.store, measuring.blobs, sha256, measuring.device_id(2))


def test_a_profile_without_its_report_goes_with_the_round(measuring):
    kept = measure(measuring, 1)
    measuring.assignment(2)
    lost = put(measuring, 2, profile(2))
    measuring.now = 100.0
    assert measuring.close(measuring.round_id).profiles == (kept,)
    assert kept in measuring.blobs.names()
    assert lost not in measuring.blobs.names()


def test_equal_profiles_are_one_file_and_two_results(measuring):
    data = profile(1)
    for number in (1, 2):
        assignment = measuring.assignment(number)
        sha256 = put(measuring, number, data)
        measuring.send_report(number, Report(assignment.assignment_id, 0, profile_sha256=sha256))
    measuring.now = 100.0
    assert measuring.close(measuring.round_id).profiles == (sha256, sha256)


def test_too_few_profiles_fail_the_round_and_none_is_kept(world):
    world.run()
    world.enrol(1)
    round_id = open_measuring(world, min_reports=3)
    sha256 = measure(world, 1)
    world.now = 100.0
    result = world.close(round_id)
    assert (result.status, result.profiles) == ("failed", ())
    assert "1 of at least 3 reports" in result.reason
    assert sha256 not in world.blobs.names()


def test_the_second_profile_of_an_assignment_conflicts(measuring):
    measuring.assignment(1)
    put(measuring, 1, profile(1))
    with pytest.raises(ConflictingReportError, match="one is taken"):
        put(measuring, 1, profile(2))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "must be JSON"),
        (b"{}", "DeviceProfile lacks"),
        (profile(1).replace(b'"threads":1', b'"threads":0'), "threads >= 1"),
        (profile(1).replace(b'"schema":1', b'"schema":2'), "reads up to 1"),
        (profile(1).replace(b'"device_class":"high"', b'"device_class":"huge"'), "device_class must be one of"),
    ],
)
def test_what_is_no_profile_is_refused(measuring, data, message):
    measuring.assignment(1)
    before = measuring.blobs.names()
    with pytest.raises(BadUpdateError, match=message):
        put(measuring, 1, data)
    assert measuring.blobs.names() == before


def test_a_profile_may_be_of_the_size_that_profiles_have(measuring):
    assert max_upload_bytes(measuring.store, measuring.device_id(1)) is None
    measuring.assignment(1)
    assert max_upload_bytes(measuring.store, measuring.device_id(1)) == MAX_PROFILE_BYTES
    measuring.now = 100.0
    measuring.close("run-0")
    assert max_upload_bytes(measuring.store, measuring.device_id(1)) == MAX_PROFILE_BYTES  # it is told that it is late


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"profile_sha256": None}, "profile_sha256 must name the profile"),
        ({"num_examples": 3}, "num_examples must be 0 in a report to measure, got 3"),
        ({"update_sha256": "0" * 64}, "update_sha256 must be left out of a report to measure"),
        ({"metric_sums": {"loss": 1.0}}, "metric_sums must be left out of a report to measure"),
        ({"work_s": -1.0}, "work_s must be >= 0"),
    ],
)
def test_a_report_that_says_something_else_is_refused(world, changes, message):
    report = replace(Report("run-0-0", 0, profile_sha256="0" * 64), **changes)
    with pytest.raises(BadMessageError, match=message):
        check_report(world.measure(), "run-0-0", report)


def test_a_report_to_train_has_no_profile(world):
    with pytest.raises(BadMessageError, match="profile_sha256 must be left out of a report to train"):
        check_report(world.plan(), "a", Report("a", 5, "0" * 64, profile_sha256="0" * 64))


def test_a_report_names_the_profile_that_came(measuring):
    assignment = measuring.assignment(1)
    with pytest.raises(BadUpdateError, match=r"profile_sha256 must name the profile .* none came"):
        measuring.send_report(1, Report(assignment.assignment_id, 0, profile_sha256="0" * 64))


def test_a_private_run_measures_devices_with_a_ledger_and_charges_nothing(world):
    world.private_run()
    world.enrol(1, 2)
    round_id = open_measuring(world, cohort_size=2)
    measure(world, 1)
    measure(world, 2, headroom=None)
    assert world.close(round_id).num_reports == 2
    assert spending_by_phase(world.store, "run") == ()


def test_a_run_without_a_specification_measures_any_device_and_trains_none(world):
    run = world.run(spec_id=None)
    world.enrol(1)
    with pytest.raises(ValueError, match="compile it for the run's data"):
        check_plan(run, world.plan(), world.manifest())
    round_id = open_measuring(world, cohort_size=1)
    measure(world, 1, spec_id="of something else", num_examples={})
    assert world.close(round_id).num_reports == 1


def test_a_run_with_a_specification_measures_its_own_devices(measuring):
    with pytest.raises(WrongSpecError, match="same data specification"):
        measuring.check_in(1, spec_id="of something else")


def test_a_device_older_than_the_pack_is_told_to_upgrade(measuring):
    with pytest.raises(UpgradeRequiredError, match=r"needs ONNX Runtime 1\.14\.0"):
        measuring.check_in(1, runtime_version="1.13.0")


def test_what_measuring_costs_is_in_the_ledger_without_examples(measuring):
    measure(measuring, 1)
    assignment = measuring.assignment(2)
    message = Abort(assignment.assignment_id, "conditions")
    take_abort(measuring.store, measuring.device_id(2), assignment.assignment_id, message, measuring.now)
    (cost,) = costs_by_phase(measuring.store, "run")
    assert (cost.num_assignments, cost.examples, cost.device_seconds) == (2, 0, 2.0)
    assert cost.bytes_up > len(profile(1))


def test_every_device_may_read_a_published_pack_and_publishing_again_changes_nothing(world):
    pack_id = publish_pack(world.store, world.blobs, world.pack_folder)
    before = world.blobs.names()
    assert publish_pack(world.store, world.blobs, world.pack_folder) == pack_id
    assert world.blobs.names() == before
    with world.store.transaction():
        assert all(can_read(world.store, path.stem, "anybody") for path in graphs(world))
        assert can_read(world.store, pack_id, "anybody")


def graphs(world):
    return sorted(world.pack_folder.glob("*.onnx"))
