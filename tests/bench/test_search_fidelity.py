from itertools import permutations

import numpy as np
import pytest

from bench.search_cost import RUN_FILE
from bench.search_fidelity import (
    SHORT,
    Fidelity,
    binomial_ceiling,
    compare,
    fidelity,
    first_step,
    mean_scores,
    random_rankings,
    summary,
)
from bench.search_runs import Sitting, replace_lines
from pipeline.run_file import parse_run_file

MEANS = [0.9, 0.8, 0.7, 0.6, 0.5]


def test_a_ranking_is_compared_by_tau_and_by_whether_its_first_ones_have_the_best():
    rankings = {(0.9, 0.8, 0.7, 0.6, 0.5): (1, True), (0.5, 0.6, 0.7, 0.8, 0.9): (-1, False)}
    rankings |= {(0.7, 0.8, 0.9, 0.6, 0.5): (0.4, True), (0.6, 0.8, 0.9, 0.7, 0.5): (0.2, False)}
    for scores, (tau, has_best) in rankings.items():
        found = compare(scores, MEANS)
        assert (found.tau, found.has_best) == (pytest.approx(tau), has_best)


def test_equal_scores_rank_in_the_order_of_the_blocks():
    assert compare([0.5] * 5, MEANS) == Fidelity(0.0, has_best=True)
    assert compare([0.5] * 5, MEANS[::-1]) == Fidelity(0.0, has_best=False)


def test_rankings_of_other_candidates_are_refused():
    with pytest.raises(ValueError, match="5 candidates has 5 scores, got 4"):
        compare(MEANS[:4], MEANS)


def test_scores_of_the_first_step_are_those_of_networks_pruned_from_the_first():
    steps = [[0, None, 0, None, 0.1, ""], [1, 0, 2, 3, 0.5, ""], [2, 0, 2, 3, 0.6, ""], [3, 2, 2, 3, 0.9, ""]]
    rows = [{"steps": steps, "curves": {"1": [0.1, a], "2": [0.2, 0.6], "3": [0.3, 0.9]}} for a in (0.4, 0.5)]
    assert first_step(rows[0]) == [1, 2]
    assert mean_scores(rows, 2) == pytest.approx([0.45, 0.6])


def test_the_more_examples_the_nearer_the_ceiling_is_to_the_truth():
    few, many, all_ = (
        summary(binomial_ceiling(MEANS, [number] * 5, np.random.default_rng(1))) for number in (20, 200, 10**7)
    )
    assert few["tau"] < many["tau"] < all_["tau"] == pytest.approx(1)
    assert all_["has_best"]["mean"] == 1


def test_random_rankings_are_as_good_as_chance():
    found = summary(random_rankings(MEANS, np.random.default_rng(1)))
    exact = np.mean([compare(one, MEANS).has_best for one in permutations(MEANS)])
    assert exact == pytest.approx(3 / 5)
    assert found["has_best"]["low"] < exact < found["has_best"]["high"]
    assert found["tau_interval"]["low"] < 0 < found["tau_interval"]["high"]


def row_of_scores(scores, num_scored=20):
    """A run whose first step scored so; its last trial was of the next step."""
    steps = [[0, None, 0, None, 0.1, ""], *([i, 0, 2, 3, one, ""] for i, one in enumerate(scores, start=1))]
    return {"steps": [*steps, [len(steps), 2, 2, 3, 0.99, ""]], "num_scored": [7, *[num_scored] * len(scores), 7]}


def row_of_curves(before, scores, num_rounds=5):
    """A straightforward run whose candidates have other accuracies from such a round to the 20th than elsewhere."""
    pairs = enumerate(zip(before, scores, strict=True), start=1)
    curves = {str(i): [early] * num_rounds + [late] * (20 - num_rounds) + [early] * 20 for i, (early, late) in pairs}
    return row_of_scores(scores) | {"curves": curves}


def test_the_first_steps_scores_stand_beside_the_reference_after_as_many_rounds_as_it_needs(stub_runs, tmp_path):
    reference, groups = row_of_curves(MEANS[::-1], MEANS), row_of_scores([0.5, 0.4, 0.3, 0.2, 0.1])
    stub_runs(lambda task: reference if task.method == "rounds" else groups)
    (first, *found), bars = fidelity(Sitting(tmp_path, num_seeds=2))
    assert (first["R_full"], first["mean scores"], first["tau"]) == (10, pytest.approx(MEANS), pytest.approx(1))
    assert [(one["tau"], one["examples"], bars) for one in found] == [(pytest.approx(1), 20, [])] * 3
    # 20 examples cannot tell neighbours apart that are 0.1 from each other.
    assert all(abs(one["random"]["tau"]) < 0.2 < one["binomial ceiling"]["tau"] < 0.9 for one in found)


def test_each_number_of_groups_has_20_seeds_of_its_own_run_file_and_the_reference_five_set_apart(stub_runs, tmp_path):
    asked = stub_runs(lambda task: row_of_curves(MEANS, MEANS) if task.method == "rounds" else row_of_scores(MEANS))
    rows, _ = fidelity(Sitting(tmp_path))
    runs = {task.method: parse_run_file(task.run_file) for task in asked}
    assert {name: run.search.groups for name, run in runs.items()} == {
        "rounds": 1, "fednas, G 1": 1, "fednas, G 5": 5, "fednas, G 10": 10
    }  # fmt: skip
    shorts = [run.search for name, run in runs.items() if name != "rounds"]
    assert {(one.pretrain_rounds, one.keep, one.rounds, one.first_reduction) for one in shorts} == {(2, 3, 0, 0.1)}
    assert {run.search.first_reduction for run in runs.values()} == {0.1}  # the reference's candidates are the same
    assert {run.budgets["default"].latency_ms for run in runs.values()} == {2.8745}
    seeds = {name: [task.seed for task in asked if task.method == name] for name in runs}
    assert seeds.pop("rounds") == [*range(1000, 1005)]
    assert [*seeds.values()] == [[*range(20)]] * 3
    assert [row["seeds"] for row in rows] == [5, 20, 20, 20]


def test_a_seed_of_the_reference_stands_beside_the_others_alone(stub_runs, tmp_path):
    def run(task):
        means = MEANS if task.seed % 2 else MEANS[::-1]
        return row_of_curves(means, means) if task.method == "rounds" else row_of_scores(MEANS)

    asked = stub_runs(run)
    (first, *_), _ = fidelity(Sitting(tmp_path, num_seeds=2))
    assert first["seeds"] == 5  # all of them: R_full is the same whatever part of the others is looked at
    # Three of five rank one way. Whoever does is with the other two of them against two: their means tie.
    assert -1 <= first["tau"] < -0.3
    assert {task.seed for task in asked if task.method != "rounds"} == {0, 1}


def test_nothing_agrees_with_a_reference_that_ties_completely():
    assert compare(MEANS, [0.5] * 5) == Fidelity(0.0, has_best=True)
    assert compare(MEANS[::-1], [0.5] * 5) == Fidelity(0.0, has_best=False)


def test_the_settings_fit_the_run_file_of_digits():
    run = parse_run_file(replace_lines(RUN_FILE.read_text(encoding="utf-8"), SHORT))
    assert (run.budgets["default"].latency_ms, run.final.rounds) == (2.8745, 1)
