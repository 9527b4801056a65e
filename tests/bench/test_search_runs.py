import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from bench import search_runs
from bench.provenance import commit_of
from bench.search_rows import row_of
from bench.search_runs import (
    BenchError,
    Method,
    Sitting,
    Task,
    mean_of,
    parser_of,
    replace_lines,
    run_task,
    run_tasks,
    sitting_of,
    tasks_of,
)
from pipeline.run_file import RunFileError, parse_run_file
from pipeline.searching.session import run_search
from tests.pipeline.report.conftest import make_cost, make_result
from tests.pipeline.searching.conftest import FEDNAS

TASKS = [Task("a", 0, "first"), Task("a", 1, "first"), Task("b", 0, "other")]


def count_letters(task, work):
    """Stands for a run; needs no time and leaves a trace."""
    with (work / "done").open("a") as file:
        file.write(f"{task.method}{task.seed} ")
    return {"letters": len(task.run_file)}


def done(folder):
    path = folder / "done"
    return path.read_text().split() if path.exists() else []


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch):
    """Threads in place of processes: what is tested here is which tasks run, not where."""

    def threads(count, context, initializer):
        return ThreadPoolExecutor(count)

    monkeypatch.setattr("bench.search_runs.ProcessPoolExecutor", threads)


# A run that never ends, in a process of its own; its number and its priority are told.
PARENT = """
import os, signal, sys
from pathlib import Path
from bench.search_runs import Task, run_tasks

def wait(task, work):
    print(os.getpid(), os.nice(0), flush=True)
    signal.pause()

if __name__ == "__main__":
    work = Path(sys.argv[1])
    list(run_tasks([Task("a", 0, "first")], work, work / "rows.jsonl", 1, wait))
"""


