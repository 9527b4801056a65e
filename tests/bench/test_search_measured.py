import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import search_cost, search_measured
from bench.search_cost import ALONE, OURS
from bench.search_measured import (
    FEDNAS,
    FINAL,
    LARGEST,
    PHONE,
    SEARCHES,
    WORDS,
    Found,
    bars_of,
    measure_shipped,
    measured,
    run_handheld,
    step_memory,
    time_networks,
)
from bench.search_runs import Method, Sitting, tasks_of
from pipeline.compile.artifact import CompileRequest, compile_architecture
from pipeline.digits import open_digits
from pipeline.run_file import parse_run_file
from pipeline.run_result import ClassCost
from search.architecture import Architecture, Stem

DIGITS = search_cost.RUN_FILE.read_text(encoding="utf-8")
SMALL = {
    "widths = [96]": "widths = [24]",
    "max_stages = 9": "max_stages = 3",
    "clients = 30": "clients = 12",
    "cohort_size = 30": "cohort_size = 12",
    "min_reports = 20": "min_reports = 2",
    FINAL: "[final]\nrounds = 1",
}
SMALL_SEARCH = {**FEDNAS, "groups": 2, "keep": 2, "rounds": 1}
NAMES = [*SEARCHES, LARGEST]
FILLED = [f"{ALONE}, {limit} alone" for limit in WORDS]


def figures(**changed):
    """What a run came to, within all limits but where `changed` says a ratio."""

    def one(name, key):
        ratio = changed.get(name, 0.9)
        return {"limit": 2.0, key: 2.0 * ratio, "at the profile's speed": 2.0 * ratio, "ratio": ratio}

    return {
        "num_networks": changed.get("num_networks", 2),
        "here": {name: one(name, "measured") for name in WORDS},
        PHONE: {"latency_ms": one("on_phone", "predicted")},
    }


@pytest.mark.parametrize(
    "broken", [{}, {"num_networks": 1}, *({name: 1.01} for name in WORDS), {"on_phone": 1.01}, {"latency_ms": 1.0}]
)
def test_every_platform_has_a_network_of_its_own_that_keeps_its_limits(broken):
    missed = [bar for bar in bars_of("fednas", figures(**broken)) if not bar.met]
    assert len(missed) == sum(value > 1 if name != "num_networks" else value < 2 for name, value in broken.items())
    for name, bar in zip(broken, missed, strict=False):
        assert WORDS.get(name, "") in bar.name
        assert (PHONE in bar.name) == (name == "on_phone")


def test_every_search_has_its_bars_and_the_race_stands_beside_the_ranking_alone(stub_runs, tmp_path):
    asked = stub_runs(lambda task: {name: figures() for name in NAMES})
    (row,), bars = measured(Sitting(tmp_path))
    assert [task.method for task in asked] == ["two platforms"]  # not the name of rows that were kept of one platform
    assert len(bars) == len(SEARCHES) * (len(WORDS) + 2)
    entrants = {name: section.get("entrants") for name, (section, _) in SEARCHES.items()}
    assert entrants == {"fednas": None, OURS: 10, **dict.fromkeys(FILLED, 1)}
    assert "run_file" not in row


def test_the_shipped_model_and_the_gradient_graph_that_the_run_kept_are_timed_run_after_run(monkeypatch, tmp_path):
    folder = tmp_path / "models" / "4" / "artifact"
    compile_architecture(CompileRequest(Architecture((1, 8, 8), 10, Stem(1, 3, 4)), open_digits().spec, 8), folder)
    (tmp_path / "bundle-here").mkdir()
    shutil.copy(folder / "evaluate.onnx", tmp_path / "bundle-here" / "model.onnx")  # any graph of another size
    sizes, settled = [], []

    def time_interleaved(methods, rounds, warm_up, settle):
        settled.append(settle)
        for run in methods.values():
            run()
            sizes.append({one.name: tuple(one.shape) for one in run.__self__.session.get_inputs()})
        return {name: [float(len(settled)), 9.0, float(len(settled))] for name in methods}

    monkeypatch.setattr(search_measured, "time_interleaved", time_interleaved)
    found = time_networks({"fednas": Found(tmp_path, Result(), {})}, "here")
    assert [one["y"] for one in sizes] == [(8,), (8,)]
    assert ["max_grad_norm" in one for one in sizes] == [False, True]
    medians = [found["fednas"][limit]["measured"] for limit in ("latency_ms", "training_step_ms")]
    assert medians == [1.0, 2.0]
    assert min(settled) > 0


