import numpy as np
import pytest

from device_runtime.private_random import PrivateRandom
from pipeline.coordinator.blobs import UnknownBlobError
from pipeline.coordinator.store import StoreError
from pipeline.coordinator.worker import OtherPlanError, closes_at, open_round, run_rounds, waiting_rounds


@pytest.fixture
def running(world):
    world.run()
    world.enrol(1, 2, 3)
    return world


def hold(world, wait, **changes):
    return hold_all(world, wait, [world.plan(**changes)])[0]


def hold_all(world, wait, plans):
    return run_rounds(world.store, world.blobs, plans, lambda: world.now, wait, lambda _: PrivateRandom(bytes(32)))


def test_a_round_is_waited_for_until_it_is_due(running):
    numbers = iter((1, 2, 3))
    result = hold(running, lambda round_ids: running.serve(next(numbers)))
    assert (result.round_id, result.status, result.num_reports) == ("run-0", "closed", 3)
    assert next(numbers, None) is None


def test_time_alone_ends_a_round(running):
    def wait(round_ids):
        running.now += 10.0

    assert hold(running, wait).status == "failed"
    assert running.now == 100.0


def test_a_killed_search_continues_the_round_that_is_open(running, open_world):
    class KilledError(Exception):
        pass

    def be_killed(round_ids):
        running.serve(1)
        raise KilledError

    with pytest.raises(KilledError):
        hold(running, be_killed)
    running.store.close()
    resumed = open_world()
    numbers = iter((2, 3))
    result = hold(resumed, lambda round_ids: resumed.serve(next(numbers)))
    assert (result.round_id, result.num_reports) == ("run-0", 3)


def test_a_closed_round_is_not_held_again(running):
    numbers = iter((1, 2, 3))
    first = hold(running, lambda round_ids: running.serve(next(numbers)))
    assert hold(running, lambda round_ids: pytest.fail("nothing is waited for")) == first


def test_the_same_key_with_another_plan_is_refused(running):
    running.open()
    with pytest.raises(OtherPlanError, match="'first' of run 'run' was planned with other settings: resume"):
        running.open(cohort_size=2)


@pytest.mark.parametrize("name", ["artifact_id", "parameters_sha256"])
def test_what_was_not_published_cannot_be_assigned(running, name):
    with pytest.raises(UnknownBlobError):
        running.open(**{name: "0" * 64})


def test_a_round_needs_its_run(world):
    with pytest.raises(StoreError, match="run 'run' is not in this database"):
        world.open()


def test_a_round_tells_when_it_closes_and_whether_it_may(running):
    running.now = 7.0
    round_id = open_round(running.store, running.blobs, running.plan(), running.now)
    assert closes_at(running.store, round_id) == 107.0
    assert waiting_rounds(running.store, (round_id,), 106.9) == (round_id,)
    assert waiting_rounds(running.store, (round_id,), 107.0) == ()
    running.now = 107.0
    running.close(round_id)
    assert waiting_rounds(running.store, (round_id,), 0.0) == ()


def test_fedavg_over_rounds_moves_the_parameters_by_the_mean_updates(running):
    """Three clients pull towards 1, 2 and 3 with half a step: the parameters go to 2."""
    parameters = np.zeros(6, np.float32)
    for step in range(8):
        numbers = iter((1, 2, 3))

        def pull(round_ids, numbers=numbers, start=parameters):
            number = next(numbers)
            running.serve(number, 0.5 * (number - start))

        result = hold(running, pull, round_key=str(step))
        parameters += running.read(result.aggregate_sha256)
    assert np.allclose(parameters, 2.0, atol=0.02)


def side_by_side(world):
    """A round that waits for the third client alone, and one for the first two."""
    third, others = world.device_id(3), (world.device_id(1), world.device_id(2))
    slow = world.plan(round_key="slow", eligible=(third,), cohort_size=1)
    return [slow, world.plan(round_key="quick", eligible=others, cohort_size=2)]


def test_rounds_side_by_side_give_their_results_in_the_order_of_their_plans(running):
    waited, numbers = [], iter((1, 2, 3))

    def wait(round_ids):
        waited.append(round_ids)
        running.serve(next(numbers))

    slow, quick = hold_all(running, wait, side_by_side(running))
    assert (slow.round_id, slow.num_reports) == ("run-0", 1)
    assert (quick.round_id, quick.num_reports) == ("run-1", 2)
    assert waited == [("run-0", "run-1")] * 2 + [("run-0",)]  # the quick one was closed when it was due


def test_rounds_side_by_side_are_continued_and_a_closed_one_is_read(running, open_world):
    class KilledError(Exception):
        pass

    def be_killed(round_ids):
        if len(round_ids) == 1:
            raise KilledError
        running.serve(next(numbers))

    numbers = iter((1, 2, 3))
    with pytest.raises(KilledError):
        hold_all(running, be_killed, side_by_side(running))
    running.store.close()
    resumed = open_world()
    slow, quick = hold_all(resumed, lambda round_ids: resumed.serve(next(numbers)), side_by_side(resumed))
    assert (slow.num_reports, quick.num_reports) == (1, 2)
    assert next(numbers, None) is None


def test_no_rounds_are_no_results(running):
    assert hold_all(running, lambda round_ids: pytest.fail("nothing is waited for"), []) == []
