"""Searches on digits as a user runs them, as processes of their own, some of which are killed.

30% of the clients are away at any time, 30% compute five times as slowly, and a round ends so soon that at least 30% of
the reports that rounds want never come. FedNAS, the nested race, and one that soon drops networks are each killed at
five random moments after their first round, and once before it, each time in a run of its own, and resumed;
`result.json` must have the bytes of that search's unbroken run. Networks train shortly: accuracies are no matter here.
Two workers compute. The parent alone is killed, and its workers must end by themselves: those that are there 10 seconds
later are counted, and only then ended.
"""

import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.measuring import Bar
from bench.search_cost import LIMIT, OURS, RACE, RUN_FILE
from bench.search_measured import FEDNAS, FINAL, PROFILES, handheld, run_handheld
from bench.search_rows import Row
from bench.search_runs import BenchError, Method, Sitting, Task, tasks_of
from pipeline.run_result import RESULT, read_result
from pipeline.searching.run_folder import RUN_FILE as RUN_FILE_KEPT

AWAY = f"{PROFILES}\navailability = 0.7\nmean_spell_s = 60.0\nstraggler_share = 0.3\nstraggler_factor = 5.0"
WITH_POOL = f"{AWAY}\nworkers = 2"
HALF = "latency_ms = 1.5129"  # of the largest network's
DEADLINE, SHORT_DEADLINE = "deadline_s = 600", "deadline_s = 12"  # the long one waits until all are back, 30 s for 87%
# Of a group of three one report is enough: two clients are too often away together.
REPORTS, FEW_REPORTS = "min_reports = 20", "min_reports = 10"
ENDS = {DEADLINE: SHORT_DEADLINE, REPORTS: FEW_REPORTS}
UNRELIABLE = {PROFILES: WITH_POOL, **ENDS, LIMIT: HALF, FINAL: "[final]\nrounds = 2"}
# With the usual margin nobody leaves on so little training: this race drops networks on thin evidence.
DROPPING = {**RACE, "entrants": 4, "rounds": 20, "margin": 0.5}
LEAVING = "race whose networks leave"
SEARCHES = {"fednas": FEDNAS, OURS: RACE, LEAVING: DROPPING}
MISSING = 0.3
POLL_S = 0.2
KILLS = range(6)
LEFT_S = 10.0
AT_ONCE = 0  # the kill as soon as there is a search to resume, before any round is over


def unreliable(sitting: Sitting) -> tuple[list[Row], list[Bar]]:
    """Of each search the unbroken run and those that were killed, and what they must show."""
    rows, bars = [], []
    for name, search in SEARCHES.items():
        unbroken, *killed = _runs_of(sitting, name, search)
        rows += [{key: value for key, value in row.items() if key != "run_file"} for row in (unbroken, *killed)]
        bars += bars_of(name, unbroken, killed)
        if name == LEAVING:
            whole, trials = 2 * DROPPING["entrants"] * DROPPING["rounds"], unbroken["num_trials"]
            bars.append(Bar(f"{name}: trials (fewer than where nobody leaves)", trials, whole, trials < whole))
    return rows, bars


def _runs_of(sitting: Sitting, name: str, search: dict[str, Any]) -> list[Row]:
    tasks = tasks_of(RUN_FILE.read_text(encoding="utf-8"), [Method(f"{name}, unbroken", search, UNRELIABLE)], [0])
    if not (whole := sitting.rows(tasks, run_unbroken)):
        raise BenchError(f"no row of `{name}, unbroken`, beside which killed runs stand: run it first, without --kept")
    (unbroken,) = whole
    # Of one seed: what differs is the moment. Timed beside each other, runs would end before they are killed.
    tasks = [Task(f"{name}, killed", kill, unbroken["run_file"]) for kill in sitting.seeds(KILLS)]
    return [unbroken, *sitting.rows(tasks, partial(kill_and_resume, wall_s=unbroken["wall_s"]))]


