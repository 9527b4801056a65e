from pathlib import Path

import pytest

from bench import search_cifar
from bench.search_cifar import (
    RUN_FILE,
    SEARCHES,
    TUNED,
    UNIFORM,
    better_control,
    cifar,
    methods,
    model_of,
    on_platform,
)
from bench.search_comparison import last_gain
from bench.search_cost import ALONE, OURS
from bench.search_runs import Sitting, tasks_of
from device_runtime.specs import ExampleSpec
from pipeline.run_file import parse_run_file
from pipeline.searching.choices import space_of
from profiles.catalogue import load_profile
from search.cost import cost_of
from search.layers import num_parameters
from search.pruning import scale_widths
from tests.bench.conftest import BOTH, FLAT, RISING, row

LATER = [UNIFORM, TUNED, OURS, ALONE]


def rows_of_methods():
    ours = [row({BOTH[:1]: 0.1, BOTH[1:]: accuracy}, seed) for seed, accuracy in enumerate((0.6, 0.8))]
    control = [row({BOTH: accuracy}, seed) for seed, accuracy in enumerate((0.5, 0.6))]
    tuned = [row({BOTH[:1]: 0.9, BOTH[1:]: accuracy}, seed) for seed, accuracy in enumerate((0.2, 0.7))]
    for one in tuned:  # its curve of redmi-note-4 is the flat one, 0.5, that of pixel-4 ends at 0.39
        one["final_curves"] = {"0": FLAT, "1": RISING}
    for one in control:
        one["final_curves"] = {"0": [0.45] * 40}
    ranked = [row({BOTH: accuracy}, seed) for seed, accuracy in enumerate((0.5, 0.8))]
    return {UNIFORM: control, TUNED: tuned, "ours": ours, ALONE: ranked}


def test_the_costs_are_of_the_search_of_final_training_and_of_both():
    found = on_platform("ours", rows_of_methods(), "pixel-4")
    assert [found[f"{part}client_seconds"] for part in ("", "final_", "total_")] == [10, 7, 17]
    assert [found[f"{part}megabytes"] for part in ("", "final_", "total_")] == [2, 5, 7]


def test_a_method_is_compared_with_uniform_width_on_each_platform_by_seed():
    found = on_platform("ours", rows_of_methods(), "pixel-4")
    assert found["test_accuracy"] == pytest.approx(0.7)
    assert found["difference"] == found["paired"]["mean"] == pytest.approx(0.15)
    assert found["paired"]["high"] - 0.15 == pytest.approx(12.7062 * 0.05, rel=1e-4)
    assert (found["latency_ms"], found["seeds"]) == (pytest.approx(0.1505), 2)
    assert found["test_accuracy_interval"]["mean"] == pytest.approx(0.7)


def test_the_better_uniform_width_of_a_platform_is_its_control():
    rows = rows_of_methods()
    assert [better_control(rows, platform) for platform in BOTH] == [TUNED, UNIFORM]
    found = on_platform("ours", rows, "redmi-note-4")
    assert (found["difference"], found["beside"]) == (pytest.approx(-0.8), TUNED)
    assert on_platform(TUNED, rows, "pixel-4")["difference"] == pytest.approx(-0.1)
    assert "difference" not in on_platform(TUNED, rows, "redmi-note-4")
    assert "difference" not in on_platform(UNIFORM, rows, "pixel-4")


def test_a_search_is_compared_with_the_servers_ranking_alone():
    found = on_platform("ours", rows_of_methods(), "pixel-4")
    assert found["over the ranking alone"]["mean"] == pytest.approx(0.05)
    assert "over the ranking alone" not in on_platform(ALONE, rows_of_methods(), "pixel-4")


def test_the_last_gain_is_of_the_last_ten_rounds_of_the_platforms_network():
    shipped = row({BOTH[:1]: 0.5, BOTH[1:]: 0.5})
    assert [last_gain(shipped, model_of(shipped, platform)) for platform in BOTH] == [0, pytest.approx(0.1)]
    assert on_platform("ours", rows_of_methods(), "pixel-4")["last_gain"] == pytest.approx(0.1)


def test_the_learning_rate_of_one_control_is_tuned_in_the_run_and_all_methods_know_both_platforms():
    text = RUN_FILE.read_text(encoding="utf-8")
    tasks = tasks_of(text, methods(10, text), [0])
    runs = {task.method: parse_run_file(task.run_file) for task in tasks}
    assert [name for name, run in runs.items() if len(run.training.learning_rate) > 1] == [TUNED]
    assert runs[TUNED].search.rounds == 20
    assert {run.fleet.profiles for run in runs.values()} == {("redmi-note-4", "pixel-4")}
    assert (runs["straightforward"].search.pretrain_rounds, runs["straightforward"].search.groups) == (10, 1)


