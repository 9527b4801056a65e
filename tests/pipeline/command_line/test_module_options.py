import json
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from device_runtime.artifact import read_artifact
from device_runtime.console import build_app, run_program
from device_runtime.specs import ExampleSpec, InputSpec
from device_runtime.vectors import read_parameters
from pipeline.command_line import PROGRAM
from pipeline.command_line.module_options import parse_input, parse_segments
from profiles.records import encode_record

NUMBERS = count()
NETS = """
import torch
from torch import nn

def make_net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 4))

def make_normalised():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 4))

def make_broken():
    raise ValueError("no weights here")

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(5, 1000)
        self.head = nn.Linear(1000 + 4, 2)
        self.spare = nn.Linear(2, 2)
    def forward(self, left, right):
        return self.head(torch.cat([torch.relu(self.body(left)), right], 1))
"""
IMAGES = ("--input", "3x5x5", "--classes", "4", "--batch-size", "4")


@pytest.fixture
def nets(tmp_path, monkeypatch) -> str:
    """Name of a file with factories in the current directory, not imported before."""
    name = f"networks_{next(NUMBERS)}"
    (tmp_path / f"{name}.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def run(*arguments: object) -> str:
    result = CliRunner().invoke(build_app(PROGRAM), ["compile", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def fail(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit) as left:
        run_program(PROGRAM, ["compile", "-o", "artifact", *map(str, arguments)])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert left.value.code == 2
    assert not Path("artifact").exists()
    return " ".join(captured.err.split())


def test_a_module_compiles_and_the_summary_says_what_was_made(nets):
    out = run("--module", f"{nets}:make_net", *IMAGES, "--segment", "head=3.*", "-o", "artifact")
    manifest = read_artifact(Path("artifact")).manifest
    assert manifest.architecture == {"module": f"{nets}:make_net"}
    assert (manifest.spec.shape, manifest.spec.labels) == ((3, 5, 5), ("0", "1", "2", "3"))
    assert manifest.segments == ("head", "weights")
    for told in ("260: 148 in head, 112 in weights", "colour rgb", "derived from", "independence", "gradient.onnx"):
        assert told in " ".join(out.split())


def test_everything_that_can_be_chosen_reaches_the_artifact(nets):
    options = ("--loss", "bce_with_logits", "--freeze", "body.*", "--segment", "head=head.*", "--batch-size", "3")
    inputs = ("--input", "right=4", "--input", "left=5", "--classes", "2")
    result = json.loads(run("--module", f"{nets}:Pair", *inputs, *options, "-o", "artifact", "--json"))
    manifest = read_artifact(Path("artifact")).manifest
    assert manifest.spec.inputs == (InputSpec("left", (5,)), InputSpec("right", (4,)))  # as forward has them
    assert (manifest.spec.target, manifest.loss, manifest.batch_size) == ("values", "bce_with_logits", 3)
    assert [entry.name for entry in manifest.layout] == ["head.weight", "head.bias", "spare.weight", "spare.bias"]
    assert result["segments"] == {"head": 2010, "weights": 6}
    assert result["frozen"]["shapes"] == {"body.weight": [1000, 5]}
    assert result["files"]["frozen.safetensors"] > 4 * 5000
    assert result["certificate"]["forms"]["spare.weight"] == "reaches no loss"


def test_the_summary_tells_forms_frozen_values_and_what_is_not_trained_by_the_loss(nets):
    inputs = ("--input", "right=4", "--input", "left=5", "--classes", "2")
    out = run("--module", f"{nets}:Pair", *inputs, "--freeze", "body.*", "-o", "artifact")
    out = " ".join(out.replace("│", " ").split())  # words as the table folds them
    for told in (
        "5,000 values of 1 tensor",
        "not use spare.bias, spare.weight: their gradient is zero",
        "left 5 float32",
    ):
        assert told in out


def test_an_input_alone_may_have_forwards_name(nets):
    run(
        "--module",
        f"{nets}:make_net",
        "--input",
        "input=3x5x5",
        "--classes",
        "4",
        "--batch-size",
        "2",
        "-o",
        "artifact",
    )
    assert read_artifact(Path("artifact")).manifest.spec.shape == (3, 5, 5)


def test_the_seed_draws_the_factorys_values_and_is_no_part_of_the_artifact(nets):
    ids, vectors = set(), []
    for seed in (0, 1):
        ids.add(
            json.loads(run("--module", f"{nets}:make_net", *IMAGES, "--seed", seed, "-o", "a", "--json"))["artifact_id"]
        )
        vectors.append(read_parameters(Path("a") / "parameters.safetensors", read_artifact(Path("a")).manifest))
    assert len(ids) == 1
    assert not np.array_equal(*vectors)


def test_what_the_users_file_prints_is_no_part_of_the_result(nets, tmp_path):
    talking = "print('imported')\n" + NETS + "\nclass Talking(nn.Linear):\n    def forward(self, x):\n"
    talking += "        print('called')\n        return super().forward(x)\ndef make():\n    print('made')\n"
    talking += "    return Talking(3, 2)\n"
    (tmp_path / f"talking_{nets}.py").write_text(talking)
    arguments = ["--module", f"talking_{nets}:make", "--input", "3", "--classes", "2", "-o", "artifact", "--json"]
    result = CliRunner().invoke(build_app(PROGRAM), ["compile", *arguments], catch_exceptions=False)
    assert json.loads(result.stdout)["num_parameters"] == 8
    assert {"imported", "made", "called"} <= set(result.stderr.split())


def test_training_starts_from_given_weights(nets):
    stored = {"0.weight": (4, 3, 3, 3), "0.bias": (4,), "3.weight": (4, 36), "3.bias": (4,)}
    save_file({name: torch.full(shape, 0.01) for name, shape in stored.items()}, "weights.safetensors")
    run("--module", f"{nets}:make_net", *IMAGES, "--weights", "weights.safetensors", "-o", "a")
    vector = read_parameters(Path("a") / "parameters.safetensors", read_artifact(Path("a")).manifest)
    np.testing.assert_array_equal(vector, np.full(260, 0.01, np.float32))


def test_a_specification_says_inputs_and_classes(nets):
    spec = ExampleSpec((3, 5, 5), ("cat", "dog", "cow", "pig"), colour="rgb", mean=(0.5,) * 3, deviation=(0.25,) * 3)
    Path("spec.json").write_bytes(encode_record(spec))
    out = run("--module", f"{nets}:make_net", "--spec", "spec.json", "--batch-size", 2, "-o", "artifact")
    assert read_artifact(Path("artifact")).manifest.spec == spec
    assert "cat to pig" in out


def test_batch_normalisation_can_be_replaced(nets, capsys):
    told = fail(capsys, "--module", f"{nets}:make_normalised", *IMAGES)
    assert "layer '1' (BatchNorm2d) normalises with the statistics of the batch" in told
    assert "--replace-batchnorm" in told
    run("--module", f"{nets}:make_normalised", *IMAGES, "--replace-batchnorm", "-o", "artifact")
    assert read_artifact(Path("artifact")).manifest.layout[2].name == "1.weight"


def test_frozen_batch_normalisation_is_folded(nets):
    run("--module", f"{nets}:make_normalised", *IMAGES, "--freeze", "[01].*", "-o", "artifact")
    assert "1.weight" not in {entry.name for entry in read_artifact(Path("artifact")).manifest.layout}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["{nets}:make_ned", *IMAGES], "has no 'make_ned': did you mean 'make_net'"),
        (
            ["{nets}:make_net", "--classes", "4"],
            "--module needs --input, the shape of one example as 3x32x32, or --spec",
        ),
        (
            ["{nets}:make_net", "--input", "3x5x5"],
            "--module needs --classes, the number of classes or values, or --spec",
        ),
        (
            ["{nets}:make_net", "--input", "3x5x6", "--classes", "4"],
            "forward fails on x [8, 3, 5, 6] (the batch first)",
        ),
        (["{nets}:make_net", "--input", "3x5x5", "--classes", "5"], "gives 4 outputs and num_classes is 5"),
        (["{nets}:make_net", *IMAGES, "--freeze", "4.*"], "pattern '4.*' matches no parameter; near it are"),
        (["{nets}:make_net", *IMAGES, "--freeze", "*"], "nothing is trained: no parameter has requires_grad=True"),
        (["{nets}:make_net", *IMAGES, "--segment", "head=x.*"], "pattern 'x.*' matches no parameter"),
        (
            ["{nets}:make_net", *IMAGES, "--freeze", "0.*", "--segment", "body=0.*"],
            "segment 'body' is empty: nothing that '0.*' matches is trained; leave it out",
        ),
        (["{nets}:make_net", *IMAGES, "--replace-batchnorm"], "there is no BatchNorm in training mode to replace"),
        (["{nets}:Pair", "--input", "left=5", "--classes", "2"], "forward takes 'right' too; give an example of it"),
        (
            ["{nets}:make_net", "--input", "a=3x5x5", "--input", "b=4", "--classes", "4"],
            "forward has no input 'a': it takes input",
        ),
        (
            ["{nets}:make_net", "--input", "image=3x5x5", "--classes", "4"],
            "forward has no input 'image': it takes input",
        ),
        (["{nets}:make_broken", *IMAGES], "make_broken fails: ValueError: no weights here (at networks_"),
        (["{nets}:make_net", *IMAGES, "--segment", "head"], "--segment must be NAME=PATTERN"),
        (["{nets}:make_net", *IMAGES, "--loss", "hinge"], "loss must be one of bce_with_logits, cross_entropy, mse"),
        (["{nets}:make_net", *IMAGES, "--label-smoothing", "1"], "label_smoothing must be in [0, 1), got 1.0"),
        (["{nets}:make_net", *IMAGES, "--weights", "none"], "none cannot be read"),
        (["{nets}:Pair", "--input", "5", "--input", "4", "--classes", "2"], "needs forward's name for it"),
        (
            ["{nets}:Pair", "--input", "lft=5", "--input", "right=4", "--classes", "2"],
            "no input 'lft': did you mean 'left'",
        ),
    ],
)
def test_what_cannot_be_compiled_is_told_with_the_cure(nets, capsys, options, message):
    target, *others = options
    assert message in fail(capsys, "--module", target.format(nets=nets), *others)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("3x32x32", InputSpec("x", (3, 32, 32))),
        ("64:int64", InputSpec("x", (64,), "int64")),
        ("ids=64:int64", InputSpec("ids", (64,), "int64")),
        ("image=1x8:float32", InputSpec("image", (1, 8))),
    ],
)
def test_an_input_is_read(text, spec):
    assert parse_input(text) == spec


@pytest.mark.parametrize("text", ["", "3x", "x3", "3,32,32", "64:int32", "=64", "1a=64", "-3x4", "3x32x32:"])
def test_a_text_that_is_no_input_is_told_with_what_would_be(text):
    with pytest.raises(ValueError, match=r"--input must be sizes of one example as 3x32x32, .* \(ids=64:int64\), got "):
        parse_input(text)


def test_an_input_of_no_size_is_refused():
    with pytest.raises(ValueError, match="'x' must have sizes >= 1, got"):
        parse_input("3x0")


def test_segments_are_read_in_order():
    assert list(parse_segments(["b=x.*", "a=y=z"]).items()) == [("b", "x.*"), ("a", "y=z")]


@pytest.mark.parametrize("texts", [["head"], ["=x"], ["head="], ["head=a", "head=b"]])
def test_a_text_that_is_no_segment_is_told(texts):
    with pytest.raises(ValueError, match="--segment must be NAME=PATTERN, each name once"):
        parse_segments(texts)
