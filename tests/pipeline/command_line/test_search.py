import json
import re
import sys

import pytest

from device_runtime.console import run_program
from pipeline.command_line import PROGRAM
from pipeline.fleet.errors import FleetError
from pipeline.searching import session
from pipeline.searching.run_folder import DiskError
from tests.pipeline.searching.conftest import FEDNAS, ORDINARY, PRIVATE


@pytest.fixture
def command(tmp_path, capsys):
    """Run `handheld` on a run file; gives exit code, standard output and standard error."""

    def call(text: str, *arguments: str) -> tuple[int, str, str]:
        run_file = tmp_path / "run.toml"
        run_file.write_text(text, encoding="utf-8")
        filled = [str(run_file) if argument == "FILE" else argument for argument in arguments]
        with pytest.raises(SystemExit) as left:
            run_program(PROGRAM, filled)
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return call


def test_a_search_prints_its_result_as_one_json_value(command, tmp_path):
    code, out, _ = command(ORDINARY, "search", "FILE", "-o", str(tmp_path / "run"), "--json")
    result = json.loads(out)
    assert code == 0
    assert result == json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))


def test_an_epsilon_on_the_console_is_rounded_up_and_says_whose_and_against_whom(command, tmp_path):
    code, out, _ = command(PRIVATE, "search", "FILE", "-o", str(tmp_path / "run"))
    exact = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))["privacy"]["epsilon"]
    words = " ".join(out.split())
    shown = float(words.split("epsilon ")[1].split()[0])
    assert code == 0
    assert exact <= shown <= exact + 0.01
    assert "unit: one example; neighbours: zero-out; noise on each device; against everybody" in words


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ORDINARY.replace("size_kib = 64.0", "latency_ms = 0.0001"), "no candidate met budget latency_ms=0.0001"),
        (ORDINARY.replace("cohort_size", "cohort_siez"), "did you mean 'cohort_size'"),
        (PRIVATE.replace("target_epsilon = 8.0", "target_epsilon = 0.5"), "raise privacy."),
        (ORDINARY.replace("clients = 6", "clients = 6\nmin_train_examples = 2000"), "min_train_examples"),
    ],
)
def test_what_the_user_has_to_change_is_wrong_usage_and_no_defect(command, tmp_path, text, message):
    code, _, err = command(text, "search", "FILE", "-o", str(tmp_path / "run"))
    words = " ".join(err.split())
    assert code == 2
    assert message in words
    assert "defect" not in words


def test_a_plan_says_what_its_epsilon_is_of(command):
    code, out, _ = command(PRIVATE, "privacy", "plan", "FILE")
    assert code == 0
    assert "unit: one example; neighbours: zero-out; noise on each device" in " ".join(out.split())
    stop, fixed = (float(found) for found in re.findall(r"epsilon (\d+\.\d{3}) (?:of|by)", " ".join(out.split())))
    assert 0 < fixed < stop
    code, _, err = command(ORDINARY, "privacy", "plan", "FILE")
    assert code == 2
    assert "no table [privacy]" in " ".join(err.split())


@pytest.mark.slow
def test_a_search_for_several_platforms_tells_each_models_platforms_and_how_to_ship_one(command, tmp_path):
    code, out, _ = command(FEDNAS, "search", "FILE", "-o", str(tmp_path / "run"))
    words = " ".join(out.split())
    assert code == 0
    for platform in ("pixel-4", "redmi-8"):
        assert re.search(rf"winner for {platform}: trial \d+, \d+ parameters test accuracy", words)
    assert "--platform " in words.split("next: ")[1]


@pytest.mark.parametrize(("engine", "code"), [("ray", 1), ("cloud", 2)])
def test_an_engine_that_is_missing_fails_the_work_and_one_that_nobody_knows_is_wrong_usage(
    command, tmp_path, monkeypatch, engine, code
):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    left, _, err = command(ORDINARY, "search", "FILE", "-o", str(tmp_path / "run"), "--engine", engine)
    assert left == code
    told = {"ray": "pip install 'handheld[ray]'", "cloud": "is not one of 'process'"}
    assert told[engine] in " ".join(err.split())


@pytest.mark.parametrize("error", [FleetError("lower [fleet] workers"), DiskError("free space")])
def test_a_machine_that_cannot_go_on_fails_the_work_and_is_no_defect(command, tmp_path, monkeypatch, error):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(session, "run_search", fail)
    code, _, err = command(ORDINARY, "search", "FILE", "-o", str(tmp_path / "run"))
    assert code == 1
    assert err.strip().endswith(f"handheld: {error}")
