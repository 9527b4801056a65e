from itertools import pairwise

import pytest
from sqlalchemy import select

from device_runtime.accounting import Release
from device_runtime.terms import PrivacyTerms
from device_runtime.wire import Abort
from pipeline.coordinator import tables
from pipeline.coordinator.privacy_ledger import epsilon_spent, spending_by_phase, total_rdp
from pipeline.coordinator.reporting import take_abort

METRICS = PrivacyTerms("device", 0.5, 3.0)


@pytest.fixture
def private(world):
    world.private_run()
    world.enrol(1, 2, 3)
    return world


def total(world, number, split):
    with world.store.transaction():
        return total_rdp(world.store, "run", world.device_id(number)).get(split, 0.0)


def test_every_kind_of_release_is_charged_to_its_split(private):
    """Leave one kind out of the ledger and one of these totals is wrong."""
    order = private.budget.order
    private.open(round_key="train", cohort_size=1, **private.private_training(local_steps=3))
    private.serve(1)
    private.open(round_key="scores", cohort_size=1, **private.evaluation(METRICS))
    private.assignment(1)
    private.now += 100.0
    private.open(round_key="test", cohort_size=1, phase="final", **private.evaluation(METRICS, "test"))
    private.assignment(1)
    expected = {
        "train": Release("update", "train", 0.25, 2.0, 3).rdp(order),
        "validation": Release("metrics", "validation", 0.5, 3.0).rdp(order),
        "test": Release("metrics", "test", 0.5, 3.0).rdp(order),
    }
    assert {split: total(private, 1, split) for split in expected} == pytest.approx(expected, rel=1e-12)
    spent = {split: private.budget.epsilon_spent(rdp) for split, rdp in expected.items()}
    assert epsilon_spent(private.store, "run") == pytest.approx(spent, rel=1e-12)


@pytest.mark.parametrize(("end", "times"), [("report", 1), ("abort", 1), ("lost", 1), ("held again", 2)])
def test_an_assignment_is_charged_whenever_it_is_given_whatever_comes_of_it(private, end, times):
    private.open(**private.private_training())
    if end == "report":
        private.serve(1)
    else:
        assignment_id = private.assignment(1).assignment_id
        private.assignment(1)
    if end == "abort":
        message = Abort(assignment_id, "conditions")
        take_abort(private.store, private.device_id(1), assignment_id, message, private.now)
    if end == "held again":
        private.now = 31.0
        private.assignment(1)
    (release,) = private.plan(**private.private_training()).releases
    assert total(private, 1, "train") == times * release.rdp(private.budget.order)


def test_rows_are_a_running_total(private):
    for number in range(3):
        private.open(round_key=str(number), cohort_size=1, **private.private_training())
        private.serve(1)
    with private.store.transaction():
        rows = private.store.execute(select(tables.releases).order_by(tables.releases.c.number)).fetchall()
    assert [row.assignment_id for row in rows] == ["run-0-0", "run-1-0", "run-2-0"]
    assert rows[0].total_rdp == rows[0].rdp
    assert all(after.total_rdp == before.total_rdp + after.rdp for before, after in pairwise(rows))


def test_the_total_is_the_maximum_over_devices_and_the_phases_add_up_for_one(private):
    for number, phase in enumerate(("search", "search", "final")):
        private.open(round_key=str(number), phase=phase, cohort_size=2, **private.private_training())
        private.serve(1)
        if number == 0:
            private.serve(2)
        private.now += 100.0
    rdp = private.plan(**private.private_training()).releases[0].rdp(private.budget.order)
    assert epsilon_spent(private.store, "run") == {"train": pytest.approx(private.budget.epsilon_spent(3 * rdp))}
    final, search = spending_by_phase(private.store, "run")
    assert (final.phase, final.account, final.kind, final.num_releases) == ("final", "train", "update", 1)
    assert (search.phase, search.num_releases) == ("search", 2)
    assert (final.rdp, search.rdp) == pytest.approx((rdp, 2 * rdp))
    assert search.epsilon == pytest.approx(private.budget.epsilon_spent(2 * rdp))


def test_runs_do_not_share_a_ledger(private):
    private.run("other", budget=private.budget)
    private.open(**private.private_training())
    private.serve(1)
    assert epsilon_spent(private.store, "other") == {}
    assert spending_by_phase(private.store, "other") == ()


def test_a_run_without_privacy_spends_nothing(world):
    world.run()
    world.enrol(1)
    world.open()
    world.serve(1)
    assert epsilon_spent(world.store, "run") == {}
    assert spending_by_phase(world.store, "run") == ()


def test_no_schedule_takes_the_server_over_its_budget(private):
    spent = []
    for number in range(200):
        private.open(round_key=str(number), cohort_size=1, **private.private_training(noise_multiplier=0.9))
        if private.check_in(1).assignment is None:
            break
        private.now += 100.0
        spent.append(epsilon_spent(private.store, "run")["train"])
    assert 1 < len(spent) < 200
    assert spent == sorted(spent)
    (release,) = private.plan(**private.private_training(noise_multiplier=0.9)).releases
    assert spent[-1] <= private.budget.epsilon < spent[-1] + release.rdp(private.budget.order)
