"""Whole searches for the benches: one run a method and seed, one line of JSON each, kept as soon as it is there.

A run is `handheld search` on an emulated fleet, with nothing left out: compile, rounds over the real application and
client, evaluation, final training, one test. Its folder goes when its line is written; compiled networks are shared
by all runs. Accuracies are the emulator's exact ones over all test splits, which rotate with the seed; no search
reads them.
"""

import argparse
import json
import os
import shutil
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from math import exp, log, sqrt
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from scipy import stats

from bench.provenance import commit_of, inputs_of
from bench.search_rows import Row, row_of
from pipeline.fleet.pool import end_with_parent
from pipeline.run_file import parse_run_file
from pipeline.searching.loop import Unwatched
from pipeline.searching.scenes import SearchRequest
from pipeline.searching.session import run_search


@dataclass(frozen=True)
class Task:
    """One run.

    Attributes:
        run_file: Text of its run file.
    """

    method: str
    seed: int
    run_file: str


class BenchError(RuntimeError):
    """Tasks failed, a line for each, or have no row that others need."""


Run = Callable[[Task, Path], Row]  # from a task and the folder of all runs to what it came to


@dataclass(frozen=True)
class Method:
    """A row of a table.

    Attributes:
        search: Table [search].
        settings: What stands in the run file, and what stands there instead.
    """

    name: str
    search: dict[str, Any]
    settings: dict[str, str] = field(default_factory=dict)


def tasks_of(run_file: str, methods: Iterable[Method], seeds: Iterable[int]) -> list[Task]:
    """The runs of methods, all of a seed before the next.

    Raises:
        RunFileError: What a method makes of the run file is none.
        ValueError: A method replaces what is not there.
    """
    texts = {method.name: (replace_lines(run_file, method.settings), method.search) for method in methods}
    return [Task(name, seed, with_search(text, seed, own)) for seed in seeds for name, (text, own) in texts.items()]


