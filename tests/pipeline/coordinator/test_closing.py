import numpy as np
import pytest
from sqlalchemy import select

from device_runtime.wire import Abort, Report
from pipeline.coordinator import tables
from pipeline.coordinator.closing import RoundNotDueError
from pipeline.coordinator.publish import read_aggregate
from pipeline.coordinator.reporting import take_abort


@pytest.fixture
def opened(world):
    world.run()
    world.enrol(1, 2, 3, 4)
    world.round_id = world.open()
    return world


def live_blobs(world):
    table = tables.blobs.c
    with world.store.transaction():
        rows = world.store.execute(select(table.sha256, table.kind).where(table.is_deleted.is_(False))).fetchall()
    return {(row.kind, row.sha256) for row in rows}


def test_a_complete_round_keeps_the_mean_and_deletes_the_raw_updates(opened):
    for number in (1, 2, 3):
        opened.serve(number)
    result = opened.close(opened.round_id)
    assert (result.status, result.num_reports, result.num_examples, result.reason) == ("closed", 3, 60, "")
    assert np.array_equal(read_aggregate(opened.blobs, result.aggregate_sha256, 6), np.full(6, 2.0, np.float32))
    kept = live_blobs(opened)
    assert {kind for kind, _ in kept} == {"artifact", "parameters", "aggregate"}
    assert {sha256 for _, sha256 in kept} == set(opened.blobs.names())


@pytest.mark.parametrize("damage", ["changed", "cut short", "gone"])
def test_an_update_whose_file_was_damaged_counts_as_one_that_never_came(opened, damage):
    for number in (1, 2, 3):
        opened.serve(number)
    with opened.store.transaction():
        query = select(tables.blobs.c.sha256).where(tables.blobs.c.owner == opened.device_id(3))
        path = opened.blobs.path(opened.store.execute(query).scalar())
    data = path.read_bytes()
    path.write_bytes({"changed": data[:-1] + b"x", "cut short": data[:-2], "gone": data}[damage])
    if damage == "gone":
        path.unlink()
    result = opened.close(opened.round_id)
    assert (result.status, result.num_reports) == ("closed", 2)
    assert np.array_equal(read_aggregate(opened.blobs, result.aggregate_sha256, 6), np.full(6, 1.5, np.float32))


def test_closing_twice_gives_the_result_that_was_kept(opened):
    for number in (1, 2, 3):
        opened.serve(number)
    assert opened.close(opened.round_id) == opened.close(opened.round_id, key=bytes([1] * 32))


def test_the_order_in_which_reports_came_does_not_matter(world):
    world.run()
    world.enrol(*range(8))
    values = np.random.default_rng(0).normal(size=(8, 6))
    results = []
    for order in (range(8), reversed(range(8))):
        world.open(round_key=str(order), cohort_size=8, weighting="examples")
        for number in order:
            world.serve(number, values[number], num_examples=number + 1)
        results.append(world.close(f"run-{len(results)}"))
    assert results[0].aggregate_sha256 == results[1].aggregate_sha256


def test_a_round_that_is_not_due_waits(opened):
    opened.serve(1)
    with pytest.raises(RoundNotDueError, match="has 1 of 3 reports and 100 s left: wait for either"):
        opened.close(opened.round_id)


def test_at_its_deadline_a_round_closes_with_whoever_reported(opened):
    opened.serve(1)
    opened.assignment(2)
    opened.now = 100.0
    result = opened.close(opened.round_id)
    assert (result.status, result.num_reports) == ("closed", 1)
    assert opened.check_in(2).assignment is None


def test_a_round_with_too_few_reports_fails_and_says_why(world):
    world.run()
    world.enrol(1, 2, 3)
    round_id = world.open(min_reports=3)
    world.serve(1)
    for number in (2, 3):
        world.assignment(number)
    take_abort(world.store, world.device_id(2), "run-0-1", Abort("run-0-1", "conditions"), world.now)
    world.now = 100.0
    result = world.close(round_id)
    assert (result.status, result.num_reports, result.aggregate_sha256) == ("failed", 1, None)
    assert result.reason == (
        "1 of at least 3 reports came within 100 s: 3 assignments were given, 1 were lost, 1 given back"
    )
    assert {kind for kind, _ in live_blobs(world)} == {"artifact", "parameters"}


def test_a_round_that_nobody_can_serve_fails_at_its_deadline(world):
    world.private_run()
    world.enrol(1)
    round_id = world.open(**world.private_training())
    assert world.check_in(1, headroom=None).assignment is None
    world.now = 100.0
    result = world.close(round_id)
    assert result.status == "failed"
    assert "0 of at least 1 reports" in result.reason
    assert "clients whose privacy budget is spent get none" in result.reason


def test_an_evaluation_sums_by_name(world):
    world.run()
    world.enrol(1, 2)
    round_id = world.open(cohort_size=2, **world.evaluation())
    for number in (1, 2):
        assignment = world.assignment(number)
        sums = {"loss": float(number), "accuracy": 2.0}
        world.send_report(number, Report(assignment.assignment_id, 6, metric_sums=sums))
    result = world.close(round_id)
    assert (result.metric_sums, result.num_examples, result.aggregate_sha256) == (
        {"loss": 3.0, "accuracy": 4.0},
        12,
        None,
    )


def test_noise_on_the_sum_comes_from_the_rounds_own_key(world):
    world.private_run()
    world.enrol(1)
    results = []
    for number, key in enumerate([bytes(32), bytes(32), bytes([1] * 32)]):
        round_id = world.open(round_key=str(number), cohort_size=1, **world.private_training("sum"))
        world.serve(1, np.ones(6), name="gradient_sum")
        results.append(world.close(round_id, key).aggregate_sha256)
    assert results[0] == results[1] != results[2]


def test_sums_that_leave_the_finite_numbers_fail_the_round(world):
    world.run()
    world.enrol(1, 2)
    round_id = world.open(cohort_size=2, **world.evaluation())
    for number in (1, 2):
        assignment = world.assignment(number)
        report = Report(assignment.assignment_id, 6, metric_sums={"loss": 1.7e308, "accuracy": 1.0})
        world.send_report(number, report)
    result = world.close(round_id)
    assert (result.status, result.reason) == ("failed", "the aggregate is not finite: lower learning_rate")