def test_a_run_ends_with_the_bench_that_is_killed_and_lets_others_go_first(tmp_path):
    script = tmp_path / "bench_that_waits.py"
    script.write_text(PARENT)
    words, environment = [sys.executable, str(script), str(tmp_path)], os.environ | {"PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        worker, priority = map(int, parent.stdout.readline().split())
        parent.kill()
        try:
            parent.communicate(timeout=30)  # all that have its standard output have ended
        finally:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
    assert priority == os.nice(0) + 5


def test_a_row_has_its_task_and_what_the_task_came_to(tmp_path):
    rows = Sitting(tmp_path).rows(TASKS[:1], count_letters)
    provenance = {"inputs": None, "commit": commit_of()}
    assert rows == [{"method": "a", "seed": 0, "run_file": "first", "letters": 5, **provenance}]
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == rows


def test_what_is_done_is_not_done_again(tmp_path):
    sitting = Sitting(tmp_path)
    sitting.rows(TASKS[:2], count_letters)
    rows = sitting.rows(TASKS, count_letters)
    assert done(tmp_path) == ["a0", "a1", "b0"]
    assert sorted((row["method"], row["seed"]) for row in rows) == [("a", 0), ("a", 1), ("b", 0)]


def test_a_row_of_other_settings_is_done_again(tmp_path):
    sitting = Sitting(tmp_path)
    sitting.rows([Task("a", 0, "before")], count_letters)
    (row,) = sitting.rows(TASKS[:1], count_letters)
    assert (row["run_file"], done(tmp_path)) == ("first", ["a0", "a0"])


def test_rows_with_fewer_fields_are_read_and_a_torn_line_takes_no_other_with_it(tmp_path):
    old = {"method": "a", "seed": 0, "run_file": "first"}
    lines = tmp_path / "rows.jsonl"
    lines.write_text(json.dumps(old) + '\n{"method": "a", "se')
    first, _ = run_tasks(TASKS[:2], tmp_path, lines, 1, count_letters)
    assert first == old
    assert len(list(run_tasks(TASKS[:2], tmp_path, lines, 1, count_letters))) == 2
    assert done(tmp_path) == ["a1"]


def fail_on_b(task, work):
    if task.method == "b":
        raise ValueError(f"no {task.method}")
    return count_letters(task, work)


def test_a_task_that_fails_is_named_when_all_others_are_kept(tmp_path):
    tasks = [TASKS[2], *TASKS[:2]]
    with pytest.raises(BenchError, match=r"^b, seed 0: ValueError: no b$"):
        Sitting(tmp_path).rows(tasks, fail_on_b)
    assert len(Sitting(tmp_path).rows(tasks, count_letters)) == 3
    assert sorted(done(tmp_path)) == ["a0", "a1", "b0"]


def test_a_tasks_folder_goes_when_its_line_is_written(tmp_path):
    def leave_a_folder(task, work):
        (work / f"{task.method}-{task.seed}" / "blobs").mkdir(parents=True)
        return {}

    Sitting(tmp_path).rows(TASKS[:1], leave_a_folder)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_row_has_the_sums_of_the_ledger_and_the_emulators_accuracies():
    costs = (
        replace(make_cost("search", 0, 2.0), num_assignments=3, bytes_up=5, bytes_down=7),
        replace(make_cost("search", 1, 0.5, "evaluate"), num_assignments=4, bytes_up=11, bytes_down=13),
        replace(make_cost("final", 1, 30.0), num_assignments=17, bytes_up=19, bytes_down=23),
        make_cost("test", 1, 99.0, "evaluate"),
    )
    row = row_of(make_result(costs=costs))
    assert row["search"] == {"client_rounds": 3, "evaluations": 4, "client_seconds": 2.5, "bytes": 36}
    assert row["final"] == {"client_rounds": 17, "evaluations": 0, "client_seconds": 30.0, "bytes": 42}
    (model,) = row["models"]
    assert (model["trial"], model["test_accuracy"], model["latency_ms"]["cheap"]) == (1, 0.8333, 4.0)
    assert (row["curves"]["2"], row["final_curves"]) == ([0.3, 0.4], {"1": [0.7, 0.8]})
    with pytest.raises(ValueError, match="fruit is no emulated run"):
        row_of(make_result(emulator_only=None))


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_and_one_of_another_run_file_begins_anew(tmp_path, monkeypatch):
    seen = []

    def noted(request, watcher):
        seen.append(request.is_resumed)
        return run_search(request, watcher)

    monkeypatch.setattr("bench.search_runs.run_search", noted)
    priority = os.nice(0)
    row = run_task(Task("small", 0, FEDNAS), tmp_path)
    assert run_task(Task("small", 0, FEDNAS), tmp_path) == row
    assert os.nice(0) == priority
    other = run_task(Task("small", 0, FEDNAS.replace("pretrain_rounds = 2", "pretrain_rounds = 3")), tmp_path)
    assert seen == [False, True, False]
    assert other["search"]["client_rounds"] > row["search"]["client_rounds"]


def test_a_sitting_may_end_after_the_first_seeds():
    assert list(Sitting("work", num_seeds=2).seeds(range(1000, 1005))) == [1000, 1001]
    assert list(Sitting("work").seeds(range(3))) == [0, 1, 2]


def test_a_sitting_may_go_on_from_rows_that_are_kept_elsewhere(tmp_path):
    options = ["--work", str(tmp_path / "work"), "--rows", str(tmp_path / "kept.jsonl"), "--seeds", "1"]
    sitting = sitting_given(*options)
    (tmp_path / "kept.jsonl").write_text(json.dumps({**vars(TASKS[0]), "kept": True}) + "\n")
    assert [row.get("kept") for row in sitting.rows(TASKS[:2], count_letters)] == [True, None]
    assert done(tmp_path / "work") == ["a1"]
    assert len((tmp_path / "kept.jsonl").read_text().splitlines()) == 2
    assert (sitting.num_seeds, sitting.num_processes) == (1, 1)


def test_a_sitting_may_tell_the_kept_rows_and_run_nothing(tmp_path):
    first = Sitting(tmp_path).rows(TASKS[:1], count_letters)
    (tmp_path / "done").unlink()
    assert Sitting(tmp_path, runs=False).rows(TASKS, count_letters) == first
    assert done(tmp_path) == []
    assert not sitting_given("--work", "w", "--kept").runs
    assert sitting_given("--work", "w").runs


def sitting_given(*options):
    parser = parser_of("some", "Some bench.")
    return sitting_of(parser, parser.parse_args(options))


def test_kept_rows_are_told_without_a_folder_of_runs_and_nothing_else_is(tmp_path, capsys):
    assert not sitting_given("--kept", "--rows", str(tmp_path / "kept.jsonl")).runs
    for options in (["--rows", "kept.jsonl"], ["--kept"], []):
        with pytest.raises(SystemExit):
            sitting_given(*options)
        assert "--work must name the folder" in capsys.readouterr().err


def test_kept_rows_are_told_where_their_data_is_not_but_not_counted_as_done(tmp_path, monkeypatch):
    task, lines = TASKS[0], tmp_path / "rows.jsonl"
    lines.write_text(json.dumps({**vars(task), "inputs": {"profiles": {"phone": "a"}, "data": "b"}}) + "\n")
    for today, told in (({"phone": "a"}, 1), ({"phone": "c"}, 0)):
        monkeypatch.setattr(search_runs, "inputs_of", lambda _, today=today: {"profiles": today, "data": None})
        assert len(Sitting(tmp_path, runs=False).rows([task])) == told
    monkeypatch.setattr(search_runs, "inputs_of", lambda _: {"profiles": {"phone": "a"}, "data": "other"})
    assert Sitting(tmp_path, runs=False).rows([task]) == []
    monkeypatch.setattr(search_runs, "inputs_of", lambda _: {"profiles": {"phone": "a"}, "data": None})
    assert [row["inputs"]["data"] for row in Sitting(tmp_path).rows([task], count_letters)] == [None]


def test_a_method_has_its_own_search_and_settings_and_each_seed_all_methods():
    methods = [
        Method("fednas", {"algorithm": "fednas", "groups": 2}),
        Method("wide", {"algorithm": "uniform_width"}, {"widths = [8]": "widths = [16]"}),
    ]
    tasks = tasks_of(FEDNAS.replace("seed = 3", "seed = 0"), methods, [5, 6])
    assert [(task.method, task.seed) for task in tasks] == [("fednas", 5), ("wide", 5), ("fednas", 6), ("wide", 6)]
    run = parse_run_file(tasks[3].run_file)
    assert (run.run.seed, run.search.algorithm, run.space.widths) == (6, "uniform_width", (16,))
    assert parse_run_file(tasks[2].run_file).search.groups == 2
    with pytest.raises(RunFileError, match="groups"):
        tasks_of(FEDNAS, [Method("no groups", {"algorithm": "fednas"})], [0])


@pytest.mark.parametrize(("line", "times"), [("widths = [9]", 0), ("rounds = 1", 2)])
def test_a_setting_to_replace_stands_there_once(line, times):
    with pytest.raises(ValueError, match=rf"must have .* once, it has it {times} times"):
        replace_lines(FEDNAS, {line: ""})


def test_a_mean_has_the_interval_of_students_t_and_one_value_has_none():
    found = mean_of([1.0, 2.0, 3.0])
    assert found["mean"] == 2
    assert found["high"] - 2 == pytest.approx(4.302653 / 3**0.5)
    assert 2 - found["low"] == pytest.approx(4.302653 / 3**0.5)
    assert mean_of([0.5]) == {"mean": 0.5, "low": None, "high": None}
