"""Searches on digits as a user runs them, as processes of their own: one for this machine, some that are killed.

`measured`: this machine is profiled, networks are searched for a limit on it and shipped, and their inference is timed
as a stranger would: plain ONNX Runtime, one thread, one example, in turns with the largest network's. FedNAS stops
where a step ends, on the average a tenth below the limit, so that a prediction may be wrong by as much and nobody would
see it; the nested race fills its limit up to two hundredths.

`unreliable`: 30% of the clients are away at any time, 30% compute five times as slowly, and a round ends so soon that
at least 30% of the reports that rounds want never come. The search is killed at five random moments after its first
round, and once before it, each time in a run of its own, and resumed; `result.json` must have the unbroken run's bytes.
"""

import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from bench.measuring import Bar, spread_of, time_interleaved
from bench.search_cost import GROUPS, KEEP, LIMIT, ONE_ENTRANT, PRETRAIN, RUN_FILE, TRAIN
from bench.search_rows import Row
from bench.search_runs import Method, Sitting, Task, replace_lines, tasks_of, with_search
from device_runtime.examples import SpecOverrides, open_source
from pipeline.digits import DATA_SCHEMES
from pipeline.run_file import parse_run_file
from pipeline.run_result import RESULT, read_result
from pipeline.searching.choices import space_of
from pipeline.searching.run_folder import RUN_FILE as RUN_FILE_KEPT
from pipeline.ship.onnx_export import ONNX
from profiles.catalogue import load_profile
from search.cost import cost_of

PROFILES, FINAL = 'profiles = ["redmi-note-4"]', "[final]\nrounds = 40"
FEDNAS: dict[str, Any] = {
    "algorithm": "fednas",
    "groups": GROUPS,
    "pretrain_rounds": PRETRAIN,
    "keep": KEEP,
    "rounds": TRAIN,
    "first_reduction": 0.1,
}
LINK = "20,10,30"  # Mbit/s down and up, ms: the emulated clients' only, no network is sent anywhere
SHARE = 0.6  # of what the largest network needs
SHIPPED = ("fednas", "nested_race")  # whose networks have a limit
REPETITIONS, WARM_UP = 1000, 100
AWAY = f"{PROFILES}\navailability = 0.7\nmean_spell_s = 60.0\nstraggler_share = 0.3\nstraggler_factor = 5.0"
HALF = "latency_ms = 1.5129"  # of the largest network's
DEADLINE, SHORT_DEADLINE = "deadline_s = 600", "deadline_s = 12"  # the long one waits until all are back, 30 s for 87%
# Of a group of three one report is enough: two clients are too often away together.
REPORTS, FEW_REPORTS = "min_reports = 20", "min_reports = 10"
ENDS = {DEADLINE: SHORT_DEADLINE, REPORTS: FEW_REPORTS}
UNRELIABLE = {PROFILES: AWAY, **ENDS, LIMIT: HALF, FINAL: "[final]\nrounds = 2"}
MISSING = 0.3
POLL_S = 0.2
KILLS = range(6)
AT_ONCE = 0  # the kill as soon as there is a search to resume, before any round is over


def measured(sitting: Sitting) -> tuple[list[Row], list[Bar]]:
    """One row, and whether the shipped network keeps its limit here."""
    method = Method("measured", FEDNAS, {FINAL: "[final]\nrounds = 1"})
    tasks = tasks_of(RUN_FILE.read_text(encoding="utf-8"), [method], [0])
    (row,) = replace(sitting, num_processes=1).rows(tasks, measure_shipped)
    bars = [
        Bar(f"network of {name}: ms of an inference", row[name]["median_ms"], row["limit_ms"], row[name]["ratio"] <= 1)
        for name in SHIPPED
    ]
    return [{name: value for name, value in row.items() if name != "run_file"}], bars


