import json

import pytest
from typer.testing import CliRunner

from device_runtime.console import build_app, run_program
from pipeline.command_line import PROGRAM

FILE = """
run = { name = "load", seed = 3, kind = "emulated" }
fleet = { profiles = ["pixel-4"] }
search = { algorithm = "random_search", trials = 1, rounds = 1 }
final = { rounds = 1 }
data = { source = "digits", partition = "iid", clients = 20 }
training = { learning_rate = 0.3, local_epochs = 1, batch_size = 8 }
round = { cohort_size = 10, min_reports = 5, deadline_s = 60 }
[space]
kinds = ["depthwise"]
widths = [1]
depths = [1]
kernels = [3]
strides = [4]
heads = ["flatten"]
max_stages = 0
"""


@pytest.fixture
def run_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(FILE)
    return path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(build_app(PROGRAM), ["fleet", "run", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_table_tells_each_round_and_progress_goes_elsewhere(run_file):
    out = run(run_file, "--rounds", 2, "--phones", 4)
    words = ("4 phones, 60 parameters", "2 of 2", "4 pixel-4", "computed in this process")
    assert all(word in out for word in words)
    assert out.count("2 of 2") == 2


def test_json_is_one_value_with_a_row_for_each_round(run_file):
    told = json.loads(run(run_file, "--rounds", 1, "--phones", 4, "--json"))
    assert told["phones"] == {"pixel-4": 4}
    (row,) = told["rounds"]
    assert row["num_reports"] == 2
    assert row["updates_per_s"] > 0


def test_nothing_is_left_behind(run_file, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run(run_file, "--rounds", 1, "--phones", 4)
    assert [path.name for path in tmp_path.iterdir()] == ["run.toml"]


def test_a_real_run_file_is_wrong_usage(run_file, capsys):
    run_file.write_text(FILE.replace("emulated", "real").replace('fleet = { profiles = ["pixel-4"] }\n', ""))
    with pytest.raises(SystemExit) as left:
        run_program(PROGRAM, ["fleet", "run", str(run_file)])
    assert left.value.code == 2
    assert "kind must be 'emulated' for a fleet" in " ".join(capsys.readouterr().err.split())
