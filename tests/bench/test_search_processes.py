import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest

from bench import search_cost, search_processes
from bench.search_cost import LIMIT, RACE
from bench.search_measured import FEDNAS, FINAL
from bench.search_processes import (
    AT_ONCE,
    KILLS,
    LEAVING,
    REPORTS,
    UNRELIABLE,
    Killed,
    _came_to,
    kill_and_resume,
    missing_share,
    num_lost,
    num_rounds,
    run_and_kill,
    run_unbroken,
    session_of,
    unreliable,
)
from bench.search_runs import BenchError, Method, Sitting, Task, replace_lines, tasks_of
from pipeline.run_file import parse_run_file

DIGITS = search_cost.RUN_FILE.read_text(encoding="utf-8")
SMALL = {
    "widths = [96]": "widths = [24]",
    "max_stages = 9": "max_stages = 2",
    "clients = 30": "clients = 6",
    "cohort_size = 30": "cohort_size = 6",
    REPORTS: "min_reports = 2",
    FINAL: "[final]\nrounds = 1",
}
SMALL_SEARCH = {**FEDNAS, "groups": 2, "keep": 2, "rounds": 1}
SMALL_RACE = {**RACE, "rounds": 2, "cohorts": 3}
RNG = np.random.default_rng


@pytest.fixture(autouse=True)
def _poll_often(monkeypatch):
    monkeypatch.setattr(search_processes, "POLL_S", 0.001)
    monkeypatch.setattr(search_processes, "LEFT_S", 0.1)


def python(code):
    return [sys.executable, "-S", "-c", code]


@pytest.mark.parametrize("worse", ["fednas", "nested_race"])
@pytest.mark.parametrize(
    ("missing", "num_other", "met"), [(0.3, 0, [True, True]), (0.29, 0, [False, True]), (0.4, 1, [True, False])]
)
def test_three_reports_of_ten_must_be_missing_and_every_killed_run_must_come_to_the_same_bytes(  # noqa: PLR0917
    stub_runs, tmp_path, missing, num_other, met, worse
):
    def come_to(task):
        is_other = task.method == f"{worse}, killed" and task.seed < num_other
        found = {"num_processes when killed": 3, "num_processes left": 0, "wall_s": 1.0, "num_trials": 159}
        came_to = "other" if is_other else task.run_file
        return {"result_sha256": came_to, "missing": missing if worse in task.method else 0.3, **found}

    asked = stub_runs(come_to)
    rows, bars = unreliable(Sitting(tmp_path))
    assert [(bar.value, bar.met) for bar in bars if worse in bar.name][:2] == [
        *zip((missing, 6 - num_other), met, strict=True)
    ]
    assert all(bar.met for bar in bars if worse not in bar.name)
    assert [row["method"] for row in rows] == [
        name
        for search in ("fednas", "nested_race", LEAVING)
        for name in (f"{search}, unbroken", *[f"{search}, killed"] * 6)
    ]
    searches = {task.run_file: parse_run_file(task.run_file).search.algorithm for task in asked}
    assert sorted(searches.values()) == ["fednas", "nested_race", "nested_race"]


@pytest.mark.parametrize(("num_trials", "met"), [(159, True), (160, False)])
def test_networks_must_have_left_the_race_that_drops_them_before_its_last_round(stub_runs, tmp_path, num_trials, met):
    found = {"num_processes when killed": 3, "num_processes left": 0, "wall_s": 1.0, "num_trials": num_trials}
    stub_runs(lambda task: {"result_sha256": "same", "missing": 0.3, **found})
    _, (*others, left) = unreliable(Sitting(tmp_path))
    assert (left.value, left.bar, left.met) == (num_trials, 160, met)
    assert all(bar.met for bar in others)


@pytest.mark.parametrize(("held", "left", "met"), [(3, 0, [True, True]), (3, 1, [True, False]), (0, 0, [False, True])])
def test_what_killed_runs_had_started_must_end_by_itself_and_some_must_have_started_something(
    stub_runs, tmp_path, held, left, met
):
    def come_to(task):
        is_left = left and task.seed == 3 and task.method == "nested_race, killed"
        found = {"num_processes when killed": held, "num_processes left": int(is_left)}
        return {"result_sha256": "same", "missing": 0.3, "wall_s": 1.0, "num_trials": 9, **found}

    stub_runs(come_to)
    _, bars = unreliable(Sitting(tmp_path))
    pooled, orphans = (bar for bar in bars if bar.name.startswith("nested_race: ") and "processes" in bar.name)
    assert (pooled.value, orphans.value) == (6 if held else 0, left)
    assert [pooled.met, orphans.met] == met


