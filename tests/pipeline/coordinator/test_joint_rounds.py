"""Rounds that release several things: updates of some segments, rewards beside them; and the client as the unit."""

from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import select

from device_runtime.accounting import Release
from device_runtime.specs import LayoutEntry
from device_runtime.terms import ArchitectureTerms, ClientPrivacyTerms, PrivacyTerms, RewardTerms, TrainTerms
from device_runtime.wire import Headroom, Report
from pipeline.coordinator import tables
from pipeline.coordinator.plans import check_plan
from pipeline.coordinator.privacy_ledger import spending_by_phase, total_rdp
from pipeline.coordinator.publish import publish_artifact, read_aggregate
from pipeline.coordinator.reporting import BadUpdateError
from pipeline.coordinator.rounds import BadMessageError, check_report
from tests.pipeline.conftest import make_manifest, write_artifact

SUPERNET = make_manifest(
    layout=(LayoutEntry("classifier", (4,), 0, "weights"), LayoutEntry("choice", (2,), 4, "architecture")),
    segments=("weights", "architecture"),
)
STEPS = ArchitectureTerms(0.5)
SPLITS = ("train", "validation", "test")


@pytest.fixture
def supernet(world, tmp_path):
    """Id of the artifact of a network with four weights and two architecture weights."""
    return publish_artifact(world.store, world.blobs, write_artifact(tmp_path / "supernet", SUPERNET))


def private_terms(noise_multiplier=2.0, **changes):
    """Alternating private steps with a reward: three releases."""
    terms = TrainTerms(
        0.1,
        local_steps=3,
        max_grad_norm=0.5,
        privacy=PrivacyTerms("device", 0.25, noise_multiplier),
        moves="alternate",
        architecture=ArchitectureTerms(0.5, max_grad_norm=0.5, privacy=PrivacyTerms("device", 0.5, 4.0)),
        reward=RewardTerms("gain", 2.0, PrivacyTerms("device", 0.8, 5.0)),
    )
    return replace(terms, **changes)


def client_terms(noise_at="sum", noise_multiplier=2.0, reward=None):
    """Training in the client unit, of which two reports are expected."""
    privacy = ClientPrivacyTerms(noise_at, noise_multiplier, 2, max_norm=1.0)
    asked = RewardTerms(reward, 2.0, ClientPrivacyTerms(noise_at, noise_multiplier, 2)) if reward else None
    return TrainTerms(0.1, local_steps=1, batch_size=4, privacy=privacy, reward=asked)


def client_round(**changes):
    return {"train": client_terms(), "is_at_deadline": True, "cohort_size": 2} | changes


def report_of(assignment, update, reward=None, **changes):
    told = {} if reward is None else {"metric_sums": reward, "num_scored": 6}
    return Report(
        **({"assignment_id": assignment.assignment_id, "num_examples": 20, "update_sha256": update} | told | changes)
    )


def rows(world):
    with world.store.transaction():
        return world.store.execute(select(tables.releases).order_by(tables.releases.c.number)).fetchall()


def totals(world, number):
    with world.store.transaction():
        return total_rdp(world.store, "run", world.device_id(number))


def test_a_joint_assignment_is_charged_a_row_a_release_each_to_its_split(world, supernet):
    world.private_run()
    world.enrol(1)
    world.open(artifact_id=supernet, train=private_terms())
    assignment = world.assignment(1)
    order = world.budget.order
    expected = [
        Release("update", "train", 0.25, 2.0, 3),
        Release("architecture", "validation", 0.5, 4.0, 3),
        Release("reward", "validation", 0.8, 5.0),
    ]
    found = [(row.kind, row.split, row.sample_rate, row.noise_multiplier, row.num_steps) for row in rows(world)]
    assert found == [(r.kind, r.split, r.sample_rate, r.noise_multiplier, r.num_steps) for r in expected]
    assert {row.assignment_id for row in rows(world)} == {assignment.assignment_id}
    both = expected[1].rdp(order) + expected[2].rdp(order)
    assert totals(world, 1) == pytest.approx({"train": expected[0].rdp(order), "validation": both}, rel=1e-12)
    assert {(r.account, r.kind) for r in spending_by_phase(world.store, "run")} == {(r.split, r.kind) for r in expected}


