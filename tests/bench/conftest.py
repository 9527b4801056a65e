import pytest

from bench.search_runs import Sitting


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