def mean_of(values: Sequence[float]) -> dict[str, float | None]:
    """Mean with its 95% interval (Student's t), which one value alone does not have."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return {"mean": mean, "low": None, "high": None}
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def geometric_mean_of(values: Sequence[float]) -> dict[str, float | None]:
    """Geometric mean of positive values with its 95% interval, which one value alone does not have."""
    return {end: None if at is None else exp(at) for end, at in mean_of([log(value) for value in values]).items()}


def replace_lines(run_file: str, instead: Mapping[str, str]) -> str:
    """A run file with other settings: what stands in it, and what shall stand there.

    Raises:
        ValueError: A text to replace is not there, or more than once.
    """
    for line, other in instead.items():
        if run_file.count(line) != 1:
            raise ValueError(f"the run file must have {line!r} once, it has it {run_file.count(line)} times")
        run_file = run_file.replace(line, other)
    return run_file


def run_task(task: Task, work: Path) -> Row:
    """Run one search, or go on with the one that was stopped, and say what it came to; its folder stays."""
    folder, run_file = work / f"{task.method}-{task.seed}", work / f"{task.method}-{task.seed}.toml"
    if not run_file.exists() or run_file.read_text(encoding="utf-8") != task.run_file:
        shutil.rmtree(folder, ignore_errors=True)
        run_file.write_text(task.run_file, encoding="utf-8")
    folder.mkdir(exist_ok=True)
    shared = work / "artifacts"
    shared.mkdir(exist_ok=True)
    if not (folder / "artifacts").exists():
        (folder / "artifacts").symlink_to(shared.resolve(), target_is_directory=True)
    is_resumed = (folder / "run.toml").exists()
    return row_of(run_search(SearchRequest(run_file, folder, is_resumed=is_resumed), Unwatched()))


def run_tasks(
    tasks: Sequence[Task],
    work: Path,
    lines: Path,
    num_processes: int,
    run: Run = run_task,
) -> Iterator[Row]:
    """Rows of all tasks; those whose line stands in `lines` are not run again.

    A line of another run file than the task's, or of other inputs, is left alone and not counted, and so is one that
    was torn. A task's folder goes when its line is written.

    Args:
        num_processes: 0 runs nothing, and asks for no data that is not there: what was measured is told.
        run: Does one task; its row gets the task's own fields, its inputs and the commit.

    Raises:
        BenchError: After all others were done, where tasks failed; the message names them.
    """
    work.mkdir(parents=True, exist_ok=True)
    if lines.exists() and not lines.read_bytes().endswith(b"\n"):
        lines.write_bytes(lines.read_bytes() + b"\n")  # after a torn line, so that it takes no other with it
    kept = _kept(tasks, lines, is_told=not num_processes)
    yield from kept.values()
    if not num_processes:
        return
    waiting = [task for task in tasks if (task.method, task.seed) not in kept]
    failures = []
    with ProcessPoolExecutor(num_processes, get_context("spawn"), _start) as pool:
        futures = {pool.submit(run, task, work): task for task in waiting}
        for future in as_completed(futures):
            task = futures[future]
            if error := future.exception():
                failures.append(f"{task.method}, seed {task.seed}: {type(error).__name__}: {error}")
                continue
            row = {**vars(task), **future.result(), "inputs": inputs_of(task.run_file), "commit": commit_of()}
            with lines.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            _remove(work / f"{task.method}-{task.seed}")
            yield row
    if failures:
        raise BenchError("\n".join(failures))


def _start() -> None:
    os.nice(5)  # once a process: each task that lowered its own priority would lower the next one's further
    end_with_parent()


def _remove(folder: Path) -> None:
    """At once for whoever comes after a kill: half a folder could neither be resumed nor begun anew."""
    if folder.exists():
        shutil.rmtree(folder.rename(folder.with_name(f"{folder.name}.done")))


@dataclass(frozen=True)
class Sitting:
    """What a bench's runs are done with, one sitting after the other.

    Attributes:
        work: Folder of rows and of runs under way.
        num_processes: Runs at a time.
        num_seeds: Of each method at most the first so many; None for all.
        lines: File of the rows; None for `rows.jsonl` in `work`.
        runs: Whether what has no row yet is run; else it is left out.
    """

    work: Path
    num_processes: int = 1
    num_seeds: int | None = None
    lines: Path | None = None
    runs: bool = True

    def seeds(self, wanted: range) -> range:
        """Those of this sitting."""
        return wanted[: self.num_seeds]

    def rows(self, tasks: Sequence[Task], run: Run = run_task) -> list[Row]:
        """Rows of all tasks, by seed; see `run_tasks`."""
        num_processes = self.num_processes if self.runs else 0
        done = run_tasks(tasks, self.work, self.lines or self.work / "rows.jsonl", num_processes, run)
        return sorted(done, key=lambda row: row["seed"])

    def rows_by_method(
        self,
        methods: Iterable[tuple[Method, int]],
        seeds: range,
        tasks_for: Callable[[Method, range], list[Task]],
        names: Sequence[str] | None = None,
    ) -> dict[str, list[Row]]:
        """Rows of each method, by seed.

        Args:
            methods: Each with how many of the seeds it has.
            tasks_for: A method's runs.
            names: Of the methods of this sitting; None for all.
        """
        chosen = [(method, count) for method, count in methods if names is None or method.name in names]
        rows = self.rows([t for method, count in chosen for t in tasks_for(method, self.seeds(seeds[:count]))])
        return by_method(rows, [method.name for method, _ in chosen])


def by_method(rows: Iterable[Row], names: Iterable[str]) -> dict[str, list[Row]]:
    """Rows of each of these methods, in their order."""
    found: dict[str, list[Row]] = {name: [] for name in names}
    for row in rows:
        found[row["method"]].append(row)
    return found


def parser_of(
    bench: str, description: str | None, names: Sequence[str] = (), which: str = "only these methods"
) -> argparse.ArgumentParser:
    """Options of a bench whose rows are kept; see `sitting_of`.

    Args:
        bench: Its module.
        names: Of its methods.
        which: What it says of those that are asked for.
    """
    parser = argparse.ArgumentParser(prog=f"python -m bench.{bench}", description=description)
    parser.add_argument("--work", type=Path, help="folder of runs under way")
    parser.add_argument("--rows", type=Path, help="file of rows to go on from (default: rows.jsonl in --work)")
    parser.add_argument("--processes", type=int, default=1, help="runs at a time")
    parser.add_argument("--seeds", type=int, help="only the first so many seeds")
    parser.add_argument("--kept", action="store_true", help="only what the file of rows tells; run nothing")
    if names:
        parser.add_argument("--methods", nargs="+", metavar="NAME", choices=names, help=which)
    parser.add_argument("-o", "--output", type=Path, help="write the JSON object to this file as well")
    return parser


def sitting_of(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Sitting:
    """What the options of `parser_of` say; the program ends where they do not say where runs are."""
    if arguments.work is None and not (arguments.kept and arguments.rows):
        parser.error("--work must name the folder of runs under way; only --kept with --rows needs none")
    work = arguments.work or arguments.rows.parent
    return Sitting(work, arguments.processes, arguments.seeds, arguments.rows, not arguments.kept)


def with_search(run_file: str, seed: int, section: Mapping[str, Any]) -> str:
    """A run file with another seed and another table [search].

    Raises:
        RunFileError: When that is no run file.
    """
    head, _, rest = run_file.partition("[search]\n")
    _, _, tail = rest.partition("\n[")
    plain = {name: value for name, value in section.items() if not isinstance(value, dict)}
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in plain.items())
    for name in section.keys() - plain.keys():
        table = "\n".join(f"{key} = {json.dumps(value)}" for key, value in section[name].items())
        lines += f"\n\n[search.{name}]\n{table}"
    text = f"{head.replace('seed = 0', f'seed = {seed}')}[search]\n{lines}\n\n[{tail}"
    parse_run_file(text)
    return text


def _kept(tasks: Sequence[Task], lines: Path, *, is_told: bool) -> dict[tuple[str, int], Row]:
    wanted = {(task.method, task.seed): task.run_file for task in tasks}
    rows = {}
    for line in lines.read_text(encoding="utf-8").splitlines() if lines.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # torn when the bench was stopped
        key = row["method"], row["seed"]
        if wanted.get(key) == row["run_file"] and _has_inputs(row, is_told=is_told):
            rows[key] = row
    return rows


def _has_inputs(row: Row, *, is_told: bool) -> bool:
    """Whether a row is of today's inputs; of rows that are only told, data that is not there is no other data."""
    today, of_row = inputs_of(row["run_file"]), row.get("inputs")
    if is_told and today and of_row and today["data"] is None:
        return bool(today["profiles"] == of_row["profiles"])
    return bool(today == of_row)
