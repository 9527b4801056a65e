import pytest

from pipeline.coordinator.round_rows import (
    UnknownRoundError,
    count_leases,
    find_round,
    load_result,
    load_round,
    open_rounds,
    reports_of_round,
)


@pytest.fixture
def opened(world):
    world.run()
    world.enrol(*range(6))
    world.round_id = world.open(cohort_size=6)
    return world


def test_a_round_is_read_as_it_was_planned(opened, open_world):
    assert opened.load(opened.round_id).plan == opened.plan(cohort_size=6)
    fresh = open_world()
    assert fresh.load(opened.round_id) == opened.load(opened.round_id)


def test_a_round_is_found_by_its_key(opened):
    with opened.store.transaction():
        assert find_round(opened.store, "run", "first").round_id == opened.round_id
        assert find_round(opened.store, "run", "second") is None
        with pytest.raises(UnknownRoundError, match="there is no round 'run-9'"):
            load_round(opened.store, "run-9")


def test_reports_are_read_in_the_order_of_device_ids_not_of_arrival(opened):
    assignments = {opened.device_id(number): opened.serve(number).assignment_id for number in (3, 0, 5, 1)}
    with opened.store.transaction():
        read = [report.assignment_id for report in reports_of_round(opened.store, opened.round_id)]
    assert read == [assignments[device] for device in sorted(assignments)] != sorted(read)


def test_a_closed_round_is_not_open_and_keeps_its_result(opened):
    opened.serve(1)
    opened.assignment(2)
    with opened.store.transaction():
        assert load_result(opened.store, opened.round_id) is None
    opened.now = 100.0
    result = opened.close(opened.round_id)
    with opened.store.transaction():
        assert open_rounds(opened.store) == ()
        assert load_result(opened.store, opened.round_id) == result
        assert count_leases(opened.store, opened.round_id) == {"reported": 1, "closed": 1}


def test_another_process_may_close_a_round_that_this_one_knows(opened, open_world):
    other = open_world()
    other.now = 100.0
    other.close(opened.round_id)
    assert opened.load(opened.round_id).status == "failed"
    assert opened.check_in(1).assignment is None
