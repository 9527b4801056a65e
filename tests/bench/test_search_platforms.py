import math

import pytest

from bench import search_cost
from bench.search_comparison import over_limit
from bench.search_platforms import LIMITS, PHONES, cost_row, fleet_of, mean_rows, platforms
from bench.search_runs import Sitting, replace_lines
from device_runtime.specs import ExampleSpec
from pipeline.run_file import parse_run_file
from pipeline.searching.choices import space_of
from profiles.catalogue import load_profile
from search.cost import cost_of
from search.pruning import scale_widths
from tests.bench.conftest import BOTH, row

RACED = ["nested_race, 2 platforms", "nested_race, 4 platforms"]
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
@pytest.mark.parametrize("dear", ["fednas, 4 platforms", "nested_race, 2 platforms"])
def test_more_platforms_may_cost_1_3_times_what_one_does(stub_runs, tmp_path, key, times, is_met, dear):  # noqa: PLR0917
    def run(task):
        found = row({BOTH: 0.5}, task.seed)
        own = times if task.method == dear else 1
        return {**found, "search": found["search"] | {key: found["search"][key] * own}}

    asked = stub_runs(run)
    found, bars = platforms(Sitting(tmp_path))
    names = [*(f"fednas, {n}" for n in ("1 platform", "2 platforms", "4 platforms")), *RACED]
    assert [one["method"] for one in found] == names
    assert [one["ratios"][key] for one in found] == pytest.approx([times if name == dear else 1 for name in names])
    assert [bar.name for bar in bars if not bar.met] == ([] if is_met else [f"{dear}: {key} of the search beside one"])
    assert {task.seed for task in asked} == {*range(5)}


def test_one_platform_of_ours_is_the_mean_of_fleets_of_one_kind_of_phone(stub_runs, tmp_path):
    costs = {"redmi-note-4": 10.0, "pixel-4": 2.0, "pixel-2-xl": 4.0, "galaxy-s9": 4.0}

    def run(task):
        kind = task.method.removeprefix("nested_race, ").removesuffix(" alone")
        return row({BOTH: 0.5}, task.seed, costs.get(kind, 6.0))

    stub_runs(run)
    found, _ = platforms(Sitting(tmp_path))
    assert [one["ratio"] for one in found[3:]] == pytest.approx([6 / 6, 6 / 5])
    assert mean_rows([[row({}, 0, 1.0), row({}, 1, 2.0)], [row({}, 1, 4.0)]]) == [
        {"seed": 1, "search": {"client_rounds": 4, "client_seconds": 3.0, "bytes": 2e6}}
    ]


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
    stub_runs(lambda task: {**slow, "seed": task.seed})
    found, (*_, over) = platforms(Sitting(tmp_path))
    assert [one["over_limit"] for one in found] == [0, 5, 5, 5, 5]
    assert (over.value, over.met) == (5 * (2 + 2 + 4), False)  # the fleets of one kind of phone are looked at, too


def test_fednas_trains_on_the_same_phones_whatever_has_a_limit_and_a_race_on_those_that_have_one(stub_runs, tmp_path):
    asked = stub_runs(lambda task: row({BOTH: 0.5}, task.seed))
    platforms(Sitting(tmp_path, num_seeds=1))
    runs = {task.method: parse_run_file(task.run_file) for task in asked}
    limited = {
        name: [one for one in run.fleet.profiles if load_profile(one).device_class in run.budgets]
        for name, run in runs.items()
    }
    pruning = {name: run for name, run in runs.items() if run.search.algorithm == "fednas"}
    assert {(run.search.first_reduction, run.search.groups, run.search.keep) for run in pruning.values()} == {
        (0.1, 10, 3)
    }
    assert {frozenset(run.fleet.profiles) for run in pruning.values()} == {frozenset(PHONES)}
    assert [len(limited[name]) for name in pruning] == [1, 2, 4]
    racing = {name: run for name, run in runs.items() if name not in pruning}
    assert all([*run.fleet.profiles] == limited[name] for name, run in racing.items())
    assert {name: limited[name] for name in RACED} == {RACED[0]: [*PHONES[:2]], RACED[1]: [*PHONES]}
    assert [limited[name] for name in racing if name not in RACED] == [[phone] for phone in PHONES]
    of_class = {name: limits.latency_ms for name, limits in racing[RACED[1]].budgets.items()}
    assert all(limits.latency_ms == of_class[one] for run in runs.values() for one, limits in run.budgets.items())


def test_every_platform_has_30_percent_of_what_the_largest_network_needs_on_the_slowest_of_its_class():
    run = parse_run_file(replace_lines(DIGITS, fleet_of(PHONES, 4)))
    largest = space_of(run, ExampleSpec((1, 8, 8), tuple("0123456789"))).largest()
    needs = {"entry": [], "mid": [], "high": []}
    for profile in map(load_profile, run.fleet.profiles):
        needs[profile.device_class].append(cost_of(largest, profile, 8).latency_ms)
        narrowest = cost_of(scale_widths(largest, 4 / 96), profile, 8)
        assert narrowest.latency_ms < run.budgets[profile.device_class].latency_ms
    assert {name: budget.latency_ms for name, budget in run.budgets.items()} == {
        name: round(0.3 * max(own), 4) for name, own in needs.items()
    }
