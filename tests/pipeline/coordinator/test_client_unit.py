"""Rounds whose unit is the client: one account, a constant divisor, and nobody's part for another."""

import numpy as np
import pytest

from device_runtime.terms import ClientPrivacyTerms
from device_runtime.wire import Abort, Headroom, Window
from pipeline.coordinator.privacy_ledger import epsilon_spent, spending_by_phase
from pipeline.coordinator.reporting import take_abort
from tests.pipeline.coordinator.test_joint_rounds import client_round, client_terms, report_of, rows, totals


@pytest.mark.parametrize("changes", [{"weighting": "examples"}, {"is_at_deadline": False}], ids=str)
def test_a_plan_of_the_client_unit_counts_all_alike_and_waits_for_its_deadline(world, changes):
    with pytest.raises(ValueError, match="weighting must be 'uniform' and is_at_deadline true"):
        world.plan(**client_round(**changes))


def test_a_plan_allows_some_participation(world):
    with pytest.raises(ValueError, match="max_participations must be >= 1, got 0"):
        world.plan(max_participations=0)


@pytest.fixture
def clients(world):
    """A private run, and some devices."""
    world.private_run(unit="client")
    world.enrol(*range(1, 6))
    return world


def test_in_the_client_unit_a_release_counts_on_all_that_a_client_has(clients):
    clients.open(**client_round(train=client_terms(reward="gain")))
    clients.assignment(1)
    rdp, order = [row.rdp for row in rows(clients)], clients.budget.order
    assert [(row.kind, row.split, row.sample_rate) for row in rows(clients)] == [
        ("update", "all", 1),
        ("reward", "all", 1),
    ]
    assert rdp == [order / (2 * 2.0**2)] * 2
    assert totals(clients, 1) == {"all": sum(rdp)}
    assert epsilon_spent(clients.store, "run") == {"all": clients.budget.epsilon_spent(sum(rdp))}
    assert [row.account for row in spending_by_phase(clients.store, "run")] == ["all", "all"]


def test_in_the_client_unit_what_was_scored_leaves_less_to_train_with(world):
    """Another split is the same client: three kinds of round, and the budget of two."""
    rdp = world.budget.order / (2 * 2.0**2)
    world.private_run(epsilon=world.budget.epsilon_spent(2.5 * rdp), unit="client")
    world.enrol(1)
    metrics = world.evaluation(ClientPrivacyTerms("sum", 2.0, 1))
    tests = world.evaluation(ClientPrivacyTerms("sum", 2.0, 1), "test")
    given = []
    for key, terms in (("scores", metrics), ("test", tests), ("train", {"train": client_terms()})):
        world.open(round_key=key, is_at_deadline=True, **terms)
        given.append(world.check_in(1).assignment is not None)
        world.now += 100.0
    assert given == [True, True, False]


def test_a_run_has_one_unit(clients):
    with pytest.raises(ValueError, match=r"of the example unit .* budget .* client unit"):
        clients.open(**clients.private_training())


def test_in_the_client_unit_a_round_waits_for_its_deadline_and_counts_the_missing_as_zeros(clients):
    round_id = clients.open(**client_round(train=client_terms("device"), cohort_size=3))
    for number in (1, 2, 3):
        assignment = clients.assignment(number)
        if number != 3:
            clients.send_report(number, report_of(assignment, clients.send_update(number, np.full(6, float(number)))))
    clients.now = 99.0
    assert not clients.load(round_id).is_due(clients.now)
    clients.now = 100.0
    result = clients.close(round_id)
    assert np.array_equal(clients.read(result.aggregate_sha256), np.full(6, (1 + 2 + 0) / 2, np.float32))


def test_in_the_client_unit_a_place_that_is_given_back_stays_empty(clients):
    clients.open(**client_round(lease_s=100.0))
    for number in (1, 2):
        clients.assignment(number)
    take_abort(clients.store, clients.device_id(1), "run-0-0", Abort("run-0-0", "failed"), clients.now)
    assert clients.load("run-0").num_open == 1
    assert clients.check_in(3).assignment is None


def test_nobody_need_ask_again_before_the_deadline_of_a_round_whose_places_are_given(clients):
    clients.open(**client_round(lease_s=100.0))
    clients.assignment(1)
    clients.now = 10.0
    assert clients.check_in(3, headroom=Headroom(8, {})).come_back == Window(5.0, 15.0)  # a place is left for another
    clients.assignment(2)
    assert clients.check_in(3).come_back == Window(90.0, 105.0)
    clients.open(**client_round(round_key="second"))
    assert clients.check_in(3).assignment is not None


def test_in_the_client_unit_a_lost_place_is_its_own_clients_alone(clients):
    clients.open(**client_round())
    for number in (1, 2):
        clients.assignment(number)
    clients.now = 31.0
    assert clients.check_in(3).assignment is None
    assert clients.assignment(1).assignment_id == "run-0-0"
    assert totals(clients, 1)["all"] == 2 * totals(clients, 2)["all"]


@pytest.mark.parametrize("most", [1, 2])
def test_a_device_takes_part_so_often_and_then_others_do(clients, most):
    served = []
    for number in range(4):
        clients.open(**client_round(round_key=str(number), cohort_size=1, max_participations=most, min_reports=1))
        served.append(next(device for device in range(1, 6) if clients.check_in(device).assignment is not None))
        clients.now += 100.0
    assert served == sorted([*range(1, 5)] * most)[:4]


def test_a_round_without_clients_for_want_of_participations_says_so(clients):
    def hold(key, eligible=None):
        once = {"max_participations": 1, "min_reports": 2}
        round_id = clients.open(**client_round(round_key=key, eligible=eligible, **once))
        for number in (1, 2):
            if (assignment := clients.check_in(number).assignment) is not None:
                clients.send_report(number, report_of(assignment, clients.send_update(number, np.full(6, 0.1))))
        clients.now += 100.0
        return clients.close(round_id)

    assert hold("first").status == "closed"
    cure = "have taken part privacy.max_participations = 1 times in search and get no more: set it higher"
    assert f"; 2 clients {cure}" in hold("second").reason
    named = tuple(map(clients.device_id, (2, 3)))
    assert f"; 1 clients {cure}" in hold("third", named).reason
    assert "max_participations" not in hold("fourth", named[1:]).reason


def test_participations_count_by_phase_and_kind(clients):
    once = {"max_participations": 1, "cohort_size": 1}
    scores = clients.evaluation(ClientPrivacyTerms("sum", 4.0, 1)) | {"is_at_deadline": True}
    for key, terms in (
        ("train", client_round(**once)),
        ("again", client_round(**once)),
        ("scores", scores | once),
        ("final", client_round(**once, phase="final")),
        ("reward", client_round(**once, train=client_terms(reward="loss"))),
    ):
        clients.open(round_key=key, **terms)
        is_given = clients.check_in(1).assignment is not None
        assert is_given == (key not in {"again", "reward"}), key
        clients.now += 100.0
