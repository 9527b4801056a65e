import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from device_runtime.artifact import read_artifact
from device_runtime.console import build_app, run_program
from device_runtime.specs import ExampleSpec
from pipeline.command_line import PROGRAM
from profiles.records import decode_record, encode_record
from search.architecture import Architecture, Stem

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "architecture.json"
SMALL = Architecture((3, 5, 5), 2, Stem(2))


@pytest.fixture
def small(tmp_path) -> Path:
    path = tmp_path / "small.json"
    path.write_bytes(encode_record(SMALL))
    return path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(build_app(PROGRAM), ["compile", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def fail(capsys, *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        run_program(PROGRAM, ["compile", *map(str, arguments)])
    captured = capsys.readouterr()
    assert captured.out == ""
    return left.value.code, " ".join(captured.err.split())


def test_the_example_of_the_help_compiles_and_its_summary_says_what_was_made(tmp_path):
    out = run(EXAMPLE, "-o", tmp_path / "artifact")
    artifact = read_artifact(tmp_path / "artifact")
    told = "".join(part for part in out.split() if part != "│")  # words as the table folds them
    assert artifact.artifact_id in told.replace("│", "")
    for word in (f"{artifact.manifest.num_parameters:,}", "gradient.onnx", "MatMul", "independence"):
        assert word in out
    assert "derived from" in out


def test_json_is_one_value_that_agrees_with_the_files(tmp_path, small):
    result = json.loads(run(small, "-o", tmp_path / "artifact", "--batch-size", 3, "--json"))
    manifest = (tmp_path / "artifact" / "manifest.json").read_bytes()
    assert result["artifact_id"] == hashlib.sha256(manifest).hexdigest()
    assert result["batch_size"] == read_artifact(tmp_path / "artifact").manifest.batch_size == 3
    assert result["num_parameters"] == 2 * 27 + 2 + 2 * 50 + 2
    assert result["is_spec_derived"] is True
    assert result["files"]["manifest.json"] == len(manifest)
    assert 0 <= result["certificate"]["errors"]["gradient"] <= result["certificate"]["tolerance"]


def test_the_seed_draws_other_parameters_for_the_same_artifact(tmp_path, small):
    first, again, other = (
        json.loads(run(small, "-o", tmp_path / f"artifact{i}", "--seed", seed, "--json"))
        for i, seed in enumerate((0, 0, 1))
    )
    assert first["artifact_id"] == again["artifact_id"] == other["artifact_id"]
    files = [(tmp_path / f"artifact{i}" / "parameters.safetensors").read_bytes() for i in range(3)]
    assert files[0] == files[1] != files[2]


def test_a_given_specification_is_the_artifacts(tmp_path, small):
    spec = ExampleSpec((3, 5, 5), ("cat", "dog"), colour="rgb", mean=(0.5,) * 3, deviation=(0.25,) * 3)
    (tmp_path / "spec.json").write_bytes(encode_record(spec))
    out = run(small, "-o", tmp_path / "artifact", "--spec", tmp_path / "spec.json")
    assert read_artifact(tmp_path / "artifact").manifest.spec == spec
    assert "cat to dog" in out
    assert "derived" not in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be JSON"),
        ('{"input_shape": [1, 8, 8], "num_classes": 10, "stemm": {}}', "'stemm': did you mean 'stem'?"),
        ('{"input_shape": [1, 8, 8], "num_classes": 10}', "Architecture lacks stem"),
        ('{"input_shape": [1, 8, 8], "num_classes": 1, "stem": {"width": 4}}', "num_classes must be >= 2, got 1"),
        ('{"input_shape": [1, 8, 8], "num_classes": 9, "stem": {"width": 4, "kernel": 2}}', "kernel must be odd"),
        ('{"schema": 9}', "this version reads up to 1: update handheld"),
    ],
)
def test_an_architecture_that_cannot_be_is_told_with_its_file(tmp_path, capsys, text, message):
    path = tmp_path / "architecture.json"
    path.write_text(text)
    code, told = fail(capsys, path, "-o", tmp_path / "artifact")
    assert code == 2
    assert "architecture.json: Architecture" in told
    assert message in told
    assert not (tmp_path / "artifact").exists()


def test_a_missing_file_is_told_with_what_was_wanted(tmp_path, capsys):
    code, told = fail(capsys, tmp_path / "none.json", "-o", tmp_path / "artifact")
    assert code == 2
    assert "none.json cannot be read: No such file or directory; name a JSON file of Architecture" in told


def test_a_specification_of_other_data_is_refused(tmp_path, small, capsys):
    (tmp_path / "spec.json").write_bytes(encode_record(ExampleSpec((1, 8, 8), ("a", "b"))))
    code, told = fail(capsys, small, "-o", tmp_path / "artifact", "--spec", tmp_path / "spec.json")
    assert code == 2
    assert "the architecture takes [3, 5, 5] and 2 classes, the data are [1, 8, 8] and 2; make them agree" in told


def test_an_output_folder_that_holds_something_else_is_left_alone(tmp_path, small, capsys):
    code, told = fail(capsys, small, "-o", tmp_path)
    assert code == 2
    assert "holds small.json, which is no part of an artifact; name an empty or a new folder" in told
    assert decode_record(Architecture, small.read_bytes()) == SMALL


@pytest.mark.parametrize(
    "options",
    [
        ["--module", "nets:make"],
        ["--classes", "2"],
        ["--input", "3x5x5"],
        ["--freeze", "stem.*"],
        ["--segment", "head=*"],
        ["--loss", "mse"],
    ],
)
def test_what_a_module_takes_is_refused_beside_an_architecture(tmp_path, small, capsys, options):
    code, told = fail(capsys, small, "-o", tmp_path / "artifact", *options)
    assert code == 2
    assert ("either an architecture" if "--module" in options else "the rest is for --module") in told


def test_neither_an_architecture_nor_a_module_is_wrong_usage(tmp_path, capsys):
    code, told = fail(capsys, "-o", tmp_path / "artifact")
    assert code == 2
    assert "compile takes either an architecture's JSON file or --module package.file:factory" in told


@pytest.mark.parametrize("option", [["--batch-size", "0"], ["--seed", "-1"], []])
def test_wrong_options_are_wrong_usage(tmp_path, small, capsys, option):
    output = ["-o", tmp_path / "artifact"] if option else []
    assert fail(capsys, small, *output, *option)[0] == 2
