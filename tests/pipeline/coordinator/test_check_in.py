from dataclasses import replace

import pytest
from sqlalchemy import event

from device_runtime.wire import Conditions, Enrolment, Headroom
from pipeline.coordinator.check_in import NotEnrolledError, enrol
from pipeline.coordinator.eligibility import UpgradeRequiredError, WrongKindError, WrongSpecError


@pytest.fixture
def opened(world):
    world.run()
    world.enrol(1, 2, 3, 4, 5)
    world.round_id = world.open()
    return world


def test_a_device_is_given_its_part_and_the_same_again(opened):
    first = opened.assignment(1)
    assert (first.assignment_id, first.kind, first.lease_s) == ("run-0-0", "train", 30.0)
    opened.now = 10.0
    assert opened.assignment(1) == replace(first, lease_s=20.0)
    assert opened.load(opened.round_id).num_open == 1


def test_a_full_round_sends_devices_away_until_a_lease_ends(opened):
    for number in (1, 2, 3):
        opened.assignment(number)
    reply = opened.check_in(4)
    assert reply.assignment is None
    assert (reply.come_back.earliest_s, reply.come_back.latest_s) == (5.0, 15.0)
    opened.now = 30.0
    assert opened.assignment(4).assignment_id == "run-0-3"
    assert opened.assignment(1).assignment_id == "run-0-0"
    assert opened.load(opened.round_id).num_open == 2


def test_a_round_past_its_deadline_gives_nothing(opened):
    opened.now = 100.0
    assert opened.check_in(1).assignment is None


def test_open_rounds_are_served_oldest_first_and_never_two_to_a_device(opened):
    opened.open(round_key="second")
    assert [opened.assignment(number).assignment_id for number in (1, 2, 3, 4)] == [
        "run-0-0", "run-0-1", "run-0-2", "run-1-0",
    ]  # fmt: skip
    assert opened.assignment(1).assignment_id == "run-0-0"


def test_parallel_rounds_take_their_eligible_devices(opened):
    opened.open(round_key="second", eligible=(opened.device_id(2),))
    opened.open(round_key="third", eligible=(opened.device_id(4),), run_id="run")
    for number in (1, 3, 5):
        opened.assignment(number)
    assert opened.assignment(2).assignment_id == "run-1-0"
    assert opened.assignment(4).assignment_id == "run-2-0"


def test_a_finished_run_gives_nothing_more(opened):
    with opened.store.transaction():
        opened.store.finish_run("run")
    assert opened.check_in(1).assignment is None


def test_without_a_run_everybody_comes_back(world):
    world.enrol(1)
    assert world.check_in(1).come_back is not None


def test_ids_of_a_run_with_dots_fit_the_devices_rule_and_do_not_collide(world):
    world.enrol(1, 2)
    for run_id in ("v1.2", "v1_2"):
        world.run(run_id)
        world.open(run_id=run_id, cohort_size=1)
    first, second = (world.assignment(number).assignment_id for number in (1, 2))
    assert first.startswith("v1_2-")
    assert second == "v1_2-0-0"
    assert first != second
    assert "." not in first


def test_wrong_kind_specification_and_version_are_problems(opened):
    opened.enrol(9, kind="real")
    with pytest.raises(WrongKindError):
        opened.check_in(9)
    with pytest.raises(WrongSpecError):
        opened.check_in(1, spec_id="other")
    with pytest.raises(UpgradeRequiredError):
        opened.check_in(1, runtime_version="1.13.1")


def test_a_device_that_never_enrolled_is_told_so(opened):
    with pytest.raises(NotEnrolledError, match="is not enrolled here; enrol first"):
        opened.check_in(8)


def test_enrolling_again_is_harmless_and_the_other_kind_is_refused(opened):
    opened.enrol(1)
    with pytest.raises(WrongKindError, match="enrolled as 'emulated' before and cannot become 'real'"):
        enrol(opened.store, opened.device_id(1), Enrolment("key 1", "real"))


def test_what_lasts_of_a_check_in_is_kept(opened):
    opened.check_in(1, free_memory_mib=100, conditions=Conditions(is_charging=True), device_class="slow")
    with opened.store.transaction():
        kept = opened.store.find_device(opened.device_id(1)).check_in
    assert kept == replace(opened.check_in_message, device_class="slow")


@pytest.fixture
def private(world):
    world.private_run()
    world.enrol(1, 2, 3, 4, 5)
    world.terms = world.private_training()
    world.round_id = world.open(**world.terms)
    return world


@pytest.mark.parametrize("headroom", [None, Headroom(8, {}), Headroom(8, {"train": 1e-6, "validation": 9.0})], ids=str)
def test_a_private_part_is_not_given_to_a_phone_without_headroom(private, headroom):
    assert private.check_in(1, headroom=headroom).assignment is None
    assert private.load(private.round_id).num_assigned == 0
    assert private.assignment(1).train.privacy is not None


def test_a_private_part_that_was_lost_is_held_again_only_by_a_phone_that_can_pay_for_it_again(private):
    private.assignment(1)
    private.now = 31.0
    assert private.check_in(1, headroom=Headroom(8, {})).assignment is None
    assert private.assignment(1).assignment_id == "run-0-0"


def test_a_device_whose_budget_is_spent_gets_nothing_and_others_do(world):
    (release,) = world.plan(**world.private_training(local_steps=20)).releases
    world.private_run(epsilon=world.budget.epsilon_spent(2.5 * release.rdp(world.budget.order)))
    world.enrol(1, 2)
    for number in range(3):
        world.open(round_key=str(number), cohort_size=2, **world.private_training(local_steps=20))
        gets = [world.check_in(device).assignment is not None for device in (1, 2) if device == 1 or number]
        assert gets == [[True], [True, True], [False, True]][number]
        world.now += 100.0


def test_a_request_takes_as_many_queries_however_large_the_cohort_is(world):
    world.private_run()
    world.enrol(*range(40))
    world.open(cohort_size=40, eligible=tuple(map(world.device_id, range(40))), **world.private_training())
    counts = []
    for number in range(40):
        statements = []
        listener = lambda *arguments, seen=statements: seen.append(arguments[2])  # noqa: E731
        event.listen(world.store.engine, "before_cursor_execute", listener)
        world.serve(number)
        event.remove(world.store.engine, "before_cursor_execute", listener)
        counts.append(len(statements))
    assert set(counts[1:]) == {counts[-1]}
