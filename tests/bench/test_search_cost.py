from math import inf

import pytest

from bench.measuring import Result
from bench.search_cost import (
    ALONE,
    APART,
    AT_UNIFORM,
    BARS,
    CENTRAL,
    LIMIT_OF_UNIFORM,
    MOST_ROUNDS,
    OURS,
    PAIRS,
    REFERENCE,
    RULE,
    SEEDS,
    UNIFORM,
    UNINFLATED,
    _run,
    compare,
    full_rounds,
    mean_last_gain,
    methods,
    swapped_pairs,
)
from bench.search_runs import BenchError, Sitting, tasks_of
from device_runtime.examples import SpecOverrides, open_source
from pipeline.digits import DATA_SCHEMES
from pipeline.run_file import parse_run_file
from pipeline.searching.choices import space_of
from profiles.catalogue import load_profile
from search.cost import cost_of
from search.pruning import reduce_one_block, scale_widths
from tests.bench.conftest import COUNTS, FILES, TEXT, a_row, of_seeds


def test_a_pair_is_swapped_where_the_rankings_order_it_differently():
    assert swapped_pairs([1, 2, 3], [1, 2, 3]) == 0
    assert swapped_pairs([1, 2, 3], [3, 2, 1]) == 3
    assert swapped_pairs([1, 2, 3], [2, 1, 3]) == 1
    assert swapped_pairs([1, 1], [1, 2]) == 0


def curves_turned_round_at(rounds):
    """Three candidates in one order, but after some numbers of rounds in the opposite one."""
    values = {"1": 0.3, "2": 0.2, "3": 0.1}
    numbers = range(1, MOST_ROUNDS + 1)
    curves = {trial: [0.4 - value if n in rounds else value for n in numbers] for trial, value in values.items()}
    return {"curves": {"0": [0.1], **curves}}


def test_the_ranking_is_of_the_mean_scores_of_all_seeds():
    odd = curves_turned_round_at(())
    odd["curves"] = {trial: [6 * value - 1 for value in curve] for trial, curve in odd["curves"].items()}
    turned = [curves_turned_round_at((5,))] * 4
    assert full_rounds([odd, *turned])[0] == 5  # the one that is sure outweighs those that are not
    assert full_rounds(turned)[0] == 10


@pytest.mark.parametrize(("turned", "full"), [((), 5), ((5,), 10), ((10,), 20), ((5, 20), 20), ((40,), 5)])
def test_the_straightforward_search_trains_until_twice_as_long_swaps_at_most_one_pair(turned, full):
    found, swaps = full_rounds([curves_turned_round_at(turned)] * len(APART))
    assert found == full
    assert list(swaps) == ["5 to 10", "10 to 20", "20 to 40"]


def test_costs_are_compared_by_what_the_other_costs_more_and_nothing_is_infinitely_less():
    rows = {
        REFERENCE: of_seeds(REFERENCE, [0.8, 0.9], client_seconds=40.0),
        "fednas": of_seeds("fednas", [0.8, 0.9], client_seconds=2.0),
        UNIFORM: of_seeds(UNIFORM, [0.8, 0.9], client_rounds=0, client_seconds=0.0, num_bytes=0),
    }
    found = {row["method"]: row for row in compare(rows, full=10)[0]}
    assert found[f"fednas against {REFERENCE}"]["times less in the search"]["client_seconds"]["mean"] == pytest.approx(
        20
    )
    assert found[f"fednas against {REFERENCE}"]["with final training"]["client_seconds"]["mean"] == pytest.approx(4.8)
    assert found[f"fednas against {UNIFORM}"]["times less in the search"]["bytes"]["mean"] == 0
    assert f"{OURS} against fednas" in found["not compared"]["pairs"]
    assert len(found) + len(found["not compared"]["pairs"]) == len(PAIRS) + 1


@pytest.mark.parametrize(
    ("more_rounds", "seconds", "gap", "missed"),
    [
        (0, 1.99, 0.0, set()),
        (1, 1.99, 0.0, {"analytic count"}),
        (0, 2.01, 0.0, {"client_seconds"}),
        (0, 1.99, 0.009, set()),
        (0, 1.99, 0.011, {"95% bound"}),
    ],
)
def test_each_bar_of_fednas_is_missed_by_what_it_is_about(more_rounds, seconds, gap, missed):
    accuracies, rounds = [0.8 + 0.001 * seed for seed in SEEDS], COUNTS["fednas"] + more_rounds
    worse = [one - gap for one in accuracies]
    ours = of_seeds("fednas", worse, client_rounds=rounds, client_seconds=seconds, num_bytes=1)
    others = of_seeds(REFERENCE, accuracies, client_rounds=COUNTS[REFERENCE], client_seconds=40.0, num_bytes=21)
    bars = compare({REFERENCE: others, "fednas": ours}, full=10)[1]
    assert len(bars) == 5
    assert {word for word in missed for bar in bars if not bar.met and word in bar.name} == missed
    assert sum(not bar.met for bar in bars) == len(missed)