def test_the_methods_of_cifar_have_the_fixed_settings_and_the_control_rates_around_the_given_one():
    text = RUN_FILE.read_text(encoding="utf-8")
    runs = {task.method: parse_run_file(task.run_file) for task in tasks_of(text, methods(20, text), [0])}
    searches = {name: run.search for name, run in runs.items()}
    pruning = [searches[name] for name in ("random pruning", "fednas", "straightforward")]
    assert {(one.first_reduction, one.decay) for one in pruning} == {(0.2, 0.96)}
    fednas = searches["fednas"]
    assert (fednas.groups, fednas.pretrain_rounds, fednas.keep, fednas.rounds) == (10, 2, 3, 5)
    assert (searches["straightforward"].keep, searches["straightforward"].rounds) == (None, 0)
    assert [searches[name].entrants for name in ("nested_race", "nested_race without a race")] == [10, 1]
    drawn = searches["random search"]
    assert (drawn.trials, drawn.rounds, max(runs["random search"].space.widths)) == (20, 7, 64)
    (given,) = runs[UNIFORM].training.learning_rate
    assert min(runs[TUNED].training.learning_rate) < given < max(runs[TUNED].training.learning_rate)
    assert {(run.final.rounds, run.final.start, run.data.clients, run.data.alpha) for run in runs.values()} == {
        (40, "fresh", 100, 0.5)
    }


def test_uniform_width_16_is_the_widest_within_the_limits_of_cifar():
    text = RUN_FILE.read_text(encoding="utf-8")
    run = parse_run_file(text)
    largest = space_of(run, ExampleSpec((3, 16, 16), tuple("0123456789"))).largest()
    assert num_parameters(scale_widths(largest, 16 / 64)) <= 50_000
    for name in run.fleet.profiles:
        profile = load_profile(name)
        limit = run.budgets[profile.device_class].latency_ms
        needs = [cost_of(scale_widths(largest, width / 64), profile, 8).latency_ms for width in (16, 24)]
        assert needs[0] <= limit < 1.01 * needs[0]
        assert needs[1] > limit
        full = cost_of(largest, profile, 8).latency_ms
        assert f"latency_ms = {limit}  # {limit / full:.1%} of the largest network's" in text
        assert f"{cost_of(scale_widths(largest, 4 / 64), profile, 8).latency_ms / full:.1%}" in text


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """The path of an archive; what is made of it is told."""
    written = []
    monkeypatch.setattr(search_cifar, "write_npz", lambda *paths: written.append(paths))
    archive = tmp_path / "photographs.tar.xz"
    archive.touch()
    return archive, written


def validated(task):
    """A run whose networks are tested the worse the better they are validated."""
    order = [SEARCHES[1], SEARCHES[0], SEARCHES[4], SEARCHES[3], SEARCHES[2]]
    place = order.index(task.method) if task.method in order else 9
    found = row({BOTH[:1]: 0.5 + 0.01 * place, BOTH[1:]: 0.5 + 0.01 * place}, task.seed)
    near, far = ([0.5 - 0.01 * one] * 40 for one in (place, -place))
    return {**found, "final_curves": {"0": near, "1": far if task.method in order else [0.99] * 40}}


def test_every_method_of_cifar_runs_on_three_seeds_and_has_a_row_for_each_platform(stub_runs, photographs, tmp_path):
    archive, written = photographs
    asked = stub_runs(validated)
    rows, _ = cifar(Sitting(tmp_path), 20, archive)
    assert written == [(archive, Path("runs/cifar10-20k.npz"))]
    later = [task for task in asked if task.seed > 2]
    assert [(task.method, task.seed) for task in later] == [(name, seed) for name in LATER for seed in (3, 4, 5)]
    asked = [task for task in asked if task.seed < 3]
    names = list(dict.fromkeys(task.method for task in asked))
    assert {parse_run_file(task.run_file).data.source for task in asked} == {"npz:runs/cifar10-20k.npz"}
    assert names[-1] == "straightforward"
    assert [(task.method, task.seed) for task in asked] == [(name, seed) for name in names for seed in range(3)]
    told = [*names, *(f"{name}, later seeds" for name in LATER)]
    assert [(one["method"], one["platform"]) for one in rows[:-2]] == [
        (name, one) for name in told for one in sorted(BOTH)
    ]
    assert {(one["seeds"], one["R_full"]) for one in rows} == {(3, 20)}


