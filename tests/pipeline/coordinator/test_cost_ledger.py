import hashlib
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import select

from device_runtime.vectors import write_vector
from device_runtime.wire import Abort, Report
from pipeline.coordinator import tables
from pipeline.coordinator.cost_ledger import add_device_seconds, costs_by_phase
from pipeline.coordinator.downloads import read_blob
from pipeline.coordinator.reporting import (
    BadUpdateError,
    NotAssignedError,
    Upload,
    take_abort,
    take_report,
    take_upload,
)
from pipeline.coordinator.round_rows import UnknownAssignmentError
from pipeline.coordinator.rounds import RoundClosedError
from profiles.records import RecordError, encode_record


@pytest.fixture
def opened(world):
    world.run()
    world.enrol(1, 2, 3)
    world.round_id = world.open(trial=4, candidate_id="c")
    return world


def test_a_report_costs_what_was_sent_and_fetched_and_said(opened):
    assignment = opened.assignment(1)
    fetched = len(read_blob(opened.store, opened.blobs, opened.parameters_sha256, opened.device_id(1)))
    fetched += len(read_blob(opened.store, opened.blobs, opened.artifact_id, opened.device_id(1)))
    sha256 = opened.send_update(1, [1.0] * 6)
    report = Report(assignment.assignment_id, 20, sha256, work_s=2.5)
    opened.send_report(1, report)
    (cost,) = costs_by_phase(opened.store, "run")
    uploaded = len(opened.blobs.get(sha256)) + len(encode_record(report))
    assert (cost.phase, cost.trial, cost.num_assignments) == ("search", 4, 1)
    assert (cost.examples, cost.device_seconds, cost.bytes_up, cost.bytes_down) == (20, 2.5, uploaded, fetched)


def test_what_is_sent_again_costs_its_bytes_again_and_nothing_else(opened):
    assignment = opened.serve(1)
    (before,) = costs_by_phase(opened.store, "run")
    opened.send_update(1, [1.0] * 6)
    (update,) = (row.sha256 for row in updates(opened))
    report = Report(assignment.assignment_id, 20, update)
    opened.send_report(1, report)
    opened.now = 100.0
    opened.close(opened.round_id)
    assert costs_by_phase(opened.store, "run") == (replace(before, bytes_up=2 * before.bytes_up),)


def updates(world):
    table = tables.blobs
    with world.store.transaction():
        return world.store.execute(select(table.c.sha256).where(table.c.kind == "update")).fetchall()


def test_what_was_fetched_without_holding_an_assignment_is_not_a_rounds_cost(opened):
    opened.serve(1)
    read_blob(opened.store, opened.blobs, opened.parameters_sha256, opened.device_id(1))
    opened.assignment(2)
    opened.now = 100.0
    opened.close(opened.round_id)
    assert costs_by_phase(opened.store, "run")[0].bytes_down == 0


def test_aborted_and_lost_assignments_cost_their_bytes(opened):
    for number in (1, 2):
        opened.assignment(number)
        read_blob(opened.store, opened.blobs, opened.parameters_sha256, opened.device_id(number))
    message = Abort("run-0-0", "conditions")
    for _ in range(2):
        take_abort(opened.store, opened.device_id(1), "run-0-0", message, opened.now)
    opened.now = 100.0
    opened.close(opened.round_id)
    (cost,) = costs_by_phase(opened.store, "run")
    size = len(opened.blobs.get(opened.parameters_sha256))
    assert (cost.num_assignments, cost.examples, cost.bytes_up, cost.bytes_down) == (2, 0, 0, 2 * size)


def test_what_comes_or_is_fetched_too_late_costs_its_bytes(opened):
    """An update of a client whose round was closed meanwhile, its report, and a file: each a row of its own."""
    assignment = opened.assignment(1)
    opened.now = 100.0
    opened.close(opened.round_id)
    (before,) = costs_by_phase(opened.store, "run")
    update = write_vector("parameter_update", np.ones(6, np.float32))
    with pytest.raises(RoundClosedError):
        opened.send_update(1, [1.0] * 6)
    report = Report(assignment.assignment_id, 20, hashlib.sha256(update).hexdigest())
    with pytest.raises(RoundClosedError):
        opened.send_report(1, report)
    fetched = read_blob(opened.store, opened.blobs, opened.parameters_sha256, opened.device_id(1))
    came = len(update) + len(encode_record(report))
    assert costs_by_phase(opened.store, "run") == (replace(before, bytes_up=came, bytes_down=len(fetched)),)
    assert before.num_assignments == 1


