"""The statistics on made-up runs, and the auditor on real ones: without noise he knows each release beforehand."""

import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest

from bench import audit_search
from bench.audit_search import ALL, CANARY_SPLITS, VARIANTS, assess, bars_of, choose_test
from bench.audit_search_releases import AuditError, Wire, listening
from bench.search_runs import Task
from device_runtime.client_records import Response
from device_runtime.terms import TrainTerms
from device_runtime.wire import Report
from pipeline.fleet.asgi import AsgiTransport
from pipeline.run_file import parse_run_file
from pipeline.searching.schedule import plan_schedule
from profiles.records import encode_record, from_plain, to_plain

ALL_OF_A_CLIENT = {
    ("architecture", "validation"): 2,
    ("reward", "validation"): 2,
    ("metrics", "validation"): 1,
    ("update", "train"): 3,
    ("metrics", "test"): 1,
}


def made_up(num_runs, informations, noise=1.0, shift=1.0, epsilon=4.0):
    """Runs whose ratios are as Gaussian releases of these informations give them, by kind.

    Args:
        noise, shift: By kind, of what the release has; where it has more or less than the auditor takes it to have.
    """
    rng, runs = np.random.default_rng(0), []
    for number in range(num_runs):
        is_in, kinds = bool(number % 2), {}
        for kind, information in informations.items():
            drawn = noise.get(kind, 1.0) if isinstance(noise, dict) else noise
            mean = shift * information if is_in else 0.0
            ratio = mean - information / 2 + drawn * rng.normal() * np.sqrt(information)
            kinds[kind] = [ratio, information, 1]
        mu = float(np.sqrt(sum(informations.values())))
        one = {"is_in": is_in, "kinds": kinds, "mu_claimed": mu, "claimed_epsilon": epsilon}
        runs.append(dict.fromkeys(CANARY_SPLITS, one))
    return runs


@pytest.mark.parametrize("informations", [{"update": 0.7}, {"architecture": 0.3, "reward": 0.3, "metrics": 0.1}])
def test_runs_that_are_as_private_as_they_claim_are_bounded_from_below_and_closely(informations):
    row = assess("as shipped", "train", made_up(6_000, informations))
    assert row["test"] == ALL
    assert row["mu_canary"] == pytest.approx(np.sqrt(0.7))
    assert 0.82 * row["mu_canary"] <= row["mu_lower_bound"] <= row["mu_canary"]
    assert row["any_mechanism"] < row["lower_bound"] < row["epsilon_of_mu_canary"]
    assert row["mean_and_deviation_in"] == pytest.approx([0.35, np.sqrt(0.7)], abs=0.05)
    assert row["runs_a_world"] == 2_700
    assert [bar.met for bar in bars_of(row)] == [True]
    assert [bar.met for bar in bars_of(replace_in(row, claimed_epsilon=1.0))] == [False]


def test_one_kind_without_noise_is_not_drowned_by_the_others():
    runs = made_up(60, {"architecture": 0.3, "reward": 0.3}, noise={"reward": 0.0})
    row = assess("rewards and metrics without noise", "validation", runs)
    assert (row["test"], row["false_positives"], row["false_negatives"]) == ("reward", 0, 0)
    assert [bar.met for bar in bars_of(row)] == [True]


def test_a_larger_shift_than_was_accounted_for_is_caught_and_the_claimed_one_is_not():
    for shift, is_caught in ((1.0, False), (8.0, True)):
        row = assess("rewards unclipped", "validation", made_up(60, {"architecture": 0.3, "reward": 0.3}, shift=shift))
        assert [bar.met for bar in bars_of(row)] == [is_caught]
    assert list(bars_of(replace_in(row, canary="train"))) == []  # a reward tells nothing of training examples


def test_the_test_is_chosen_between_the_means_of_the_two_worlds():
    out, inside = {ALL: np.array([0.0, 1.0]), "reward": np.zeros(2)}, {ALL: np.array([2.0, 3.0]), "reward": np.zeros(2)}
    assert choose_test(out, inside) == (ALL, 1.5)


def replace_in(row, **values):
    return {**row, **values}


def test_the_run_file_fits_what_the_bench_says_of_it():
    run_file = parse_run_file(audit_search.RUN_FILE)
    schedule = plan_schedule(run_file)
    assert schedule.delta == audit_search.DELTA
    assert {table.sample_rate for table in run_file.privacy.tables().values()} == {1.0}
    assert all(2 < schedule.epsilon_by_split[split] <= 4 for split in CANARY_SPLITS)


@pytest.fixture(scope="module")
def scene():
    return audit_search.make_scene()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("audit")


@pytest.fixture(scope="module")
def heard(scene, work):
    """Result, wire and charges of the run with both canaries, as it is shipped."""
    return audit_search.hear_run(scene, work, "as shipped", 3)


@pytest.fixture(scope="module")
def shipped(scene, heard):
    """What the auditor makes of it."""
    return scene.auditor.observe(*heard[1:])


