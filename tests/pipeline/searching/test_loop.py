"""The loop over rounds that are made up: where trials start, what they share, what is told of them."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.compile.artifact import initial_parameters
from pipeline.coordinator.store import Store
from pipeline.searching.progress import load_progress
from pipeline.searching.trial_results import trial_result
from pipeline.searching.trials import RoundFailedError
from profiles.records import encode_record
from search.candidate import NOT_ASKED
from search.slicing import inherit
from tests.pipeline.searching.made_up import NARROW, WIDE, Choosy, learning, trial, weights


def test_a_trial_of_the_same_network_starts_from_the_weights_as_they_are(search):
    made, progress = search((trial(0),), (trial(1, rounds=2, start_from=0),), t0=(0.5, 9), t1=(0.25, 9))
    fresh = initial_parameters(WIDE, 3)
    assert np.array_equal(made.trainer.rounds.started_from(0), fresh)
    assert np.array_equal(made.trainer.rounds.started_from(1), fresh + np.float32(0.5))
    assert np.array_equal(weights(made, progress, 1), fresh + np.float32(0.5) + np.float32(0.25) + np.float32(0.25))


def test_a_trial_of_a_smaller_network_inherits_the_strongest_filters(search):
    made, progress = search((trial(0),), (trial(1, NARROW, start_from=0),), t0=(0.5, 9), t1=(0.25, 9))
    large = weights(made, progress, 0)
    started = made.trainer.rounds.started_from(1)
    assert np.array_equal(started, inherit(WIDE, large, NARROW, "strongest"))
    filters = large[: 4 * 9].reshape(4, 9)
    strongest = sorted(np.argsort(-np.linalg.norm(filters, axis=1))[:2])
    assert np.array_equal(started[: 2 * 9].reshape(2, 9), filters[strongest])


def test_an_observation_tells_the_reward_and_the_plan_asks_for_it(search):
    made, progress = search((learning(0, reward="gain", clients=("a", "b")), learning(1)), t0=(0.5, 9), t1=(0.5, 9))
    first, second = progress.observations
    assert (first.metrics, first.num_rewarded) == ({"gain": 3.0 / 4}, 4)
    assert (second.metrics, second.num_rewarded) == ({}, 0)
    asked, plain = made.trainer.rounds.plans
    assert (asked.train.reward.release, asked.eligible, asked.cohort_size) == ("gain", ("a", "b"), 1)  # b has none
    assert plain.train.reward is None


def test_a_trial_counts_under_its_own_phase_and_its_rounds_are_named_after_the_search(search):
    made, progress = search((trial(0, phase="final"), trial(1)), t0=(0.5, 9), t1=(0.5, 9))
    found = {(plan.round_key, plan.phase) for plan in made.trainer.rounds.plans}
    assert found == {
        ("search/0/train/0", "final"),
        ("search/0/evaluate/validation", "final"),
        ("search/1/train/0", "search"),
        ("search/1/evaluate/validation", "search"),
    }
    result = trial_result(progress.observations[0], False, (), 16)
    assert (result.phase, result.is_kept, result.moves) == ("final", True, "all")


def test_a_trial_without_rounds_is_scored_as_it_is(search):
    made, progress = search((trial(0),), (trial(1, rounds=0, start_from=0),), t0=(0.5, 9))
    assert [plan.kind for plan in made.trainer.rounds.plans if plan.trial == 1] == ["evaluate"]
    assert progress.observations[1].accuracy == pytest.approx(0.6)
    assert np.array_equal(weights(made, progress, 1), weights(made, progress, 0))


def test_a_trial_that_asks_for_no_score_is_trained_and_costs_no_evaluation(search):
    made, progress = search((trial(0, is_scored=False), trial(1)), t0=(0.5, 9), t1=(0.5, 9))
    assert {plan.trial for plan in made.trainer.rounds.plans if plan.kind == "evaluate"} == {1}
    assert [one.failed for one in progress.observations] == [NOT_ASKED, ""]
    assert np.array_equal(weights(made, progress, 0), weights(made, progress, 1))


def test_a_trial_that_fails_is_told_as_failed_and_the_search_goes_on(search):
    made, progress = search((trial(0), trial(1)), (trial(2, start_from=0),), t1=(0.5, 9), t2=(0.25, 9))
    lost, scored, later = progress.observations
    assert not lost.is_scored
    assert "round search/0/train/0 failed 3 times" in lost.failed
    assert (scored.accuracy, scored.num_examples) == (pytest.approx(0.6), 10)
    assert later.is_scored
    assert np.array_equal(made.trainer.rounds.started_from(2), initial_parameters(WIDE, 3))  # it learnt nothing
    assert progress.state["failed"] == [lost.failed, "", ""]


def test_a_step_whose_failures_leave_no_network_is_tried_again_when_the_search_goes_on(search):
    made = search.make(Choosy(((trial(0),), (trial(1),))), t0=(1.0, 10))
    with pytest.raises(RoundFailedError, match=r"no network was scored: .*nobody came"):
        made.run()
    made.trainer.rounds._moves[1] = (1.0, 10)  # now they come
    progress = made.run()
    assert [one.failed for one in progress.observations] == ["", ""]
    assert made.winners(progress) == {"": 1}


def test_a_failure_that_leaves_a_network_ends_nothing(search):
    failing = (trial(0),), (trial(1), trial(2))
    made, progress = search(*failing, algorithm=Choosy, t0=(1.0, 10), t2=(1.0, 10))
    assert [bool(one.failed) for one in progress.observations] == [False, True, False]
    assert made.winners(progress) == {"": 2}


def test_what_is_saved_after_a_step_does_not_grow_with_the_steps_before(search, monkeypatch):
    saved, put_record = [], Store.put_record

    def counted(store, run_id, key, value):
        saved.append((key, len(encode_record(value))))
        put_record(store, run_id, key, value)

    monkeypatch.setattr(Store, "put_record", counted)
    steps = [(trial(i),) for i in range(4)]
    made, progress = search(*steps, t0=(0.5, 9), t1=(0.5, 9), t2=(0.5, 9), t3=(0.5, 9))
    assert [key for key, _ in saved] == [name for i in range(4) for name in (f"search/{i}", "search")]
    assert {size for key, size in saved if key != "search"} == {saved[0][1]}
    assert load_progress(made.trainer.rounds.store, "run") == replace(progress, is_over=False)