def measure_shipped(task: Task, work: Path) -> Row:
    """Profile this machine, search and ship for a limit on it, and time what was shipped beside the largest network.

    FedNAS's settings are the task's.
    """
    folder = work / task.method
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    profile = folder / "this-machine.json"
    run_handheld("profile", "measure", "--quick", "--link", LINK, "-o", profile)
    latency_ms = _largest_latency_ms(task.run_file, profile)
    predicted, models, limit_ms = {}, {}, SHARE * latency_ms
    filled = with_search(task.run_file, task.seed, ONE_ENTRANT)
    runs = {
        "fednas": (task.run_file, limit_ms),
        "nested_race": (filled, limit_ms),
        "largest": (task.run_file, latency_ms),
    }
    for name, (run_file, limit) in runs.items():
        text = replace_lines(run_file, {PROFILES: f'profiles = ["{profile}"]', LIMIT: f"latency_ms = {limit!r}"})
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
        run_handheld("search", folder / f"{name}.toml", "-o", folder / name)
        run_handheld("ship", folder / name, "-o", folder / name / "bundle")
        result = read_result(folder / name)
        predicted[name] = result.winning.costs[0].latency_ms
        models[name] = inference(folder / name / "bundle" / ONNX, result.spec.shape)
    times = time_interleaved(models, REPETITIONS, WARM_UP)
    found: Row = {"limit_ms": limit_ms}
    for name, (_, limit) in runs.items():
        spread = spread_of(times[name])
        ratios = {"ratio": spread["median_ms"] / limit, "measured by predicted": spread["median_ms"] / predicted[name]}
        found[name] = {"predicted_ms": predicted[name], **spread, **ratios}
    return found