def test_the_four_worlds_come_by_turns():
    worlds = [audit_search.canaries_in(number) for number in range(8)]
    assert worlds[:4] == worlds[4:] == [[False, False], [True, False], [False, True], [True, True]]


@pytest.mark.parametrize("number", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_without_noise_the_auditor_knows_every_release_beforehand(scene, work, number):
    is_in = dict(zip(CANARY_SPLITS, audit_search.canaries_in(number), strict=True))
    with ExitStack() as stack:
        for module in ("training", "scoring"):
            stack.enter_context(patch(f"device_runtime.{module}.add_lattice_noise", lambda values, *_: values))
        _, wire, charged = audit_search.hear_run(scene, work, "as shipped", number)
    observations = scene.auditor.observe(wire, charged)
    assert Counter((one.release.kind, one.release.split) for one in observations) == ALL_OF_A_CLIENT
    for one in observations:
        expected = one.rest + is_in.get(one.release.split, False) * one.canary
        assert one.value == pytest.approx(expected, abs=2e-5), one.release
        assert np.linalg.norm(one.rest) > 0.1


def test_the_canaries_count_in_full_wherever_they_can(shipped):
    lengths = {one.release.kind: np.linalg.norm(one.canary) for one in shipped if one.release.split in CANARY_SPLITS}
    assert lengths.pop("metrics") in {0.0, 1.0}  # whether it is classified rightly
    # A reward is what is left of the loss's bound.
    assert lengths == pytest.approx({"architecture": 1.0, "update": 1.0, "reward": 0.945}, abs=1e-3)


def test_a_canary_whose_loss_is_beyond_its_bound_shows_where_rewards_are_not_clipped(work):
    bright = audit_search.make_scene(VARIANTS["rewards unclipped"].brightness)
    result = audit_search.hear_run(bright, work, "rewards unclipped", 3)
    seen = [one for one in bright.auditor.observe(*result[1:]) if one.release.kind == "reward"]
    assert all(one.value < one.rest - 4 for one in seen)


def test_what_is_left_of_a_release_is_noise_of_its_deviation(shipped):
    left = [(one.value - one.rest - one.canary) / one.deviation for one in shipped]
    updates = np.concatenate([part for one, part in zip(shipped, left, strict=True) if one.release.kind == "update"])
    assert len(updates) > 500
    assert (updates.mean(), updates.std()) == pytest.approx((0.0, 1.0), abs=0.1)
    assert all(np.abs(part).max() < 5 for part in left)


def test_a_run_claims_what_was_planned(heard):
    schedule = plan_schedule(parse_run_file(audit_search.RUN_FILE))
    assert heard[0].privacy.epsilon_by_split == pytest.approx(schedule.epsilon_by_split)


@pytest.mark.slow
def test_another_run_differs_in_its_noise_alone(scene, work, shipped):
    _, wire, charged = audit_search.hear_run(scene, work, "as shipped", 7)
    other = scene.auditor.observe(wire, charged)
    assert [one.release for one in other] == [one.release for one in shipped]
    assert all((one.value != new.value).any() for one, new in zip(shipped, other, strict=True))
    assert (shipped[0].rest == other[0].rest).all()  # of the first release alone: later ones follow the parameters


@pytest.mark.parametrize("kind", ["update", "architecture", "reward", "metrics"])
def test_a_release_that_was_not_charged_is_an_error(scene, heard, kind):
    _, wire, charged = heard
    scene.auditor.observe(wire, charged[::-1])
    with pytest.raises(AuditError, match=rf"not seen: \[\]; seen and not charged: \[Release\(kind='{kind}'"):
        scene.auditor.observe(wire, [release for release in charged if release.kind != kind])


def test_a_release_that_was_not_seen_or_was_charged_as_another_is_an_error(scene, heard):
    _, wire, charged = heard
    with pytest.raises(
        AuditError, match=r"charged and not seen: \[Release\(kind='update'.*; seen and not charged: \[\]"
    ):
        scene.auditor.observe(wire, [*charged, next(release for release in charged if release.kind == "update")])
    with pytest.raises(AuditError, match=r"noise_multiplier=9\.0.*noise_multiplier=2\.\d"):
        scene.auditor.observe(wire, [replace(charged[0], noise_multiplier=9.0), *charged[1:]])


def test_messages_that_the_audit_does_not_read_are_errors():
    wire = Wire("device")
    for method, target in (("POST", "/v1/assignments/a/abort"), ("PUT", "/v1/something"), ("DELETE", "/v1/blobs/b")):
        with pytest.raises(AuditError, match=f"the client sent {method} {target}"):
            wire.note((method, target, b"{}"), True, Response(200))
        wire.note((method, target, b"{}"), False, Response(200))
    wire.note(("PUT", "/v1/assignments/a/report", encode_record(Report("a", 3))), True, Response(409))
    assert wire.reports == {"a": Report("a", 3)}  # refused, and it has left the client all the same


def test_what_belongs_to_no_assignment_is_an_error(scene, heard):
    _, wire, charged = heard
    with pytest.raises(AuditError, match=r"uploads \['sha'\] belong to no report"):
        scene.auditor.observe(replace(wire, uploads={**wire.uploads, "sha": b""}), charged)
    with pytest.raises(AuditError, match=r"no report of \['a'\] was heard"):
        scene.auditor.observe(replace(wire, reports={**wire.reports, "a": Report("a", 3)}), charged)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"local_steps": 2}, "local_steps must be 1, got 2"),
        ({"moves": "all"}, "moves = 'all' of a supernet"),
        ({"reward": {"release": "gain"}}, "rewards must be losses, got gain"),
        ({"privacy": {"sample_rate": 0.5}}, r"at rate 1 to have a known mean, got Release\(kind='update'"),
    ],
)
def test_training_whose_releases_cannot_be_read_is_refused(scene, heard, change, message):
    _, wire, charged = heard
    name = next(name for name, one in wire.assignments.items() if one.train is not None and one.train.reward)
    terms = to_plain(wire.assignments[name].train)
    for key, value in change.items():
        terms[key] = {**terms[key], **value} if isinstance(value, dict) else value
    if change == {"moves": "all"}:  # one clip for both
        terms["architecture"] |= {"max_grad_norm": None, "privacy": None}
    assignment = replace(wire.assignments[name], train=from_plain(TrainTerms, terms))
    with pytest.raises(AuditError, match=message):
        scene.auditor.observe(replace(wire, assignments={**wire.assignments, name: assignment}), charged)


