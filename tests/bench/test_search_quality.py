import io
import math
import signal
import tarfile
from itertools import permutations

import numpy as np
import pytest
from PIL import Image

from bench import search_cost
from bench.search_cost import LIMIT
from bench.search_fidelity import (
    SHORT,
    Fidelity,
    binomial_ceiling,
    compare,
    first_step,
    mean_scores,
    random_rankings,
    summary,
)
from bench.search_images import write_npz
from bench.search_processes import AWAY, FEDNAS, FINAL, HALF, PROFILES, kill_and_resume, measure_shipped, run_unbroken
from bench.search_quality import (
    CONTROL,
    DEFAULT,
    FLEET,
    LIMITS,
    RUN_FILE,
    TUNED,
    cifar,
    cost_row,
    methods,
    on_platform,
    over_limit,
)
from bench.search_runs import Method, Sitting, Task, replace_lines, tasks_of
from device_runtime.examples import SpecOverrides, open_source
from device_runtime.specs import ExampleSpec
from pipeline.run_file import parse_run_file
from pipeline.searching.choices import space_of
from profiles.catalogue import load_profile
from search.cost import cost_of
from search.layers import num_parameters
from search.pruning import scale_widths

DIGITS = search_cost.RUN_FILE.read_text(encoding="utf-8")
SMALL = {
    "widths = [96]": "widths = [24]",
    "max_stages = 9": "max_stages = 2",
    "clients = 30": "clients = 6",
    "cohort_size = 30\nmin_reports = 20": "cohort_size = 6\nmin_reports = 4",
    FINAL: "[final]\nrounds = 1",
}
SMALL_SEARCH = {**FEDNAS, "groups": 2, "keep": 2, "rounds": 1}
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


def row(accuracies, seed=0, client_seconds=10.0):
    """A run with a network for each platform; two that are named together share one."""
    models = [
        {
            "platforms": list(names),
            "trial": i,
            "test_accuracy": accuracy,
            "num_parameters": 100,
            "latency_ms": {"redmi-note-4": 0.8, "pixel-4": 0.2},
        }
        for i, (names, accuracy) in enumerate(accuracies.items())
    ]
    search = {"client_rounds": 4, "client_seconds": client_seconds, "bytes": 2e6}
    return {"seed": seed, "search": search, "final": search, "models": models, "num_trials": 1}


def test_a_method_is_compared_with_uniform_width_on_each_platform_by_seed():
    both = ("redmi-note-4", "pixel-4")
    control = [row({both: accuracy}, seed) for seed, accuracy in enumerate((0.5, 0.6))]
    ours = [row({both[:1]: 0.1, both[1:]: accuracy}, seed) for seed, accuracy in enumerate((0.6, 0.8))]
    found = on_platform("ours", ours, control, "pixel-4")
    assert found["test_accuracy"] == pytest.approx(0.7)
    assert found["difference"] == found["paired"]["mean"] == pytest.approx(0.15)
    assert found["paired"]["high"] - 0.15 == pytest.approx(12.7062 * 0.05, rel=1e-4)
    assert (found["latency_ms"], found["seeds"], found["megabytes"]) == (0.2, 2, 2.0)
    assert on_platform("ours", ours, control, "redmi-note-4")["difference"] == pytest.approx(-0.45)
    assert "difference" not in on_platform(CONTROL, control, control, "pixel-4")


def test_costs_are_compared_by_geometric_means_and_limits_by_the_platforms_class():
    run_file = DIGITS.replace("[budgets.default]\nlatency_ms = 0.9077", LIMITS[2])
    ones, twos = ([{**row({("redmi-note-4",): 0.5, ("pixel-4",): 0.5}, s, cost * (s + 1)), "run_file": run_file}
                   for s in range(2)] for cost in (10, 12))  # fmt: skip
    found = cost_row("2 platforms", twos, ones)
    assert found["ratios"] == pytest.approx({"client_rounds": 1, "client_seconds": 1.2, "bytes": 1})
    assert found["over_limit"] == 0
    slow = twos[0]
    for model in slow["models"]:
        model["latency_ms"] = {"redmi-note-4": 1.0, "pixel-4": 0.4, "pixel-2-xl": math.inf}
    assert over_limit(slow) == 2
    slow["models"][0]["platforms"] = ["pixel-2-xl"]  # of a class without a limit
    assert over_limit(slow) == 1