def test_below_ten_rounds_fednas_must_save_nine_tenths_of_what_counting_gives():
    ours, others = of_seeds("fednas", [0.8, 0.9]), of_seeds(REFERENCE, [0.8, 0.9])
    bars = compare({REFERENCE: others, "fednas": ours}, full=5)[1]
    wanted = 0.9 * COUNTS[REFERENCE] / COUNTS["fednas"]
    assert [bar.bar for bar in bars if "times fewer" in bar.name] == pytest.approx([wanted] * 2)


@pytest.mark.parametrize(
    ("ours", "other", "least", "is_cost"),
    [
        (OURS, REFERENCE, 60, True),
        (OURS, "fednas", 3, True),
        (f"{OURS}{AT_UNIFORM}", UNIFORM, 0.0, False),
        ("fednas", CENTRAL, -0.02, False),
        ("fednas, iid", CENTRAL, -0.01, False),
    ],
)
def test_each_claim_is_met_just_above_its_bar_and_missed_just_below(ours, other, least, is_cost):
    for met, shift in ((True, 0.001), (False, -0.001)):
        gap = 0.0 if is_cost else least + shift
        dearer = {"client_seconds": least + shift, "num_bytes": least + shift} if is_cost else {}
        rows = {
            ours: of_seeds(ours, [0.8 + gap] * 20, client_seconds=1.0, num_bytes=1),
            other: of_seeds(other, [0.8] * 20, **dearer),
        }
        bars = compare(rows, full=10)[1]
        assert bars
        assert all(bar.met for bar in bars) == met


@pytest.mark.parametrize("ours", ["fednas", "fednas, iid"])
def test_a_seed_in_which_the_reference_stays_at_a_guess_does_not_meet_its_bar(ours):
    rows = {ours: of_seeds(ours, [0.7] * 10), CENTRAL: of_seeds(CENTRAL, [0.75] * 9 + [0.08])}
    (found, *_), (_, bar) = compare(rows, full=10)
    assert found["accuracy"]["mean"] == pytest.approx((9 * -0.05 + 0.62) / 10)
    assert found["accuracy where the other learnt"]["mean"] == bar.value == pytest.approx(-0.05)
    assert not bar.met
    assert "without 1 " in bar.name
    _, (_, bar) = compare({ours: rows[ours], CENTRAL: of_seeds(CENTRAL, [0.75, 0.08])}, full=10)
    assert "without" not in bar.name  # one seed alone would have no interval
    rows[CENTRAL][-1]["models"][0]["test_accuracy"] = 0.75
    (found, *_), (_, bar) = compare(rows, full=10)
    assert "accuracy where the other learnt" not in found
    assert "without" not in bar.name


def test_fewer_seeds_than_claimed_miss_a_bar():
    for (ours, other), most in zip(BARS, (20, 20, 20, 20, 10, 10), strict=True):
        rows = {ours: of_seeds(ours, [0.8] * (most - 1)), other: of_seeds(other, [0.8] * 20)}
        assert [bar.name for bar in compare(rows, full=10)[1] if not bar.met and "seeds" in bar.name]


def test_a_method_that_costs_nothing_is_infinitely_cheaper():
    free = {"client_rounds": 0, "client_seconds": 0.0, "num_bytes": 0}
    rows = {REFERENCE: of_seeds(REFERENCE, [0.8, 0.9]), OURS: of_seeds(OURS, [0.8, 0.9], **free)}
    cheaper = [bar for bar in compare(rows, full=10)[1] if "times fewer" in bar.name]
    assert [bar.value for bar in cheaper] == [inf, inf]
    assert all(bar.met for bar in cheaper)


