"""`handheld privacy plan` shows every kind of release, by phase and split, before anything is spent."""

import json
import re

import pytest

from device_runtime.console import run_program
from pipeline.command_line import PROGRAM
from pipeline.search_sections import RandomSearchSection
from tests.pipeline.searching.conftest import CLIENTS_PRIVATE, PRIVATE

MORE = """
architecture = { sample_rate = 0.6, noise_multiplier = 5.5 }
reward = { sample_rate = 0.7, noise_multiplier = 6.5, loss_bound = 3.0 }
"""


@pytest.fixture
def plan(tmp_path, capsys, monkeypatch):
    """Plan a run file; gives exit code and what was printed, in one line a cell."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(text, *options):
        (tmp_path / "run.toml").write_text(text, encoding="utf-8")
        with pytest.raises(SystemExit) as left:
            run_program(PROGRAM, ["privacy", "plan", str(tmp_path / "run.toml"), *options])
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, " ".join(captured.err.split())

    return call


def rows(out):
    """The table's cells, row by row."""
    return [re.split(r"\s*│\s*", line.strip("│ ")) for line in out.splitlines() if line.startswith("│")]


def test_a_plan_has_a_row_for_each_phase_and_kind(plan, monkeypatch):
    times = ("update", 3), ("architecture", 2), ("reward", 4), ("metrics", 1)
    monkeypatch.setattr(RandomSearchSection, "planned", lambda *_: tuple(("search", *one) for one in times))
    code, out, err = plan(PRIVATE + MORE)
    assert (code, err) == (0, "")
    assert rows(out) == [
        ["search", "train", "update", "3", "1", "0.5", "1"],
        ["search", "validation", "architecture", "2", "1", "0.6", "5.5"],
        ["search", "validation", "reward", "4", "1", "0.7", "6.5"],
        ["search", "validation", "metrics", "1", "1", "0.8", "1.1"],
        ["final", "train", "update", "1", "1", "0.5", "1"],
        ["test", "test", "metrics", "1", "1", "0.9", "1.2"],
    ]
    assert "by split: train " in out


def test_a_plan_of_the_client_unit_has_one_account(plan):
    code, out, _ = plan(CLIENTS_PRIVATE)
    assert code == 0
    assert {(row[1], row[5]) for row in rows(out)} == {("all", "1")}
    assert "the unit is one client" in out
    assert "by split" not in out
    assert "a client's for all that it holds; RDP order" in out
    assert "unit: one client; neighbours: zero-out; noise on the sum, by the server; against everybody but" in out
    code, out, _ = plan(CLIENTS_PRIVATE, "--json")
    assert json.loads(out)["unit"] == "client"


def test_a_plan_that_does_not_fit_is_shown_with_the_noise_that_would(plan):
    code, out, err = plan(CLIENTS_PRIVATE.replace("target_epsilon = 8.0", "target_epsilon = 1.0"))
    assert code == 2
    assert len(rows(out)) == 4
    assert "the plan spends epsilon" in err
    assert "raise privacy.update.noise_multiplier from 3 to" in err
    assert "sample_rate" not in err