@pytest.mark.parametrize("split", ["train", "validation"])
def test_all_releases_of_an_assignment_fit_or_none_is_charged(world, supernet, split):
    """At a budget that the one split would fit into and the other would not."""
    louder = {
        "train": {"noise_multiplier": 0.4},
        "validation": {"reward": RewardTerms("gain", 2.0, PrivacyTerms("device", 1.0, 0.4))},
    }
    world.private_run(epsilon=4.0)
    world.enrol(1)
    world.open(artifact_id=supernet, train=private_terms(**louder[split]))
    assert world.check_in(1).assignment is None
    assert rows(world) == []
    world.open(round_key="second", artifact_id=supernet, train=private_terms())
    assert world.check_in(1).assignment is not None


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_phone_needs_headroom_for_all_of_them(world, supernet, split):
    world.private_run()
    world.enrol(1)
    world.open(artifact_id=supernet, train=private_terms())
    assert world.check_in(1, headroom=Headroom(8, {split: 100.0})).assignment is None
    assert rows(world) == []
    assert world.assignment(1).train == private_terms()


@pytest.mark.parametrize(
    ("terms", "least"),
    [
        (private_terms(), {"train": 8, "validation": 1}),
        (private_terms(reward=None), {"train": 8, "validation": 1}),
        (client_terms(), {"train": 8}),
        (client_terms(reward="loss"), {"train": 8, "validation": 1}),
        (TrainTerms(0.1, local_steps=1, batch_size=4, moves="architecture", architecture=STEPS), {"validation": 1}),
    ],
    ids=["alternating with reward", "alternating", "weights", "reward", "architecture"],
)
def test_a_plan_needs_examples_of_every_split_that_it_reads(world, terms, least):
    at_deadline = isinstance(terms.privacy, ClientPrivacyTerms)
    assert world.plan(train=terms, min_train_examples=8, is_at_deadline=at_deadline).min_examples == least


def test_a_device_without_validation_examples_has_no_part_in_a_reward(world):
    world.run()
    world.enrol(1)
    world.open(train=TrainTerms(0.1, local_steps=1, batch_size=4, reward=RewardTerms("loss")))
    assert world.check_in(1, num_examples={"train": 20, "validation": 0}).assignment is None
    assert world.check_in(1).assignment is not None


@pytest.mark.parametrize(("moves", "size"), [("all", 6), ("weights", 4), ("architecture", 2), ("alternate", 6)])
def test_an_update_holds_what_moves_and_no_more(world, supernet, moves, size):
    world.run()
    world.enrol(1)
    terms = TrainTerms(
        0.1, local_steps=1, batch_size=4, moves=moves, architecture=None if moves == "weights" else STEPS
    )
    round_id = world.open(artifact_id=supernet, train=terms, cohort_size=1)
    assert world.load(round_id).num_parameters == size
    assignment = world.assignment(1)
    with pytest.raises(BadUpdateError, match=rf"shape \[{size}\], got F32 of shape \[{size + 1}\]"):
        world.send_update(1, np.ones(size + 1))
    world.send_report(1, report_of(assignment, world.send_update(1, np.arange(size))))
    result = world.close(round_id)
    assert np.array_equal(read_aggregate(world.blobs, result.aggregate_sha256, size), np.arange(size, dtype=np.float32))


@pytest.mark.parametrize("moves", ["architecture", "alternate"])
def test_a_network_without_architecture_weights_moves_none(world, moves):
    world.run()
    with pytest.raises(ValueError, match="needs a network with architecture weights"):
        world.open(train=TrainTerms(0.1, local_steps=1, batch_size=4, moves=moves, architecture=STEPS))


def rewarding(world, reward=None, **changes):
    """An open round of two clients that asks for a reward, and what it needs."""
    world.run()
    world.enrol(1, 2)
    asked = RewardTerms("gain") if reward is None else reward
    return world.open(train=TrainTerms(0.1, local_steps=1, batch_size=4, reward=asked), cohort_size=2, **changes)


def test_a_round_that_trains_keeps_update_and_reward(world):
    round_id = rewarding(world)
    for number, gain in ((1, -2.0), (2, 8.0)):
        update = world.assignment(number), world.send_update(number, np.full(6, float(number)))
        world.send_report(number, report_of(*update, {"gain": gain}, num_scored=4 + number))
    result = world.close(round_id)
    assert (result.metric_sums, result.num_scored, result.num_examples) == ({"gain": 6.0}, 11, 40)
    assert np.array_equal(world.read(result.aggregate_sha256), np.full(6, 1.5, np.float32))