def test_the_limit_of_equal_latency_is_what_uniform_width_needs():
    run = parse_run_file(FILES[f"{ALONE}{AT_UNIFORM}"])
    limit = run.budgets["default"].latency_ms
    assert f"latency_ms = {limit}" == LIMIT_OF_UNIFORM
    largest = space_of(run, open_source("digits", SpecOverrides(), DATA_SCHEMES).spec).largest()
    needs = cost_of(scale_widths(largest, 16 / 96), load_profile("redmi-note-4"), 8).latency_ms
    assert needs <= limit < 1.001 * needs


def test_where_one_group_trains_everything_one_candidate_trains_after_the_other():
    for method in [*(one for one, _ in methods(10)), RULE]:
        if method.search.get("groups") == 1:
            assert method.search["parallel"] == 1
        else:
            assert "parallel" not in method.search or method.search["algorithm"] != "fednas"


def test_every_candidate_of_the_rules_one_step_meets_its_limit():
    (task,) = tasks_of(TEXT, [RULE], [0])
    run, profile = parse_run_file(task.run_file), load_profile("redmi-note-4")
    largest = space_of(run, open_source("digits", SpecOverrides(), DATA_SCHEMES).spec).largest()

    def load(network):
        return cost_of(network, profile, 8).latency_ms

    step = reduce_one_block(largest, load, 0.1 * load(largest))
    assert len(step) == 10
    assert max(map(load, step)) <= run.budgets["default"].latency_ms < load(largest)


def test_every_method_makes_a_run_file_of_its_own():
    chosen = [method for method, _ in methods(10)]
    tasks = tasks_of(TEXT, [*chosen, RULE], [3])
    assert [task.method for task in tasks] == [one.name for one in (*chosen, RULE)]
    assert len({task.run_file for task in tasks}) == len(tasks)


def test_claims_rest_on_all_seeds():
    counts = {method.name: count for method, count in methods(10)}
    assert {name for names in BARS for name in names if counts[name] < len(SEEDS)} == {
        "centralised netadapt",
        "fednas, iid",
    }


def test_the_last_gain_is_what_the_last_ten_rounds_of_final_training_added():
    own = {"trial": 0}
    curves = [{"models": [own], "final_curves": {"0": [0.1] * 30 + [0.3] * 9 + [end]}} for end in (0.4, 0.6)]
    assert mean_last_gain(curves) == pytest.approx(0.4)


@pytest.mark.parametrize("over", [0, 1])
def test_the_bench_counts_networks_over_their_limits(stub_runs, tmp_path, over):
    def come_to(task):
        if task.method == RULE.name:
            return curves_turned_round_at(())
        row = a_row(task.method, task.seed, 0.9)
        is_over = over and task.seed == 3
        own = {"platforms": ["redmi-note-4"], "trial": 0, "latency_ms": {"redmi-note-4": 1.0 if is_over else 0.9}}
        models = [{**row["models"][0], **own}]
        return {**row, "run_file": task.run_file, "models": models, "final_curves": {"0": [0.1] * 40}}

    stub_runs(come_to)
    result = Result("search_cost", {}, {}, [], [])
    _run(Sitting(tmp_path), [OURS], result)
    assert [(bar.value, bar.met) for bar in result.bars if "limits" in bar.name] == [(over, not over)]


def test_the_optimisations_alone_and_the_references_have_the_settings_that_were_fixed_before():
    sections = {name: parse_run_file(text).search for name, text in FILES.items()}
    keys = ("groups", "pretrain_rounds", "keep", "rounds", "schedule")
    told = {
        name: tuple(getattr(own, key) for key in keys) for name, own in sections.items() if own.algorithm == "fednas"
    }
    assert told["fednas"] == told["fednas, able blocks alone"] == (10, 2, 3, 5, "constant")
    assert told[REFERENCE] == (1, 10, None, 0, "constant")
    assert told["parallel groups only"] == (10, 10, None, 0, "constant")
    assert told["early dropping only"] == (1, 2, 3, 8, "constant")
    assert told["growing rounds only"] == (1, 1, None, 9, "growing")
    assert told["adaptive rounds only"] == (1, 1, None, 9, "adaptive")
    assert told[UNINFLATED] == told[CENTRAL] == (1, 7, None, 0, "constant")
    assert {
        (own.entrants, own.rounds) for name, own in sections.items() if name.startswith(OURS) and "without" not in name
    } == {(10, 7)}


def test_without_rows_that_decide_the_others_the_bench_says_which(tmp_path):
    with pytest.raises(BenchError, match="no row of `rounds`"):
        _run(Sitting(tmp_path, runs=False), [OURS], Result("search_cost", {}, {}, [], []))
