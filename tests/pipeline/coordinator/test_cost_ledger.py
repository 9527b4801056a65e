import pytest
from sqlalchemy import select

from device_runtime.wire import Abort, Report
from pipeline.coordinator import tables
from pipeline.coordinator.cost_ledger import add_device_seconds, costs_by_phase
from pipeline.coordinator.downloads import read_blob
from pipeline.coordinator.reporting import take_abort
from profiles.records import encode_record


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


def test_nothing_is_counted_twice(opened):
    assignment = opened.serve(1)
    before = costs_by_phase(opened.store, "run")
    opened.send_update(1, [1.0] * 6)
    (update,) = (row.sha256 for row in updates(opened))
    opened.send_report(1, Report(assignment.assignment_id, 20, update))
    opened.now = 100.0
    opened.close(opened.round_id)
    assert costs_by_phase(opened.store, "run") == before


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