BOUNDED = RewardTerms("loss", 2.0)


@pytest.mark.parametrize(
    ("reward", "changes", "message"),
    [
        (None, {"metric_sums": None}, r"must name exactly \['gain'\], got \[\]"),
        (None, {"metric_sums": {"loss": 1.0}}, r"must name exactly \['gain'\], got \['loss'\]"),
        (None, {"metric_sums": {"gain": 1.0, "loss": 1.0}}, r"must name exactly \['gain'\]"),
        (None, {"num_scored": 0}, "num_scored must be >= 1"),
        (None, {"num_scored": 2**31}, "num_scored must be >= 1 and < 2147483648"),
        (BOUNDED, {"metric_sums": {"loss": 6.1}}, r"loss of 6 examples must be in \[0, 6\], got 6.1"),
        (BOUNDED, {"metric_sums": {"loss": -0.1}}, r"loss of 6 examples must be in \[0, 6\], got -0.1"),
        (RewardTerms("gain", 2.0), {"metric_sums": {"gain": -6.1}}, r"gain of 6 examples must be in \[-6, 6\]"),
    ],
)
def test_a_reward_that_was_not_asked_for_or_cannot_be_is_refused(world, reward, changes, message):
    rewarding(world, reward)
    assignment, update = world.assignment(1), world.send_update(1, np.ones(6))
    told = {"gain" if reward is None else reward.release: 1.0}
    with pytest.raises(BadMessageError, match=message):
        world.send_report(1, report_of(assignment, update, told, **changes))
    assert world.load("run-0").num_reported == 0
    world.send_report(1, report_of(assignment, update, told))


OF_EXAMPLES, OF_CLIENTS = PrivacyTerms("sum", 0.5, 2.0), ClientPrivacyTerms("sum", 2.0, 2)


@pytest.mark.parametrize(
    ("privacy", "most"), [(OF_EXAMPLES, 6), (OF_CLIENTS, 1), (replace(OF_EXAMPLES, noise_at="device"), None)], ids=str
)
def test_raw_sums_of_private_work_cannot_leave_their_range(world, privacy, most):
    """Noise may take a sum anywhere, but where the server is to add it none has been added yet."""
    plan = world.plan(**world.evaluation(privacy), is_at_deadline=isinstance(privacy, ClientPrivacyTerms))
    check_report(plan, "a", Report("a", 6, metric_sums={"loss": 0.0, "accuracy": float(most or 1e9)}))
    for wrong in (-0.1, 0.1 + (most or 0)) if most else ():
        with pytest.raises(BadMessageError, match=rf"accuracy of {6 if most == 6 else 'a client'}.* in \[0, {most}\]"):
            check_report(plan, "a", Report("a", 6, metric_sums={"loss": 0.0, "accuracy": wrong}))


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_reward_must_be_a_number(world, value):
    plan = world.plan(train=TrainTerms(0.1, local_steps=1, batch_size=4, reward=RewardTerms("gain")))
    with pytest.raises(BadMessageError, match=r"metric_sums\.gain must be finite"):
        check_report(plan, "a", Report("a", 20, "0" * 64, {"gain": value}, num_scored=6))


def test_a_round_without_a_reward_takes_none(world):
    world.run()
    world.enrol(1)
    world.open()
    assignment, update = world.assignment(1), world.send_update(1, np.ones(6))
    with pytest.raises(BadMessageError, match="num_scored must be 0 where no reward was asked for, got 6"):
        world.send_report(1, report_of(assignment, update, num_scored=6))
    with pytest.raises(BadMessageError, match="metric_sums must be left out"):
        world.send_report(1, report_of(assignment, update, {"gain": 1.0}))


def test_a_private_run_takes_no_reward_without_noise(world):
    """The terms refuse it, and so no plan can hold one."""
    with pytest.raises(ValueError, match=r"reward\.privacy must be given exactly where privacy is"):
        private_terms(reward=RewardTerms("gain", 2.0))
    run = world.private_run()
    with pytest.raises(ValueError, match="must both be private or both not"):
        check_plan(run, world.plan(train=TrainTerms(0.1, local_steps=1, batch_size=4)), SUPERNET)