def test_a_lost_assignment_costs_what_is_sent_and_fetched_while_its_round_is_open(world):
    world.run()
    world.enrol(1, 2)
    round_id = world.open(cohort_size=1, trial=4)
    world.assignment(1)
    world.now = 30.0
    world.serve(2)  # takes the place
    fetched = read_blob(world.store, world.blobs, world.parameters_sha256, world.device_id(1))
    with pytest.raises(RoundClosedError, match="its place went to another"):
        world.send_update(1, [1.0] * 6)
    (before,) = costs_by_phase(world.store, "run")
    world.close(round_id)
    (after,) = costs_by_phase(world.store, "run")
    size = len(write_vector("parameter_update", np.ones(6, np.float32)))
    assert (after.num_assignments, after.bytes_up, after.bytes_down) == (2, before.bytes_up + size, len(fetched))


def test_what_is_refused_for_what_it_says_costs_its_bytes(opened):
    opened.assignment(1)
    with pytest.raises(BadUpdateError):
        take_upload(opened.store, opened.blobs, Upload(opened.device_id(1), "0" * 64, b"some"), opened.now)
    for body in (b"{}", b"\xff"):
        with pytest.raises(RecordError):
            take_report(opened.store, opened.device_id(1), "run-0-0", body, opened.now)
    opened.now = 100.0
    opened.close(opened.round_id)
    assert costs_by_phase(opened.store, "run")[0].bytes_up == len(b"some{}\xff")


def test_what_comes_late_belongs_to_what_the_device_was_given_last(opened):
    """Of rounds side by side, that which it has not reported for; not one that it dropped long ago."""
    opened.assignment(1)  # and is late for it
    opened.now = 100.0
    opened.close(opened.round_id)
    beside = [opened.open(round_key=f"beside {i}", trial=i) for i in (5, 6)]
    opened.serve(1)
    opened.assignment(1)
    opened.now = 200.0
    for round_id in beside:
        opened.close(round_id)
    with pytest.raises(RoundClosedError):
        opened.send_update(1, [2.0] * 6)
    size = len(write_vector("parameter_update", np.ones(6, np.float32)))
    costs = {cost.trial: cost.bytes_up for cost in costs_by_phase(opened.store, "run")}
    assert (costs[4], costs[6]) == (0, size)


def test_nobody_without_an_assignment_adds_to_the_ledger(opened):
    assignment = opened.assignment(1)
    before = rows(opened)
    with pytest.raises(RoundClosedError):
        opened.send_update(2, [1.0] * 6)
    for report in (Report(assignment.assignment_id, 20, "0" * 64), Report("run-9-9", 20, "0" * 64)):
        with pytest.raises((NotAssignedError, UnknownAssignmentError)):
            opened.send_report(2, report)
    with pytest.raises(RecordError):
        take_report(opened.store, opened.device_id(2), assignment.assignment_id, b"{}", opened.now)
    read_blob(opened.store, opened.blobs, opened.parameters_sha256, opened.device_id(2))
    assert rows(opened) == before


def test_nothing_is_added_once_the_run_is_finished(opened):
    opened.assignment(1)
    opened.now = 100.0
    opened.close(opened.round_id)
    with opened.store.transaction():
        opened.store.finish_run("run")
    before = rows(opened)
    with pytest.raises(RoundClosedError):
        opened.send_update(1, [1.0] * 6)
    read_blob(opened.store, opened.blobs, opened.parameters_sha256, opened.device_id(1))
    assert rows(opened) == before


def rows(world):
    with world.store.transaction():
        return [world.store.execute(select(table)).fetchall() for table in (tables.costs, tables.assignments)]


def test_an_emulator_adds_its_devices_seconds(opened):
    for number in (1, 2):
        opened.serve(number)
    with opened.store.transaction():
        add_device_seconds(opened.store, {"run-0-0": 1.5, "run-0-1": 2.0})
    (cost,) = costs_by_phase(opened.store, "run")
    assert (cost.num_assignments, cost.examples, cost.device_seconds) == (2, 40, 3.5)


def test_phases_and_trials_are_apart(opened):
    opened.serve(1)
    opened.now = 100.0
    opened.open(round_key="second", phase="final")
    opened.serve(2)
    costs = costs_by_phase(opened.store, "run")
    assert [(cost.phase, cost.trial, cost.num_assignments) for cost in costs] == [("final", None, 1), ("search", 4, 1)]
    assert costs_by_phase(opened.store, "other") == ()


def test_training_and_evaluation_of_a_trial_are_apart(opened):
    opened.serve(1)
    opened.now = 100.0
    opened.open(round_key="score", trial=4, **opened.evaluation())
    assignment = opened.assignment(2)
    opened.send_report(2, Report(assignment.assignment_id, 6, metric_sums={"loss": 3.0, "accuracy": 4.0}))
    costs = costs_by_phase(opened.store, "run")
    assert [(cost.kind, cost.trial, cost.num_assignments, cost.examples) for cost in costs] == [
        ("evaluate", 4, 1, 6),
        ("train", 4, 1, 20),
    ]