def test_a_process_is_killed_after_it_has_begun():
    answers = iter([False, False, True])
    killed = run_and_kill(python("import time; time.sleep(60)"), lambda: next(answers), RNG(0), wall_s=0.0)
    assert killed.moment_s > 0
    assert (killed.num_processes, killed.num_left) == (0, 0)
    assert [*answers] == []


class First:
    """Draws the first moment of all, and keeps what it was asked for."""

    def uniform(self, low, high):
        self.asked = low, high
        return low


def test_the_moment_is_drawn_from_the_rest_of_the_time_that_a_search_takes():
    rng = First()
    assert run_and_kill(python("import time; time.sleep(60)"), lambda: True, rng, wall_s=1000.0).moment_s < 60
    assert rng.asked == (0, pytest.approx(1000, abs=60))


CHILDREN = {
    "stays": "import time; print('here', flush=True); time.sleep(60)",
    "ends with its parent": "print('here', flush=True); input()",
}


@pytest.mark.parametrize(("child", "num_left"), [("stays", 1), ("ends with its parent", 0)])
def test_a_kill_leaves_no_time_to_tidy_up_counts_who_outlives_it_and_ends_those(tmp_path, monkeypatch, child, num_left):
    monkeypatch.setattr(search_processes, "LEFT_S", 0.1 if num_left else 30.0)
    asked, pipe, readers = tmp_path / "asked", tmp_path / "pipe", []
    os.mkfifo(pipe)
    code = f"""
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(asked)!r}).touch(), sys.exit()))
command = [sys.executable, "-S", "-c", {CHILDREN[child]!r}]
child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=open({str(pipe)!r}, "w"), stderr=subprocess.DEVNULL)
time.sleep(60)
"""

    def has_begun():
        readers.append(pipe.open(encoding="utf-8"))
        return readers[0].readline() == "here\n"

    begin = time.monotonic()
    killed = run_and_kill(python(code), has_begun, First(), wall_s=0.0)
    assert (killed.num_processes, killed.num_left) == (1, num_left)
    assert readers[0].read() == ""  # nobody holds the other end any more
    assert time.monotonic() - begin < 50
    assert not asked.exists()


def test_what_has_ended_and_nobody_waited_for_is_no_process_of_a_session():
    ended = subprocess.Popen(python("pass"), start_new_session=True)
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert session_of(ended.pid) == set()
    ended.wait()
    assert os.getpid() in session_of(os.getsid(0))


@pytest.fixture
def stub_processes(monkeypatch):
    """Puts records in place of processes: what was to be killed with which moment, and what was run to its end."""
    kills, runs = [], []

    def kill(command, has_begun, rng, wall_s):
        kills.append((command[-1], has_begun(), rng.uniform(0, 1), wall_s))
        return Killed(1.0, 3, 0)

    monkeypatch.setattr(search_processes, "run_and_kill", kill)
    monkeypatch.setattr(search_processes, "run_handheld", lambda *command: runs.append(command))
    return kills, runs


def test_kills_come_at_moments_of_their_own_one_of_them_before_any_round_was_over(
    stub_processes, monkeypatch, tmp_path
):
    monkeypatch.setattr(search_processes, "_came_to", lambda folder: {})
    kills, runs = stub_processes
    for seed in KILLS:
        folder = tmp_path / f"killed-{seed}"
        folder.mkdir()
        (folder / "run.toml").write_text("of a run before")
        kill_and_resume(Task("killed", seed, DIGITS), tmp_path, wall_s=100.0)
        assert not folder.exists()  # a run begins anew
    assert [wall_s for *_, wall_s in kills] == [0.0, *[100.0] * 5]
    assert not any(has_begun for _, has_begun, *_ in kills)
    assert len({moment for *_, moment, _ in kills}) == len(KILLS)
    assert runs == [
        ("search", tmp_path / f"killed-{i}.toml", "-o", tmp_path / f"killed-{i}", "--resume") for i in KILLS
    ]