@pytest.mark.parametrize(
    "change", [{"work_s": 1.0}, {"num_examples": 4}, {"num_scored": 5}, {"metric_sums": {"loss": 1.0, "accuracy": 2.0}}]
)
def test_a_report_that_tells_more_than_was_asked_for_is_an_error(scene, heard, change):
    _, wire, charged = heard
    name = next(name for name, one in wire.assignments.items() if one.train is not None and one.train.reward)
    report = replace(wire.reports[name], **change)
    with pytest.raises(AuditError, match="a report must tell loss and public counts alone"):
        scene.auditor.observe(replace(wire, reports={**wire.reports, name: report}), charged)


def test_nothing_is_heard_of_other_clients_but_what_is_public(scene, work):
    send = AsgiTransport.send
    with listening("nobody") as wire:
        audit_search.hear_run(scene, work, "as shipped", 0)
    assert wire.blobs
    assert (wire.uploads, wire.assignments, wire.reports) == ({}, {}, {})
    assert AsgiTransport.send is send


@pytest.mark.slow
def test_a_chunk_is_plain_data_by_split(work, monkeypatch):
    monkeypatch.setattr(audit_search, "CHUNK", 1)
    (run,) = audit_search.run_chunk(Task("gradients without noise", 2, audit_search.RUN_FILE), work)["runs"]
    assert [run[split]["is_in"] for split in CANARY_SPLITS] == [False, True]
    for split, kind, num_releases, noise_multiplier in (
        ("train", "update", 3, 2.1),
        ("validation", "architecture", 2, 2.4),
    ):
        ratio, information, count = run[split]["kinds"][kind]
        assert count == num_releases
        assert information == pytest.approx(num_releases / noise_multiplier**2, rel=0.01)  # but for the widening
        # Exactly as far on either side as the canary moves it.
        assert ratio == pytest.approx(information * (0.5 if run[split]["is_in"] else -0.5), rel=1e-3)
    assert run["train"]["mu_claimed"] == pytest.approx(np.sqrt(3) / 2.1)
    json.dumps(run)


def test_all_runs_of_all_variants_are_asked_for_and_assessed(stub_runs, tmp_path):
    def make(task):
        is_broken = bool(VARIANTS[task.method].caught_by)
        return {"runs": made_up(audit_search.CHUNK, {"update": 0.7}, shift=20.0 if is_broken else 1.0)}

    asked = stub_runs(make)
    result = audit_search.measure(tmp_path, 100, 40)
    assert Counter(task.method for task in asked) == {
        name: 2 if what.caught_by else 5 for name, what in VARIANTS.items()
    }
    assert [task.seed for task in asked][:5] == [0, 20, 40, 60, 80]
    assert [(row["variant"], row["canary"]) for row in result.rows] == [(v, s) for v in VARIANTS for s in CANARY_SPLITS]
    assert [bar.met for bar in result.bars] == [True] * 8


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["as shipped", "rewards unclipped"])
def test_a_short_audit_passes_what_is_shipped_and_catches_rewards_that_are_not_clipped(work, variant):
    firsts = range(0, audit_search.QUICK_RUNS, audit_search.CHUNK)
    chunks = [audit_search.run_chunk(Task(variant, first, audit_search.RUN_FILE), work) for first in firsts]
    row = assess(variant, "validation", [run for chunk in chunks for run in chunk["runs"]])
    assert [bar.met for bar in bars_of(row)] == [True]
    assert (row["lower_bound"] > row["claimed_epsilon"]) == (variant == "rewards unclipped")
