import pytest

from bench.search_rows import NEEDS
from bench.search_runs import Sitting

BOTH = ("redmi-note-4", "pixel-4")
FLAT, RISING = [0.5] * 40, [0.01 * n for n in range(40)]


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
