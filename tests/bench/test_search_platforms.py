import math

import pytest

from bench import search_cost
from bench.search_comparison import over_limit
from bench.search_platforms import LIMITS, PHONES, cost_row, mean_rows, method_of, platforms
from bench.search_runs import Sitting, replace_lines
from device_runtime.specs import ExampleSpec
from pipeline.run_file import parse_run_file
from pipeline.searching.choices import space_of
from profiles.catalogue import load_profile
from search.cost import cost_of
from search.pruning import scale_widths
from tests.bench.conftest import BOTH, row

SHARED = ["fednas, 2 platforms", "fednas, 4 platforms", "nested_race, 2 platforms", "nested_race, 4 platforms"]
DIGITS = search_cost.RUN_FILE.read_text(encoding="utf-8")


def test_costs_are_compared_by_geometric_means_and_limits_by_the_platforms_class():
    run_file = replace_lines(DIGITS, method_of("fednas", BOTH).settings)
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
    assert [one["method"] for one in found] == SHARED
    assert [one["ratios"][key] for one in found] == pytest.approx([times if name == dear else 1 for name in SHARED])
    assert [bar.name for bar in bars if not bar.met] == ([] if is_met else [f"{dear}: {key} of the search beside one"])
    assert {task.seed for task in asked} == {*range(5)}


@pytest.mark.parametrize("search", ["fednas", "nested_race"])
def test_one_platform_is_the_mean_of_passes_for_each_alone_and_the_dearest_of_them_is_told(stub_runs, tmp_path, search):
    costs = {"redmi-note-4": 10.0, "pixel-4": 2.0, "pixel-2-xl": 4.0, "pixel-6": 16.0}

    def run(task):
        kind = task.method.removeprefix(f"{search}, ").removesuffix(" alone")
        return row({BOTH: 0.5}, task.seed, costs.get(kind, 12.0))

    stub_runs(run)
    found, _ = platforms(Sitting(tmp_path))
    two, four = (one for one in found if one["method"].startswith(search))
    assert [two["ratio"], four["ratio"]] == pytest.approx([12 / 6, 12 / 8])
    assert [one["times the dearest alone"]["mean"] for one in (two, four)] == pytest.approx([12 / 10, 12 / 16])
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
    slow["models"][0]["latency_ms"] = {"redmi-note-4": 0.9, "pixel-4": 0.27}  # the latter is without a limit at times
    stub_runs(lambda task: {**slow, "seed": task.seed})
    found, (*_, over) = platforms(Sitting(tmp_path))
    assert [one["over_limit"] for one in found] == [5, 5, 5, 5]
    assert (over.value, over.met) == (2 * 5 * (1 + 2), False)  # passes for one platform are looked at, too


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
    racing = {name: run for name, run in runs.items() if name not in pruning}
    assert all([*run.fleet.profiles] == limited[name] for name, run in racing.items())
    for own in (pruning, racing):
        assert [limited[name] for name in own] == [*([one] for one in PHONES), [*PHONES[:2]], [*PHONES]]
    of_class = {name: limits.latency_ms for name, limits in runs[SHARED[1]].budgets.items()}
    assert all(limits.latency_ms == of_class[one] for run in runs.values() for one, limits in run.budgets.items())


def test_every_platform_has_a_class_and_a_limit_of_its_own_which_networks_of_another_size_fill():
    largest = space_of(parse_run_file(DIGITS), ExampleSpec((1, 8, 8), tuple("0123456789"))).largest()
    run = parse_run_file(replace_lines(DIGITS, method_of("fednas", PHONES).settings))
    width = {"redmi-note-4": 24, "pixel-2-xl": 32, "pixel-4": 40, "pixel-6": 48}
    needs = {
        profile.device_class: cost_of(scale_widths(largest, width[profile.name] / 96), profile, 8).latency_ms
        for profile in map(load_profile, run.fleet.profiles)
    }
    assert {name: budget.latency_ms for name, budget in run.budgets.items()} == pytest.approx(needs, abs=1e-4)
    assert len(needs) == len(LIMITS) == 4
