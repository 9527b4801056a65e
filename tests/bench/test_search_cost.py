from math import inf

import pytest

from bench.search_cost import (
    APART,
    BARS,
    MOST_ROUNDS,
    REFERENCE,
    RULE,
    RUN_FILE,
    SEEDS,
    compare,
    difference,
    full_rounds,
    methods,
    swapped_pairs,
)
from bench.search_runs import tasks_of


def a_row(seed, accuracy, *, client_rounds=10, client_seconds=2.0, num_bytes=100, steps=()):
    costs = {"client_rounds": client_rounds, "client_seconds": client_seconds, "bytes": num_bytes}
    models = [{"test_accuracy": accuracy, "latency_ms": {"a": 1.0}}]
    final = {"client_rounds": 40, "client_seconds": 8.0, "bytes": 400}
    return {"seed": seed, "search": costs, "final": final, "models": models, "steps": list(steps)}


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


@pytest.mark.parametrize(("turned", "full"), [((), 5), ((5,), 10), ((10,), 20), ((5, 20), 20), ((40,), 5)])
def test_the_straightforward_search_trains_until_twice_as_long_swaps_at_most_one_pair(turned, full):
    found, swaps = full_rounds([curves_turned_round_at(turned)] * len(APART))
    assert found == full
    assert list(swaps) == ["5 to 10", "10 to 20", "20 to 40"]


def test_a_difference_has_its_mean_in_its_interval_and_its_bound_above_the_lower_end():
    gap = difference([0.9, 0.8, 0.85], [0.8, 0.8, 0.8])
    assert gap["mean"] == pytest.approx(0.05)
    # Student's t with two degrees of freedom, 4.303 and 2.920, times the standard error 0.05 / sqrt(3).
    assert gap["low"] == pytest.approx(0.05 - 4.303 * 0.05 / 3**0.5, abs=1e-4)
    assert gap["high"] == pytest.approx(0.05 + 4.303 * 0.05 / 3**0.5, abs=1e-4)
    assert gap["bound"] == pytest.approx(0.05 - 2.920 * 0.05 / 3**0.5, abs=1e-4)


def of_seeds(accuracies, **costs):
    return [a_row(seed, accuracy, **costs) for seed, accuracy in enumerate(accuracies)]


def test_costs_are_compared_by_what_the_other_costs_more_and_nothing_is_infinitely_less():
    rows = {
        REFERENCE: of_seeds([0.8, 0.9], client_seconds=40.0, steps=[[0, None, 2, 5, 0.5, ""]]),
        "fednas": of_seeds([0.8, 0.9], client_seconds=2.0, steps=[[0, None, 2, 5, 0.5, ""]]),
        "uniform width": of_seeds([0.8, 0.9], client_rounds=0, client_seconds=0.0, num_bytes=0),
    }
    found = {row["method"]: row for row in compare(rows, full=10)[0]}
    assert found[f"fednas against {REFERENCE}"]["times less in the search"]["client_seconds"] == pytest.approx(20)
    assert found[f"fednas against {REFERENCE}"]["with final training"]["client_seconds"] == pytest.approx(4.8)
    assert found["uniform width against fednas"]["times less in the search"]["bytes"] is None  # JSON knows no infinity
    assert found["fednas against uniform width"]["times less in the search"]["bytes"] == 0


@pytest.mark.parametrize(
    ("counted", "seconds", "gap", "missed"),
    [
        (10, 1.9, 0.0, {"paired seeds"}),
        (11, 1.9, 0.0, {"paired seeds", "analytic count"}),
        (10, 2.1, 0.0, {"paired seeds", "client_seconds"}),
        (10, 1.9, 0.02, {"paired seeds", "95% bound"}),
    ],
)
def test_each_bar_of_fednas_is_missed_by_what_it_is_about(counted, seconds, gap, missed):
    ours = of_seeds([0.8 - gap, 0.9 - gap], client_rounds=counted, client_seconds=seconds, num_bytes=1)
    for row in ours:
        row["steps"] = [[1, 0, 2, 5, 0.5, ""]]
    others = of_seeds([0.8, 0.9], client_rounds=60, client_seconds=40.0, num_bytes=21)
    for row in others:
        row["steps"] = [[1, 0, 2, None, 0.5, ""]]
    bars = [bar for bar in compare({REFERENCE: others, "fednas": ours}, full=10)[1] if not bar.met]
    assert all(any(word in bar.name for bar in bars) for word in missed)
    assert len(bars) == len(missed)


def test_a_method_that_costs_nothing_is_infinitely_cheaper():
    free = {"client_rounds": 0, "client_seconds": 0.0, "num_bytes": 0}
    rows = {REFERENCE: of_seeds([0.8, 0.9]), "nested_race": of_seeds([0.8, 0.9], **free)}
    cheaper = [bar for bar in compare(rows, full=10)[1] if "times fewer" in bar.name]
    assert [bar.value for bar in cheaper] == [inf, inf]
    assert all(bar.met for bar in cheaper)


def test_every_method_makes_a_run_file_of_its_own():
    chosen = [method for method, _ in methods(10)]
    tasks = tasks_of(RUN_FILE.read_text(encoding="utf-8"), [*chosen, RULE], [3])
    assert [task.method for task in tasks] == [one.name for one in (*chosen, RULE)]
    assert len({task.run_file for task in tasks}) == len(tasks)


def test_claims_rest_on_all_seeds():
    counts = {method.name: count for method, count in methods(10)}
    assert {name for names in BARS for name in names if counts[name] < len(SEEDS)} == {
        "centralised netadapt",
        "fednas, iid",
    }
