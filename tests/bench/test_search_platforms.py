import math

import pytest

from bench import search_cost
from bench.search_comparison import over_limit
from bench.search_measured import PROFILES
from bench.search_platforms import DEFAULT, FLEET, LIMITS, cost_row, platforms
from bench.search_runs import Sitting, replace_lines
from device_runtime.specs import ExampleSpec
from pipeline.run_file import parse_run_file
from pipeline.searching.choices import space_of
from profiles.catalogue import load_profile
from search.cost import cost_of
from search.pruning import scale_widths
from tests.bench.conftest import BOTH, row

DIGITS = search_cost.RUN_FILE.read_text(encoding="utf-8")


def test_costs_are_compared_by_geometric_means_and_limits_by_the_platforms_class():
    run_file = DIGITS.replace("[budgets.default]\nlatency_ms = 0.9077", LIMITS[2])
    ones, twos = ([{**row({("redmi-note-4",): 0.5, ("pixel-4",): 0.5}, s, cost * (s + 1)), "run_file": run_file}
                   for s in range(2)] for cost in (10, 12))  # fmt: skip
    found = cost_row("2 platforms", [*zip(twos, ones, strict=True)])
    assert found["ratios"] == pytest.approx({"client_rounds": 1, "client_seconds": 1.2, "bytes": 1})
    assert found["over_limit"] == 0
    slow = twos[0]
    for model in slow["models"]:
        model["latency_ms"] = {"redmi-note-4": 1.0, "pixel-4": 0.4, "pixel-2-xl": math.inf}
    assert over_limit(slow) == 2
    slow["models"][0]["platforms"] = ["pixel-2-xl"]  # of a class without a limit
    assert over_limit(slow) == 1


@pytest.mark.parametrize("key", ["client_rounds", "client_seconds", "bytes"])
@pytest.mark.parametrize(("times", "is_met"), [(1.29, True), (1.31, False)])
def test_more_platforms_may_cost_1_3_times_what_one_does(stub_runs, tmp_path, key, times, is_met):
    def run(task):
        found = row({BOTH: 0.5}, task.seed)
        is_dear = task.method == "fednas, 4 platforms"
        return {**found, "search": found["search"] | {key: found["search"][key] * times}} if is_dear else found

    asked = stub_runs(run)
    found, bars = platforms(Sitting(tmp_path))
    assert [one["ratios"][key] for one in found] == pytest.approx([1, 1, times, 1, 1, 1])
    assert [bar.name for bar in bars if not bar.met] == (
        [] if is_met else [f"fednas, 4 platforms: {key} of the search beside one"]
    )
    assert {task.seed for task in asked} == {*range(20)}  # as many as all on digits has


def test_the_mean_of_ratios_is_geometric_and_has_an_interval_where_there_are_two():
    ones, others = ([{**row({BOTH: 0.5}, s, cost), "run_file": DIGITS} for s, cost in enumerate(costs)]
                    for costs in ((20.0, 5.0), (10.0, 10.0)))  # fmt: skip
    pairs = [*zip(ones, others, strict=True)]
    found = cost_row("twice and half", pairs)
    assert found["ratio"] == pytest.approx(1)
    ends = found["ratio_intervals"]["client_seconds"]
    assert ends["high"] == pytest.approx(1 / ends["low"]) == pytest.approx(math.exp(12.7062 * math.log(2)), rel=1e-4)
    assert found["ratio_intervals"]["bytes"] == pytest.approx({"mean": 1, "low": 1, "high": 1})
    assert cost_row("one", pairs[:1])["ratio_intervals"]["bytes"] == {"mean": 1, "low": None, "high": None}


def test_a_network_over_its_platforms_limit_does_not_meet_the_bar(stub_runs, tmp_path):
    slow = row({BOTH: 0.5})
    slow["models"][0]["latency_ms"] = {"redmi-note-4": 0.8, "pixel-4": 0.18}  # the latter is without a limit once
    stub_runs(lambda task: slow)
    found, (*_, over) = platforms(Sitting(tmp_path))
    assert [one["over_limit"] for one in found] == [0, 20, 20] * 2
    assert (over.value, over.met) == (80, False)


def test_the_fleet_of_all_numbers_of_platforms_is_the_same_and_so_many_have_a_limit(stub_runs, tmp_path):
    asked = stub_runs(lambda task: row({BOTH: 0.5}, task.seed))
    platforms(Sitting(tmp_path, num_seeds=1))
    runs = {task.method: parse_run_file(task.run_file) for task in asked}
    pruning = [run.search for run in runs.values() if run.search.algorithm == "fednas"]
    assert {(one.first_reduction, one.groups, one.keep) for one in pruning} == {(0.1, 10, 3)}
    assert (len(runs), len(pruning)) == (6, 3)
    assert {run.fleet.profiles for run in runs.values()} == {("redmi-note-4", "pixel-2-xl", "galaxy-s9", "pixel-4")}
    limited = {
        name: [one for one in run.fleet.profiles if load_profile(one).device_class in run.budgets]
        for name, run in runs.items()
    }
    assert [len(phones) for phones in limited.values()] == [1, 2, 4] * 2


def test_every_platform_has_30_percent_of_what_the_largest_network_needs_on_the_slowest_of_its_class():
    run = parse_run_file(replace_lines(DIGITS, {PROFILES: FLEET, DEFAULT: LIMITS[4]}))
    largest = space_of(run, ExampleSpec((1, 8, 8), tuple("0123456789"))).largest()
    needs = {"entry": [], "mid": [], "high": []}
    for profile in map(load_profile, run.fleet.profiles):
        needs[profile.device_class].append(cost_of(largest, profile, 8).latency_ms)
        narrowest = cost_of(scale_widths(largest, 4 / 96), profile, 8)
        assert narrowest.latency_ms < run.budgets[profile.device_class].latency_ms
    assert {name: budget.latency_ms for name, budget in run.budgets.items()} == {
        name: round(0.3 * max(own), 4) for name, own in needs.items()
    }