def test_a_result_is_known_by_all_its_bytes(monkeypatch, tmp_path):
    accuracy = SimpleNamespace(main=SimpleNamespace(accuracy=SimpleNamespace(value=0.5)))
    monkeypatch.setattr(search_processes, "read_result", lambda folder: accuracy)
    monkeypatch.setattr(search_processes, "missing_share", lambda folder: 0.3)
    (tmp_path / "result.json").write_bytes(b"{}")
    assert _came_to(tmp_path)["result_sha256"] == hashlib.sha256(b"{}").hexdigest()


def test_a_process_that_was_over_before_was_not_killed():
    assert run_and_kill(python("pass"), lambda: True, RNG(0), wall_s=1000.0) is None


@pytest.mark.parametrize("end", ["sys.exit(1)", "os.kill(os.getpid(), 9)"])
def test_a_process_that_fails_by_itself_raises_with_what_it_wrote(end):
    code = f"import os, sys; sys.stderr.write('no ' + 'phones'); sys.stderr.flush(); {end}"
    with pytest.raises(RuntimeError, match="failed by itself:\nno phones"):
        run_and_kill(python(code), lambda: False, RNG(0), wall_s=1000.0)


def test_rounds_count_once_they_were_held_and_assignments_where_their_round_ended_without_them(tmp_path):
    assert (num_rounds(tmp_path), num_lost(tmp_path)) == (0, 0)
    with closing(sqlite3.connect(tmp_path / "handheld.db")) as database:
        database.execute("CREATE TABLE about (status)")
        database.commit()
        assert (num_rounds(tmp_path), num_lost(tmp_path)) == (0, 0)
        for table, statuses in (("rounds", "open closed failed"), ("assignments", "open lost aborted reported closed")):
            database.execute(f"CREATE TABLE {table} (status)")
            database.executemany(f"INSERT INTO {table} VALUES (?)", [(one,) for one in statuses.split()])
        database.commit()
    assert (num_rounds(tmp_path), num_lost(tmp_path)) == (2, 1)


def test_the_settings_of_the_unreliable_fleet_fit_the_run_file_of_digits():
    run = parse_run_file(replace_lines(DIGITS, UNRELIABLE))
    assert (run.fleet.availability, run.fleet.straggler_share, run.fleet.straggler_factor) == (0.7, 0.3, 5)
    assert run.fleet.workers == 2
    assert run.round.deadline_s < run.fleet.mean_spell_s < parse_run_file(DIGITS).round.deadline_s
    assert run.round.min_reports * 3 == run.round.cohort_size  # one of a group of three


def test_what_rounds_wanted_and_did_not_get_is_missing_whoever_was_asked(tmp_path):
    with closing(sqlite3.connect(tmp_path / "handheld.db")) as database:
        database.execute("CREATE TABLE rounds (status, plan, num_reported)")
        rounds = (("closed", 10, 9), ("failed", 10, 1), ("open", 10, 0), ("closed", 30, 20))
        rows = [(status, json.dumps({"cohort_size": wanted}), reported) for status, wanted, reported in rounds]
        database.executemany("INSERT INTO rounds VALUES (?, ?, ?)", rows)
        database.commit()
    assert missing_share(tmp_path) == pytest.approx(0.4)


@pytest.mark.slow
@pytest.mark.parametrize("search", [SMALL_SEARCH, SMALL_RACE])
def test_a_search_that_is_killed_and_resumed_comes_to_the_same_result(tmp_path, search):
    (task,) = tasks_of(DIGITS, [Method("unbroken", search, {**UNRELIABLE, **SMALL, LIMIT: "latency_ms = 0.25"})], [0])
    unbroken = run_unbroken(task, tmp_path)
    same = ("result_sha256", "num_rounds", "num_lost", "missing")
    for kill in (AT_ONCE, 1):
        killed = kill_and_resume(Task("killed", kill, task.run_file), tmp_path, unbroken["wall_s"])
        held = killed["num_rounds when killed"]
        assert held == 0 if kill == AT_ONCE else 0 < held <= killed["num_rounds"]
        assert {name: killed[name] for name in same} == {name: unbroken[name] for name in same}


def test_without_the_unbroken_run_the_bench_says_so(tmp_path):
    with pytest.raises(BenchError, match="no row of `fednas, unbroken`"):
        unreliable(Sitting(tmp_path, runs=False))
