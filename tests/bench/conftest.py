import pytest

from bench.search_cost import REFERENCE, RUN_FILE, methods
from bench.search_rows import NEEDS
from bench.search_runs import Sitting, tasks_of

BOTH = ("redmi-note-4", "pixel-4")
FLAT, RISING = [0.5] * 40, [0.01 * n for n in range(40)]
TEXT = RUN_FILE.read_text(encoding="utf-8")
FILES = {task.method: task.run_file for task in tasks_of(TEXT, [method for method, _ in methods(10)], [0])}
# Index, start and rounds of each trial: two steps of FedNAS, 3 and 2 candidates that all go on; and in one stage.
FIRST, FURTHER = ((1, 0, 2), (2, 0, 2), (3, 0, 2)), ((4, 1, 5), (5, 2, 5), (6, 3, 5))
STAGED = ((0, None, 0), *FIRST, *FURTHER, (7, 4, 2), (8, 4, 2), (9, 7, 5), (10, 8, 5))
WHOLE = ((0, None, 0), (1, 0, 10), (2, 0, 10), (3, 0, 10), (4, 1, 10), (5, 1, 10))
COUNTS = {"fednas": 3 * (5 * 2 + 5 * 5), REFERENCE: 30 * 5 * 10}


@pytest.fixture
def stub_runs(monkeypatch):
    """Puts what a function makes of a task in place of each run; returns the tasks that are then asked for."""

    def stub(make):
        asked = []

        def rows(self, tasks, run=None):
            asked.extend(tasks)
            return [{**vars(task), **make(task)} for task in tasks]

        monkeypatch.setattr(Sitting, "rows", rows)
        return asked

    return stub


def row(accuracies, seed=0, client_seconds=10.0):
    """A run with a network for each platform; two that are named together share one."""
    models = [
        {
            "platforms": list(names),
            "trial": i,
            "test_accuracy": accuracy,
            "num_parameters": 100,
            **{need: {"redmi-note-4": 0.7, "pixel-4": 0.15 + 0.001 * seed} for need in (*NEEDS, "size_kib")},
        }
        for i, (names, accuracy) in enumerate(accuracies.items())
    ]
    search = {"client_rounds": 4, "client_seconds": client_seconds, "bytes": 2e6}
    final = {"client_rounds": 40, "client_seconds": 7.0, "bytes": 5e6}
    curves = {str(i): RISING if i else FLAT for i in range(len(models))}
    return {"seed": seed, "search": search, "final": final, "models": models, "num_trials": 1, "final_curves": curves}


def a_row(method, seed, accuracy, *, client_rounds=10, client_seconds=2.0, num_bytes=100):
    costs = {"client_rounds": client_rounds, "client_seconds": client_seconds, "bytes": num_bytes}
    models = [{"test_accuracy": accuracy, **{need: {"a": 1.0} for need in NEEDS}}]
    final = {"client_rounds": 40, "client_seconds": 8.0, "bytes": 400}
    is_staged = method == "fednas"  # in 10 groups of 3
    steps = [[*step, 3 if is_staged and step[2] else None, 0.5, ""] for step in (STAGED if is_staged else WHOLE)]
    row = {"method": method, "run_file": FILES[method], "seed": seed, "search": costs, "final": final}
    return {**row, "models": models, "steps": steps, "num_trials": len(steps), "commit": "abc"}


def of_seeds(method, accuracies, **costs):
    return [a_row(method, seed, accuracy, **costs) for seed, accuracy in enumerate(accuracies)]