def inference(model: Path, shape: tuple[int, ...]) -> Callable[[], object]:
    """One run of a shipped model over one example of `shape`, with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).random((1, *shape), np.float32)
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: x})


def unreliable(sitting: Sitting) -> tuple[list[Row], list[Bar]]:
    """The unbroken run and those that were killed; whether clients were lost, whether all came to the same bytes."""
    tasks = tasks_of(RUN_FILE.read_text(encoding="utf-8"), [Method("unbroken", FEDNAS, UNRELIABLE)], [0])
    (unbroken,) = sitting.rows(tasks, run_unbroken)
    # Of one seed: what differs is the moment. Timed beside each other, runs would end before they are killed.
    tasks = [Task("killed", kill, unbroken["run_file"]) for kill in sitting.seeds(KILLS)]
    rows = sitting.rows(tasks, partial(kill_and_resume, wall_s=unbroken["wall_s"]))
    same = sum(row["result_sha256"] == unbroken["result_sha256"] for row in rows)
    missing = unbroken["missing"]
    bars = [
        Bar("share of the wanted reports that never came (at least)", missing, MISSING, missing >= MISSING),
        Bar("runs killed and resumed whose result is the unbroken run's", same, len(KILLS), same == len(KILLS)),
    ]
    return [{name: value for name, value in row.items() if name != "run_file"} for row in (unbroken, *rows)], bars


def run_unbroken(task: Task, work: Path) -> Row:
    """One search from beginning to end."""
    folder, command = _new_run(task, work)
    begin = time.perf_counter()
    run_handheld(*command)
    wall_s = time.perf_counter() - begin
    result = read_result(folder)
    failed = sum(bool(trial.failed) for trial in result.trials)
    return {**_came_to(folder), "wall_s": wall_s, "num_trials": len(result.trials), "failed trials": failed}


def kill_and_resume(task: Task, work: Path, wall_s: float) -> Row:
    """Kill a search at a random moment after its first round, or at once, resume it, and say what it came to.

    Args:
        wall_s: About how long it takes unbroken; one that was over sooner than it was to be killed begins anew.

    Raises:
        RuntimeError: With what it wrote, when it fails by itself.
    """
    rng, is_at_once = np.random.default_rng((2026, task.seed)), task.seed == AT_ONCE
    moment = None
    while moment is None:
        folder, command = _new_run(task, work)
        has_begun = (folder / RUN_FILE_KEPT).exists if is_at_once else partial(_has_held_a_round, folder)
        moment = run_and_kill([*_handheld(), *command], has_begun, rng, 0.0 if is_at_once else wall_s)
    held = num_rounds(folder)
    run_handheld(*command, "--resume")
    return {**_came_to(folder), "moment_s": moment, "num_rounds when killed": held}


def run_and_kill(
    command: Sequence[str | Path], has_begun: Callable[[], bool], rng: np.random.Generator, wall_s: float
) -> float | None:
    """Seconds after which a process was killed, at random between its begin and `wall_s`; None where it was over.

    Args:
        has_begun: Whether it may be killed from now on.

    Raises:
        RuntimeError: With what it wrote, when it fails by itself.
    """
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True)
        try:
            while process.poll() is None and not has_begun():
                time.sleep(POLL_S)
            rest_s = max(0.0, wall_s - (time.perf_counter() - begin))
            process.wait(rng.uniform(0, rest_s))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return time.perf_counter() - begin
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it had started and nobody ended
        if process.returncode != 0:
            errors.seek(0)
            raise RuntimeError(f"{' '.join(map(str, command))} failed by itself:\n{errors.read()}")
    return None


def run_handheld(*arguments: str | Path) -> None:
    """Run `handheld` as a process of its own.

    Raises:
        RuntimeError: With what it wrote, when it fails.
    """
    done = subprocess.run([*_handheld(), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"handheld {' '.join(map(str, arguments))} failed:\n{done.stderr}")


def _handheld() -> list[str]:
    return [sys.executable, "-c", "from pipeline.command_line import main; main()"]


def _new_run(task: Task, work: Path) -> tuple[Path, list[str | Path]]:
    """An empty folder for a run, and how to search into it."""
    folder, run_file = work / f"{task.method}-{task.seed}", work / f"{task.method}-{task.seed}.toml"
    shutil.rmtree(folder, ignore_errors=True)
    run_file.write_text(task.run_file, encoding="utf-8")
    return folder, ["search", run_file, "-o", folder]


def _came_to(folder: Path) -> Row:
    result = (folder / RESULT).read_bytes()
    accuracy = read_result(folder).main.accuracy.value
    return {
        "result_sha256": hashlib.sha256(result).hexdigest(),
        "accuracy": accuracy,
        "num_rounds": num_rounds(folder),
        "num_lost": num_lost(folder),
        "missing": missing_share(folder),
    }


def num_rounds(folder: Path) -> int:
    """Rounds that a run has held to their end."""
    return _count(folder, "rounds", "status <> 'open'")


def _has_held_a_round(folder: Path) -> bool:
    return num_rounds(folder) > 0


def num_lost(folder: Path) -> int:
    """Assignments of a run whose round ended without their report: expired ones, and those that were too late."""
    return _count(folder, "assignments", "status = 'closed'")


def missing_share(folder: Path) -> float:
    """Of the reports that a run's rounds wanted those that never came: their clients were away, left, or were too slow.

    A client that had no assignment while its round was open was away.
    """
    with closing(sqlite3.connect(folder / "handheld.db")) as database:
        sums = "sum(num_reported), sum(json_extract(plan, '$.cohort_size'))"
        reported, wanted = database.execute(f"SELECT {sums} FROM rounds WHERE status <> 'open'").fetchone()
    return 1 - reported / wanted


def _count(folder: Path, table: str, condition: str) -> int:
    """Rows of a run's database, which may not be there yet."""
    if not (folder / "handheld.db").exists():
        return 0
    with closing(sqlite3.connect(folder / "handheld.db")) as database:
        has_table = database.execute("SELECT count(*) FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
        query = f"SELECT count(*) FROM {table} WHERE {condition}"
        return int(database.execute(query).fetchone()[0]) if has_table else 0


def _largest_latency_ms(run_file: str, profile: Path) -> float:
    run = parse_run_file(run_file)
    source = open_source(run.data.source, SpecOverrides(), DATA_SCHEMES)
    largest = space_of(run, source.spec).largest()
    return cost_of(largest, load_profile(profile), run.training.artifact_batch_size).latency_ms