def test_the_learning_rate_of_one_control_is_tuned_in_the_run_and_all_methods_know_both_platforms():
    text = RUN_FILE.read_text(encoding="utf-8").replace("{data}", "photographs.npz")
    tasks = tasks_of(text, methods(10, text), [0])
    runs = {task.method: parse_run_file(task.run_file) for task in tasks}
    assert [name for name, run in runs.items() if len(run.training.learning_rate) > 1] == [TUNED]
    assert {run.fleet.profiles for run in runs.values()} == {("redmi-note-4", "pixel-4")}
    assert (runs["straightforward"].search.pretrain_rounds, runs["straightforward"].search.groups) == (10, 1)


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


def test_cifar_is_left_out_where_its_archive_is_absent(tmp_path):
    rows, bars = cifar(Sitting(tmp_path), 10, tmp_path / "absent.tar.xz")
    assert [(row["skipped"], bars) for row in rows] == [
        ("absent.tar.xz is not beside the project; it is no part of it", [])
    ]


def test_an_archive_of_photographs_becomes_one_npz_of_small_ones(tmp_path):
    archive = tmp_path / "few.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        for name, grey in (("train/cat/1", 10), ("train/dog/1", 200), ("test/cat/2", 30), ("test/dog/2", 90)):
            data = io.BytesIO()
            Image.new("RGB", (32, 32), (grey,) * 3).save(data, "PNG")
            member = tarfile.TarInfo(f"few/{name}.png")
            member.size = data.tell()
            data.seek(0)
            tar.addfile(member, data)
    path = tmp_path / "few.npz"
    write_npz(archive, path)
    source = open_source(f"npz:{path}", SpecOverrides())
    assert (source.spec.shape, source.spec.labels, len(source.ids())) == ((3, 16, 16), ("cat", "dog"), 4)
    x, y = source.get(source.ids())
    red, blue = x[:, 0].mean((1, 2)) * 0.229 + 0.485, x[:, 2].mean((1, 2)) * 0.225 + 0.406
    assert sorted(zip(y.tolist(), (255 * red).round().tolist(), strict=True)) == [(0, 10), (0, 30), (1, 90), (1, 200)]
    np.testing.assert_allclose(red, blue, atol=1e-6)
    archive.unlink()
    write_npz(archive, path)  # what is there is not read again


@pytest.mark.parametrize(
    "settings",
    [SHORT, {PROFILES: AWAY, LIMIT: HALF, FINAL: "[final]\nrounds = 2"}, {PROFILES: FLEET, DEFAULT: LIMITS[4]}],
)
def test_the_settings_of_the_parts_on_digits_fit_its_run_file(settings):
    run = parse_run_file(replace_lines(DIGITS, settings))
    assert run != parse_run_file(DIGITS)
    assert run.search == parse_run_file(DIGITS).search


@pytest.mark.slow
def test_a_search_that_is_killed_and_resumed_comes_to_the_same_result(tmp_path):
    (task,) = tasks_of(
        DIGITS, [Method("unbroken", SMALL_SEARCH, {**SMALL, PROFILES: AWAY, LIMIT: "latency_ms = 0.25"})], [0]
    )
    unbroken = run_unbroken(task, tmp_path)
    killed = kill_and_resume(Task("killed", 0, task.run_file), tmp_path, unbroken["wall_s"])
    assert killed["exit_status"] == -signal.SIGKILL
    assert {name: killed[name] for name in ("result_sha256", "num_rounds")} == {
        name: unbroken[name] for name in ("result_sha256", "num_rounds")
    }


@pytest.mark.slow
def test_a_network_that_is_shipped_for_this_machine_is_timed_beside_the_largest(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "bench.search_processes.SHARE", 0.9
    )  # the smallest networks need most of their time whatever their width
    (task,) = tasks_of(DIGITS, [Method("measured", SMALL_SEARCH, SMALL)], [0])
    row = measure_shipped(task, tmp_path)
    shipped, largest = row["shipped"], row["largest"]
    assert 0 < shipped["predicted_ms"] <= row["limit_ms"] < largest["predicted_ms"]
    assert shipped["ratio"] == shipped["median_ms"] / row["limit_ms"]
    assert largest["min_ms"] > 0