def cost(profile, **needs):
    given = {"latency_ms": 1.0, "training_step_ms": 10.0, "peak_memory_mib": 3.0, "size_kib": 1.0}
    return ClassCost(profile, "any", **{**given, **needs})


class Result:
    """Two models of a run: trial 4 is this machine's, trial 7 the phone's."""

    spec = SimpleNamespace(shape=(1, 8, 8))
    models = (4, 7)

    def model_for(self, platform):
        return SimpleNamespace(trial=7 if platform == PHONE else 4)

    def trial(self, index):
        latency_ms = {4: 1.0, 7: 0.5}[index]
        return SimpleNamespace(costs=[cost("this-machine", latency_ms=latency_ms), cost(PHONE, latency_ms=latency_ms)])


@pytest.fixture
def runs(monkeypatch):
    """Puts records in place of processes and of measurements."""
    commands = []
    largest = SimpleNamespace(latency_ms=2.0, training_step_ms=20.0, peak_memory_mib=4.0)
    profiles = {PHONE: SimpleNamespace(name=PHONE, device_class="entry")}
    here = SimpleNamespace(name="this-machine", device_class="desktop")
    monkeypatch.setattr(search_measured, "run_handheld", lambda *command: commands.append(command))
    monkeypatch.setattr(search_measured, "load_profile", lambda name: profiles.get(name, here))
    monkeypatch.setattr(search_measured, "cost_of", lambda *_: largest)
    monkeypatch.setattr(search_measured, "read_result", lambda folder: Result())
    # Just after the profile, and at the end, when everything takes longer: inference by 10%, a step by 25%.
    times = iter([(1.0, 12.0), (1.1, 15.0)])

    def time_networks(found, here):
        assert here == "this-machine"
        one = {limit: {"measured": ms, "median_ms": ms} for limit, ms in zip(WORDS, next(times), strict=False)}
        return dict.fromkeys(found, one)

    monkeypatch.setattr(search_measured, "time_networks", time_networks)
    monkeypatch.setattr(search_measured, "step_memory", lambda graph: {"measured": 2.3})
    return commands


def measure(folder, search=FEDNAS, settings=None):
    (task,) = tasks_of(DIGITS, [Method("measured", search, settings or {FINAL: "[final]\nrounds = 1"})], [0])
    return measure_shipped(task, folder)


def test_both_platforms_are_searched_for_in_one_run_each_with_limits_of_its_class(runs, tmp_path):
    measure(tmp_path)
    files = {name: parse_run_file((tmp_path / "measured" / f"{name}.toml").read_text("utf-8")) for name in NAMES}
    assert {one.fleet.profiles for one in files.values()} == {(str(tmp_path / "measured/this-machine.json"), PHONE)}
    wanted = {"latency_ms": 1.2, "training_step_ms": 12.0, "memory_mib": pytest.approx(2.4), "size_kib": None}
    for name, (_, limits) in SEARCHES.items():
        here, phone = files[name].budgets["desktop"], files[name].budgets["entry"]
        assert dict(here) == {**dict.fromkeys(wanted), **{limit: wanted[limit] for limit in limits}}
        assert (phone.latency_ms, phone.training_step_ms) == (0.6, None)
    assert files[LARGEST].budgets["desktop"].memory_mib == 4.0
    assert [files[name].search.algorithm for name in NAMES] == ["fednas", *["nested_race"] * 4, "fednas"]
    assert [files[name].search.entrants for name in (*FILLED, OURS)] == [1, 1, 1, 10]
    assert [command[0] for command in runs] == ["profile"] * 2 + ["search", "ship", "ship"] * len(NAMES)
    (_, _, _, listed, _, made), (*_, measured_with, _, link, _, _) = runs[:2]
    assert (made, link) == (measured_with, search_measured.LINK)  # a pack of the networks that the searches may reach
    assert parse_run_file(Path(listed).read_text("utf-8")).search.algorithm == "fednas"
    assert runs[2][1].stem == LARGEST  # whose time just after the profile says how fast the machine was
    assert [command[3] for command in runs if command[0] == "ship"] == ["this-machine", PHONE] * len(NAMES)


