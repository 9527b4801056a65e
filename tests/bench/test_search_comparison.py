from math import exp, log

import pytest

from bench.search_comparison import (
    Comparison,
    analytic_rounds,
    candidates_of_steps,
    difference,
    is_counted,
    limits_bar,
    paired,
    summary,
)
from bench.search_cost import OURS, REFERENCE
from search.candidate import NOT_ASKED
from tests.bench.conftest import COUNTS, a_row, of_seeds


def test_a_difference_has_its_mean_in_its_interval_and_its_bound_above_the_lower_end():
    gap = difference([0.9, 0.8, 0.85], [0.8, 0.8, 0.8])
    assert gap["mean"] == pytest.approx(0.05)
    # Student's t with two degrees of freedom, 4.303 and 2.920, times the standard error 0.05 / sqrt(3).
    assert gap["low"] == pytest.approx(0.05 - 4.303 * 0.05 / 3**0.5, abs=1e-4)
    assert gap["high"] == pytest.approx(0.05 + 4.303 * 0.05 / 3**0.5, abs=1e-4)
    assert gap["bound"] == pytest.approx(0.05 - 2.920 * 0.05 / 3**0.5, abs=1e-4)


def test_the_analytic_count_is_the_formula_step_by_step():
    assert candidates_of_steps(a_row("fednas", 0, 0.5)) == [3, 2]
    assert analytic_rounds(a_row("fednas", 0, 0.5)) == COUNTS["fednas"]
    assert analytic_rounds(a_row(REFERENCE, 0, 0.5)) == COUNTS[REFERENCE]
    more = a_row("fednas", 0, 0.5)
    more["steps"].insert(4, [99, 0, 2, None, 0.5, ""])  # a fourth candidate of the first step, which does not go on
    assert analytic_rounds(more) == COUNTS["fednas"] + 3 * 2


def test_a_candidate_counts_by_the_clients_of_its_own_group():
    row = a_row("fednas", 0, 0.5)
    row["steps"][1][3], row["steps"][4][3] = 2, 4  # of 30 clients a tenth is 3: one less for 2 rounds, one more for 5
    assert analytic_rounds(row) == COUNTS["fednas"] - 2 + 5


@pytest.mark.parametrize(
    ("clients", "counted"),
    [
        ([3] * 10, True),
        ([2, 4, *[3] * 8, 2, 4], True),  # an eleventh candidate trains on the first group again
        ([2, 4, *[3] * 8, 3], False),
        ([3] * 9, True),
        ([3] * 8 + [6], False),  # nobody is left for the tenth group
        ([3] * 9 + [4], False),
        ([30] * 10, False),  # everybody in each
    ],
)
def test_groups_are_parts_of_the_clients_where_the_ledger_is_taken_for_counted(clients, counted):
    row = a_row("fednas", 0, 0.5)
    row["steps"] = [[0, None, 0, None, 0.5, ""], *([i, 0, 2, n, 0.5, ""] for i, n in enumerate(clients, 1))]
    row["steps"] += [[20 + i, i, 5, clients[i - 1], 0.5, ""] for i in (1, 2, 3)]
    row["search"]["client_rounds"] = 2 * sum(clients) + 5 * sum(clients[:3])
    assert is_counted(row) == counted
    row["search"]["client_rounds"] += 1
    assert not is_counted(row)


def test_times_less_are_a_geometric_mean_over_seeds_with_an_interval():
    ours, others = of_seeds("fednas", [0.8, 0.9], client_seconds=1.0), of_seeds(REFERENCE, [0.8, 0.9])
    for row, seconds in zip(others, (2.0, 8.0), strict=True):
        row["search"]["client_seconds"] = seconds
    one = Comparison("fednas", REFERENCE, tuple(paired(ours, others)))
    told = one.times_less("search")
    assert told["client_seconds"]["mean"] == pytest.approx(4.0)
    assert told["client_seconds"]["high"] == pytest.approx(4.0 * exp(12.7062 * log(2)), rel=1e-4)  # t of one degree
    assert told["bytes"] == pytest.approx({"mean": 1, "low": 1, "high": 1})
    ours[0]["search"]["client_seconds"] = 0.0  # in one seed alone: a mean of ratios has no end
    assert {*one.times_less("search")["client_seconds"].values()} == {None}


def test_a_summary_has_means_and_every_runs_failed_trials():
    rows = of_seeds(OURS, [0.8, 0.9], client_seconds=2.0)
    rows[1]["steps"][2][-1] = "too few reports"
    rows[1]["steps"][3][-1] = NOT_ASKED
    told = summary(OURS, rows)
    assert (told["test_accuracy"], told["client_seconds"], told["total_seconds"]) == (0.85, 2.0, 10.0)
    assert [run["failed_trials"] for run in told["runs"]] == [0, 1]
    assert {run["commit"] for run in told["runs"]} == {"abc"}
    assert "K of each step" not in told["runs"][0]
    assert summary("fednas", of_seeds("fednas", [0.8]))["runs"][0]["K of each step"] == [3, 2]
    growing = "growing rounds only"  # begins with one round more, as many as before it: no step's candidates stand out
    assert "K of each step" not in summary(growing, of_seeds(growing, [0.8]))["runs"][0]


@pytest.mark.parametrize(("latency_ms", "met"), [(0.907, True), (0.908, False)])
def test_a_network_over_the_limit_of_all_classes_misses_the_bar_of_limits(latency_ms, met):
    row = a_row(OURS, 0, 0.9)
    row["models"][0] |= {"platforms": ["redmi-note-4"], "latency_ms": {"redmi-note-4": latency_ms}}
    bar = limits_bar([row])
    assert (bar.value, bar.met) == (0 if met else 1, met)
