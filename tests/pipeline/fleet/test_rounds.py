import pytest

from device_runtime.accounting import Budget
from device_runtime.terms import EvaluateTerms
from pipeline.coordinator.privacy_ledger import epsilon_spent
from pipeline.fleet.availability import AvailabilityTerms

FLAKY = AvailabilityTerms(0.6, 10.0)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_over_one_worker_and_over_two(emulate):
    alone = emulate("alone", availability=FLAKY)
    alone.train(2, over_selection=1.3)
    pooled = emulate("pooled", availability=FLAKY, num_workers=2)
    pooled.train(2, over_selection=1.3)
    assert pooled.everything() == alone.everything()


def test_a_private_run_replays_bit_for_bit(emulate, kit):
    first, again = (emulate(name, budget=kit.budget) for name in "ab")
    for run in (first, again):
        run.train(2)
    assert first.everything() == again.everything()


def test_another_seed_gives_other_keys_moments_and_parameters(emulate):
    first, other = emulate("a"), emulate("b", seed=b"other")
    for run in (first, other):
        run.train(2)
    assert first.rounds.clock.time != other.rounds.clock.time
    assert first.parameters.tobytes() != other.parameters.tobytes()
    ids = [{phone.key.key_id for phone in run.rounds.fleet.phones} for run in (first, other)]
    assert ids[0].isdisjoint(ids[1])


def test_rounds_train_and_evaluate(emulate):
    run = emulate(num_phones=10)
    terms = EvaluateTerms("validation", ("loss", "accuracy"))
    changes = {"kind": "evaluate", "train": None, "evaluate": terms, "cohort_size": 10}
    before = run.rounds.hold(run.plan("before", **changes))
    run.train(6, cohort_size=10)
    after = run.rounds.hold(run.plan("after", **changes))
    assert before.num_examples == after.num_examples > 10
    assert after.metric_sums["loss"] < before.metric_sums["loss"]


def test_the_phones_ledgers_hold_what_the_server_says_they_released(emulate, kit):
    run = emulate(budget=kit.budget)
    run.train(3, cohort_size=4)
    columns = "split, kind, sample_rate, noise_multiplier, num_steps"
    for phone in run.rounds.fleet.phones:
        told = run.rows(f"SELECT {columns} FROM releases WHERE device_id = '{phone.key.key_id}' ORDER BY number")
        noted = [(r.split, r.kind, r.sample_rate, r.noise_multiplier, r.num_steps) for r in phone.ledger.releases()]
        assert noted == told
        assert len(noted) == 3
    spent = kit.budget.epsilon_spent(run.rounds.fleet.phones[0].ledger.spent_rdp("train"))
    assert epsilon_spent(run.rounds.store, "run") == {"train": pytest.approx(spent)}


def test_a_spent_budget_ends_politely(emulate, kit):
    budget = Budget(1.5, 1e-5, 16)
    run = emulate(budget=budget)
    results = run.train(4, cohort_size=4, deadline_s=40.0)
    held = [result.status for result in results].count("closed")
    assert 0 < held < 4
    assert results[-1].status == "failed"
    assert "clients whose privacy budget is spent get none" in results[-1].reason
    assert all(len(phone.ledger.releases()) == held for phone in run.rounds.fleet.phones)
    assert epsilon_spent(run.rounds.store, "run")["train"] <= 1.5
    assert run.rounds.fleet.stopped == {}


def test_a_round_that_was_held_is_read_and_takes_no_time(emulate):
    run = emulate()
    (first,) = run.train(1)
    time = run.rounds.clock.time
    again = emulate()
    assert again.train(1) == [first]
    assert again.rounds.clock.time == time


def test_rounds_side_by_side_share_the_fleet_and_come_in_order(emulate):
    run = emulate(num_phones=6)
    ids = [phone.key.key_id for phone in run.rounds.fleet.phones]
    halves = {"slow": tuple(ids[1::2]), "fast": tuple(ids[::2])}  # the phones take turns through the profiles
    plans = [run.plan(name, eligible=one) for name, one in halves.items()]
    slow, fast = run.rounds.hold_all(plans)
    names = run.rows("SELECT round_id, device_id FROM assignments WHERE status = 'reported'")
    assert {device for round_id, device in names if round_id == slow.round_id} == set(halves["slow"])
    assert {device for round_id, device in names if round_id == fast.round_id} == set(halves["fast"])
    alone = emulate("alone", num_phones=6)
    alone.rounds.hold(alone.plan("slow", eligible=halves["slow"]))
    assert run.rounds.clock.time == pytest.approx(alone.rounds.clock.time, abs=1)  # the fast one cost no time beside it


@pytest.mark.parametrize("num_reports", [1, 3, 4])
def test_rounds_side_by_side_that_were_killed_are_held_again_to_the_same_bytes(emulate, num_reports):
    class KilledError(BaseException):
        pass

    def kill(told):
        if told == num_reports:
            raise KilledError

    def plans(run):
        return [run.plan(name, cohort_size=2) for name in ("first", "second")]

    unbroken, killed = emulate("unbroken"), emulate("killed")
    for run in (unbroken, killed):
        run.train(1)
    wanted = unbroken.rounds.hold_all(plans(unbroken))
    with pytest.raises(KilledError):
        killed.rounds.hold_all(plans(killed), kill)
    killed.rounds.close()
    resumed = emulate("killed")
    resumed.train(1)
    assert resumed.rounds.hold_all(plans(resumed)) == wanted
    for run in (unbroken, resumed):
        run.train(1)
    assert resumed.everything() == unbroken.everything()


def test_reports_are_told_as_they_come(emulate):
    run, told = emulate(), []
    run.rounds.hold(run.plan("round 0"), told.append)
    assert told == [1, 2, 3]


def test_leaving_the_rounds_closes_the_database(emulate):
    run = emulate()
    with run.rounds as rounds:
        assert rounds.run.run_id == "run"
    assert run.rounds.store._connection.closed
