import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from device_runtime.console import build_app, run_program
from device_runtime.vectors import write_vector
from pipeline.command_line import PROGRAM
from pipeline.run_result import read_result
from pipeline.ship.bundle import read_bundle

pytestmark = pytest.mark.usefixtures("onnx_only")


def run(*arguments: object) -> str:
    result = CliRunner().invoke(build_app(PROGRAM), ["ship", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def fail(capsys, *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        run_program(PROGRAM, ["ship", *map(str, arguments)])
    captured = capsys.readouterr()
    assert captured.out == ""
    return left.value.code, " ".join(captured.err.split())


def test_the_command_writes_a_bundle_and_a_table_of_its_files(digits, tmp_path):
    told = run(digits.folder, "-o", tmp_path / "bundle")
    bundle = read_bundle(tmp_path / "bundle")
    for name, entry in bundle.files.items():
        assert name in told
        assert f"{entry.size_bytes / 1024:.1f}" in told
    assert f"{bundle.variants[0].files[0].max_difference:.1e}" in told


def test_json_is_one_value_that_agrees_with_the_files(digits, tmp_path):
    result = json.loads(run(digits.folder, "-o", tmp_path / "bundle", "--json"))
    assert result["folder"] == str(tmp_path / "bundle")
    assert result["bundle"] == json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    assert result["parity"] == json.loads((tmp_path / "bundle" / "parity.json").read_text())


def test_the_help_has_an_example_and_says_what_is_checked():
    told = CliRunner().invoke(build_app(PROGRAM), ["ship", "--help"]).stdout
    assert "Example: handheld ship runs/digits -o runs/digits/bundle" in told
    assert "1e-4" in told


def test_a_folder_without_a_finished_run_is_wrong_usage(tmp_path, capsys):
    code, told = fail(capsys, tmp_path, "-o", tmp_path / "bundle")
    assert code == 2
    assert "has no result.json: name the folder of a finished run" in told
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        ("result.json", b"{}", "RunResult lacks"),
        ("result.json", b'{"schema": 2}', "this version reads up to 1: update handheld"),
        ("models/1/artifact/manifest.json", b"{}", "manifest.json is corrupt"),
        ("models/1/parameters.safetensors", b"no", "no safetensors file"),
        (
            "models/1/parameters.safetensors",
            write_vector("parameters", np.zeros(3, np.float32)),
            "is it of another arch",
        ),
    ],
)
def test_an_altered_run_is_told(run_folder, capsys, file, data, message):
    (run_folder / file).write_bytes(data)
    code, told = fail(capsys, run_folder, "-o", run_folder / "bundle")
    assert code == 2
    assert message in told
    assert not (run_folder / "bundle").exists()


def test_files_that_differ_from_the_model_are_failed_work(digits, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.ship.parity.TOLERANCE", 1e-12)
    code, told = fail(capsys, digits.folder, "-o", tmp_path / "bundle")
    assert code == 1
    assert "model.onnx on ONNX Runtime" in told
    assert "more than 1e-12; nothing was shipped" in told
    assert not (tmp_path / "bundle").exists()


def test_an_output_folder_that_holds_something_else_is_wrong_usage(digits, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("ten years")
    code, told = fail(capsys, digits.folder, "-o", tmp_path)
    assert code == 2
    assert "holds thesis.txt, which is no part of a bundle" in told


def test_the_output_must_be_named(digits, capsys):
    assert fail(capsys, digits.folder)[0] == 2


def test_it_tells_whether_the_model_meets_its_limits(run_folder, change_result, tmp_path):
    change_result(budgets={"high": {"latency_ms": 1.0}})
    told = " ".join(run(run_folder, "-o", tmp_path / "bundle").split())
    assert "model of trial 1" in told
    assert "meets its limits on pixel-4: yes (predicted latency 0.75 of 1 ms)" in told
    assert "meets its limits on my-phone: it has none" in told


def test_of_several_models_one_is_named_by_its_platform(digits, run_folder, change_result, tmp_path, capsys):
    result = read_result(digits.folder)
    shutil.copytree(run_folder / "models" / "1", run_folder / "models" / "2")
    models = (replace(result.main, platforms=("pixel-4",)), replace(result.main, trial=2, platforms=("my-phone",)))
    change_result(models=models, trials=(*result.trials, replace(result.trials[0], index=2)))
    code, told = fail(capsys, run_folder, "-o", tmp_path / "bundle")
    assert code == 2
    assert "this run has 2 models: name a platform, my-phone, pixel-4" in told
    shipped = json.loads(run(run_folder, "-o", tmp_path / "bundle", "--platform", "my-phone", "--json"))
    assert (shipped["trial"], [one["platform"] for one in shipped["platforms"]]) == (2, ["my-phone"])
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "| my-phone | entry | 3.25 ms" in card
    assert "pixel-4" not in card
