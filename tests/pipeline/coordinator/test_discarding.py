from dataclasses import replace

import pytest

from pipeline.coordinator import tables
from pipeline.coordinator.cost_ledger import last_cost
from pipeline.coordinator.discarding import discard_rounds_after, forget_refused_run, last_round_number
from pipeline.coordinator.rounds import RoundClosedError


def hold(world, key: str) -> None:
    """A whole private round of two devices."""
    round_id = world.open(round_key=key, cohort_size=2, **world.private_training())
    for number in (1, 2):
        world.serve(number)
    assert world.close(round_id).num_reports == 2


def contents(world):
    with world.store.transaction():
        return {
            table.name: [tuple(row) for row in world.store.execute(table.select())]
            for table in tables.METADATA.sorted_tables
        }


def newest_cost(world) -> int:
    with world.store.transaction():
        return last_cost(world.store, "run")


@pytest.fixture
def held(world):
    world.private_run()
    world.enrol(1, 2)
    hold(world, "first")
    return world


def test_what_came_after_a_round_is_taken_back_with_all_that_belongs_to_it(held):
    before, files, cost = contents(held), held.blobs.names(), newest_cost(held)
    hold(held, "second")
    held.open(round_key="third", **held.private_training())
    held.serve(1)
    assert len(contents(held)["releases"]) == 5
    assert last_round_number(held.store, "run") == 3
    assert discard_rounds_after(held.store, held.blobs, "run", 1, cost) == 2
    assert contents(held) == before
    assert held.blobs.names() == files
    assert last_round_number(held.store, "run") == 1


def test_a_round_that_was_taken_back_is_held_again_with_the_same_rows(held):
    cost = newest_cost(held)
    hold(held, "second")
    before = contents(held)
    assert discard_rounds_after(held.store, held.blobs, "run", 1, cost) == 1
    hold(held, "second")
    assert contents(held) == before


def test_what_came_too_late_for_a_round_that_stays_is_taken_back_and_comes_again(held):
    hold(held, "second")
    before, cost = contents(held), newest_cost(held)
    held.open(round_key="third", **held.private_training())
    with pytest.raises(RoundClosedError):
        held.send_update(1, [0.0] * 6)
    assert len(contents(held)["costs"]) == len(before["costs"]) + 1
    assert discard_rounds_after(held.store, held.blobs, "run", 2, cost) == 1
    assert contents(held) == before


def test_nothing_is_taken_back_where_nothing_came_after(held):
    before, cost = contents(held), newest_cost(held)
    assert discard_rounds_after(held.store, held.blobs, "run", 1, cost) == 0
    assert contents(held) == before


def test_the_rounds_of_another_run_stay(held):
    held.run("other", budget=held.budget)
    held.open(run_id="other", round_key="first", **held.private_training())
    assert discard_rounds_after(held.store, held.blobs, "run", 0, 0) == 1
    assert last_round_number(held.store, "run") == 0
    assert last_round_number(held.store, "other") == 2


def test_what_a_real_run_released_is_not_taken_back(world):
    world.run(kind="real")
    world.open()
    before = contents(world)
    with pytest.raises(ValueError, match="run 'run' is real: what its phones released cannot be taken back"):
        discard_rounds_after(world.store, world.blobs, "run", 0, 0)
    assert contents(world) == before


def test_a_run_without_rounds_and_records_is_forgotten_and_may_come_back_with_another_seed(world):
    run = world.run()
    forget_refused_run(world.store, "run")
    with world.store.transaction():
        world.store.add_run(replace(run, seed=run.seed + 1))
        assert world.store.load_run("run").seed == run.seed + 1


def test_a_run_that_has_begun_is_not_forgotten(held):
    held.run("other")
    with held.store.transaction():
        held.store.put_record("other", "clients", ())
    before = contents(held)
    for run_id in ("run", "other", "nothing"):
        forget_refused_run(held.store, run_id)
    assert contents(held) == before