def test_the_best_found_network_is_chosen_among_searches_on_validation(stub_runs, photographs, tmp_path):
    stub_runs(validated)
    rows, _ = cifar(Sitting(tmp_path), 10, photographs[0])
    assert [(one["method"], one["platform"], one["test_accuracy"]) for one in rows[-2:]] == [
        ("best found: fednas", "pixel-4", pytest.approx(0.54)),
        ("best found: nested_race without a race", "redmi-note-4", pytest.approx(0.5)),
    ]
    assert all(one["beside"] == UNIFORM and one["difference"] < 0 for one in rows[-2:])


def test_later_seeds_have_rows_of_their_own_and_no_say_in_the_others(monkeypatch, photographs, tmp_path):
    def rows(self, tasks, run=None):
        return [
            {**vars(task), **row({BOTH: 0.5 + 0.1 * (task.method == OURS) + 0.2 * (task.seed > 2)}, task.seed)}
            for task in tasks
            if task.seed in seeds
        ]

    monkeypatch.setattr(Sitting, "rows", rows)
    seeds = range(6)
    found = {(one["method"], one["platform"]): one for one in cifar(Sitting(tmp_path), 20, photographs[0])[0]}
    for platform in BOTH:
        first, later = found[OURS, platform], found[f"{OURS}, later seeds", platform]
        assert [one["test_accuracy"] for one in (first, later)] == pytest.approx([0.6, 0.8])
        assert [one["difference"] for one in (first, later)] == pytest.approx([0.1, 0.1])
        assert first["over random search"]["mean"] == pytest.approx(0.1)
        assert "over random search" not in later
        assert found[f"best found: {OURS}", platform]["over random search"]["mean"] == pytest.approx(0.1)
    seeds = range(3, 6)
    names = [one["method"] for one in cifar(Sitting(tmp_path), 20, photographs[0])[0]]
    assert names == [*(f"{name}, later seeds" for name in LATER for _ in BOTH), "not run"]


def test_a_method_that_has_run_on_some_seeds_alone_is_set_beside_the_same_ones_and_one_without_is_named(
    monkeypatch, photographs, tmp_path
):
    of_seed = {0: 0.5, 1: 0.6, 2: 0.7}
    seeds_of = {"straightforward": 1, "fednas": 0}

    def rows(self, tasks, run=None):
        made = []
        for task in tasks:
            if task.seed < seeds_of.get(task.method, 3):
                gain = 0.2 * (task.method == "straightforward")
                own = row(dict.fromkeys((BOTH[:1], BOTH[1:]), of_seed[task.seed] + gain), task.seed)
                curves = dict.fromkeys("01", [of_seed[task.seed] + gain] * 40)
                made.append({**vars(task), **own, "final_curves": curves})
        return made

    monkeypatch.setattr(Sitting, "rows", rows)
    found, _ = cifar(Sitting(tmp_path), 20, photographs[0])
    reference = [one for one in found if one["method"] == "straightforward"]
    assert [(one["seeds"], one["difference"]) for one in reference] == [(1, pytest.approx(0.2))] * 2
    assert found[-1]["names"] == ["fednas"]
    best = [one["method"] for one in found if one["method"].startswith("best")]
    assert best == ["best found: nested_race"] * 2  # the reference is better on the one seed it has


@pytest.mark.parametrize(
    ("need", "value", "over"),
    [
        ("size_kib", 195.2, 0),
        ("size_kib", 195.4, 2),
        ("memory_mib", 3.33, 0),
        ("memory_mib", 3.34, 2),
        ("latency_ms", 0.19, 1),
        ("latency_ms", 0.8, 2),
        ("training_step_ms", 99.0, 0),  # without a limit
    ],
)
def test_networks_of_cifar_must_keep_every_limit(stub_runs, photographs, tmp_path, need, value, over):  # noqa: PLR0917
    def shipped(task):
        found = row({BOTH[:1]: 0.5, BOTH[1:]: 0.5}, task.seed)
        for model in found["models"] if (task.method, task.seed) == (SEARCHES[0], 0) else ():
            model |= {need: dict.fromkeys(BOTH, value)}
        return found

    stub_runs(shipped)
    _, (bar,) = cifar(Sitting(tmp_path, num_seeds=1), 10, photographs[0])
    assert (bar.value, bar.met) == (over, over == 0)


def test_cifar_is_left_out_where_its_archive_is_absent(tmp_path):
    rows, bars = cifar(Sitting(tmp_path), 10, tmp_path / "absent.tar.xz")
    assert [(row["skipped"], bars) for row in rows] == [
        ("absent.tar.xz is not beside the project; it is no part of it", [])
    ]
    rows, _ = cifar(Sitting(tmp_path, runs=False), 10, tmp_path / "absent.tar.xz")
    assert [row["method"] for row in rows] == ["not run"]