def test_what_was_measured_here_stands_beside_this_machines_limits_and_the_phone_is_predicted(runs, tmp_path):
    row = measure(tmp_path)
    one = row[OURS]
    assert one["num_networks"] == 2
    assert {name: of["measured"] for name, of in one["here"].items()} == pytest.approx(
        {"latency_ms": 1.1, "training_step_ms": 15.0, "memory_mib": 2.3}
    )
    assert row["drift"] == pytest.approx({"latency_ms": 1.1, "training_step_ms": 1.25})
    assert one["here"]["latency_ms"]["ratio"] == pytest.approx(1.0 / 1.2)
    assert one["here"]["memory_mib"]["ratio"] == pytest.approx(2.3 / 2.4)
    assert one["here"]["training_step_ms"]["at the profile's speed"] == pytest.approx(12.0)
    assert one["here"]["training_step_ms"]["measured by predicted"] == pytest.approx(1.2)
    assert one[PHONE]["latency_ms"] == pytest.approx({"limit": 0.6, "predicted": 0.5, "ratio": 0.5 / 0.6})
    assert [[*row[name]["here"]] for name in FILLED] == [[limit] for limit in WORDS]
    json.dumps(row, allow_nan=False)


def test_the_memory_of_a_step_is_its_values_without_the_session_and_the_arenas_tables(monkeypatch, tmp_path):
    grown = {"opened_mib": 1.5, "runs_mib": [3.5, 3.9, 3.8]}
    monkeypatch.setattr(search_measured, "measure_resident_mib", lambda graph: grown)
    peak = SimpleNamespace(peak=SimpleNamespace(reserved=3.2 * 2**20))
    monkeypatch.setattr(search_measured, "predict_memory", lambda graph: peak)
    (tmp_path / "gradient.onnx").write_bytes(b"")
    assert step_memory(tmp_path / "gradient.onnx")["measured"] == pytest.approx(3.9 - 1.5 - 0.1)


def test_the_networks_that_are_measured_are_this_machines(runs, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(search_measured, "step_memory", lambda graph: seen.append(graph) or {"measured": 2.3})
    measure(tmp_path)
    assert seen == [tmp_path / "measured" / name / "models/4/artifact/gradient.onnx" for name in (*SEARCHES, LARGEST)]


def test_a_command_that_fails_raises_with_what_it_wrote(tmp_path):
    with pytest.raises(RuntimeError, match=r"search .* failed:\n(.|\n)*missing\.toml"):
        run_handheld("search", tmp_path / "missing.toml", "-o", tmp_path / "run")


@pytest.mark.slow
def test_networks_are_shipped_for_this_machine_and_a_phone_and_measured_beside_the_largest(tmp_path, monkeypatch):
    # The smallest networks need most of their time whatever their width; a busy machine's profile is good enough here.
    monkeypatch.setattr(search_measured, "SHARE", 0.9)
    monkeypatch.setattr(search_measured, "PHONE_SHARE", 0.7)
    unstable_too = lambda *command: run_handheld(*command, *(["--allow-unstable"] * (command[0] == "search")))  # noqa: E731
    monkeypatch.setattr(search_measured, "run_handheld", unstable_too)
    row = measure(tmp_path, SMALL_SEARCH, SMALL)
    for name in SEARCHES:
        here, phone = row[name]["here"], row[name][PHONE]
        assert row[name]["num_networks"] >= 1
        for limit in SEARCHES[name][1]:
            one = here[limit]
            assert 0 < one["predicted"] <= one["limit"] < row[LARGEST]["here"][limit]["limit"]
            assert one["measured"] > 0
        assert 0 < phone["latency_ms"]["ratio"] <= 1
    assert Path(tmp_path / "measured" / OURS / f"bundle-{PHONE}").is_dir()