def bars_of(name: str, unbroken: Row, killed: Sequence[Row]) -> list[Bar]:
    """Whether clients were lost, all runs came to the same bytes, and no process outlived its parent."""
    same = sum(row["result_sha256"] == unbroken["result_sha256"] for row in killed)
    left = sum(row["num_processes left"] for row in killed)
    pooled = sum(row["num_processes when killed"] > 0 for row in killed)
    missing = unbroken["missing"]
    pools = "runs that had processes of their own when their parent was killed (at least)"
    return [
        Bar(f"{name}: share of the wanted reports that never came (at least)", missing, MISSING, missing >= MISSING),
        Bar(
            f"{name}: runs killed and resumed whose result is the unbroken one's", same, len(KILLS), same == len(KILLS)
        ),
        Bar(f"{name}: {pools}", pooled, 1, pooled >= 1),
        Bar(f"{name}: processes of killed runs that are there {LEFT_S:g} s later (at most)", left, 0, left == 0),
    ]


def run_unbroken(task: Task, work: Path) -> Row:
    """One search from beginning to end."""
    folder, command = _new_run(task, work)
    begin = time.perf_counter()
    run_handheld(*command)
    wall_s = time.perf_counter() - begin
    result = read_result(folder)
    unscored = sum(bool(trial.failed) for trial in result.trials)
    return {**_came_to(folder), "wall_s": wall_s, "num_trials": len(result.trials), "trials without a score": unscored}


def kill_and_resume(task: Task, work: Path, wall_s: float) -> Row:
    """Kill a search at a random moment after its first round, or at once, resume it, and say what it came to.

    Args:
        wall_s: About how long it takes unbroken; one that was over sooner than it was to be killed begins anew.

    Raises:
        RuntimeError: With what it wrote, when it fails by itself.
    """
    rng, is_at_once = np.random.default_rng((2026, task.seed)), task.seed == AT_ONCE
    killed = None
    while killed is None:
        folder, command = _new_run(task, work)
        has_begun = (folder / RUN_FILE_KEPT).exists if is_at_once else partial(_has_held_a_round, folder)
        killed = run_and_kill([*handheld(), *command], has_begun, rng, 0.0 if is_at_once else wall_s)
    held = num_rounds(folder)
    run_handheld(*command, "--resume")
    return {
        **_came_to(folder),
        "moment_s": killed.moment_s,
        "num_rounds when killed": held,
        "num_processes when killed": killed.num_processes,
        "num_processes left": killed.num_left,
    }


@dataclass(frozen=True)
class Killed:
    """A process that was killed.

    Attributes:
        moment_s: Since it began.
        num_processes: That it had started and that were there at that moment.
        num_left: Of those and of what they started, after `LEFT_S`.
    """

    moment_s: float
    num_processes: int
    num_left: int


def run_and_kill(
    command: Sequence[str | Path], has_begun: Callable[[], bool], rng: np.random.Generator, wall_s: float
) -> Killed | None:
    """Kill a process, and it alone, at random between its begin and `wall_s`; None where it was over.

    What it had started gets `LEFT_S` to end by itself, and is ended then.

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
            started = session_of(process.pid) - {process.pid}
            process.kill()
            process.wait()
            moment_s = time.perf_counter() - begin
            return Killed(moment_s, len(started), len(left_of(process.pid, LEFT_S)))
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it had started and nobody ended
        if process.returncode != 0:
            errors.seek(0)
            raise RuntimeError(f"{' '.join(map(str, command))} failed by itself:\n{errors.read()}")
    return None


def left_of(session: int, seconds: float) -> set[int]:
    """Who of a session is still there after so long; sooner, when all have ended."""
    end = time.monotonic() + seconds
    while (left := session_of(session)) and time.monotonic() < end:
        time.sleep(POLL_S)
    return left


def session_of(session: int) -> set[int]:
    """The processes of a session; Linux only. One that has ended and that nobody waited for is none."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            # proc(5): after the name, which may hold anything, state, parent, group and session.
            state, _, _, own, *_ = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(own) == session and state not in "ZX":
                found.add(int(path.parent.name))
    return found


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
