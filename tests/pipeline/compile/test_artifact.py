import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from device_runtime.artifact import read_artifact
from device_runtime.session import StepSession
from device_runtime.specs import ExampleSpec
from device_runtime.vectors import read_parameters
from pipeline.compile import artifact as artifact_module
from pipeline.compile import writing
from pipeline.compile.artifact import (
    CompileRequest,
    cached_artifact,
    compile_architecture,
    initial_parameters,
)
from pipeline.compile.folders import FILES
from pipeline.compile.versions import compiler_versions
from search.architecture import Architecture, Stage, Stem

SMALL = Architecture((1, 6, 6), 3, Stem(4), (Stage("inverted", 4, 1, 3, 1, 2),), "flatten", "group", "hard_swish")
SPEC = ExampleSpec(SMALL.input_shape, ("a", "b", "c"), colour="grey")
REQUEST = CompileRequest(SMALL, SPEC, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compiled") / "artifact"
    compile_architecture(REQUEST, folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_an_artifact_holds_the_files_of_the_design_and_nothing_else(folder):
    assert {path.name for path in folder.iterdir()} == set(FILES) - {"frozen.safetensors"}  # nothing is frozen
    assert {path.name for path in folder.parent.iterdir()} == {"artifact"}
    assert {"training_model.onnx", "eval_model.onnx", "optimizer_model.onnx", "checkpoint"} <= {
        path.name for path in (folder / "ort_training").iterdir()
    }


def test_the_manifest_describes_the_graphs(folder):
    manifest = read_artifact(folder).manifest
    models = [onnx.load(folder / name) for name in ("gradient.onnx", "evaluate.onnx")]
    assert set(manifest.operators) == {node.op_type for model in models for node in model.graph.node}
    assert (manifest.batch_size, manifest.opset, manifest.metrics) == (4, 17, ("accuracy",))
    assert manifest.num_parameters == sum(int(np.prod(entry.shape)) for entry in manifest.layout)
    assert [entry.offset for entry in manifest.layout][:2] == [0, 4 * 9]
    assert {entry.segment for entry in manifest.layout} == set(manifest.segments) == {"weights"}
    assert manifest.spec == SPEC
    assert manifest.architecture["stem"]["width"] == 4
    assert manifest.architecture_id == REQUEST.architecture_id()


def test_initial_parameters_are_torchs_from_the_seed(folder):
    manifest = read_artifact(folder).manifest
    vector = read_parameters(folder / "parameters.safetensors", manifest)
    np.testing.assert_array_equal(vector, initial_parameters(SMALL, 0))
    assert not np.array_equal(vector, initial_parameters(SMALL, 1))


def test_the_seed_of_the_parameters_changes_neither_id_nor_graphs(folder, tmp_path):
    other = compile_architecture(REQUEST, tmp_path / "artifact", seed=7)
    assert other.artifact_id == read_artifact(folder).artifact_id
    first, second = contents(folder), contents(tmp_path / "artifact")
    assert {name for name in first if first[name] != second[name]} == {"certificate.json", "parameters.safetensors"}


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(replace(REQUEST, batch_size=5), id="batch size"),
        pytest.param(replace(REQUEST, spec=replace(SPEC, labels=("a", "b", "d"))), id="labels"),
        pytest.param(replace(REQUEST, spec=replace(SPEC, mean=(0.5,))), id="mean"),
        pytest.param(replace(REQUEST, architecture=replace(SMALL, activation="relu")), id="activation"),
        pytest.param(replace(REQUEST, architecture=replace(SMALL, stem=Stem(5))), id="width"),
    ],
)
def test_whatever_is_compiled_changes_the_id(folder, tmp_path, request_):
    assert request_.architecture_id() != REQUEST.architecture_id()
    changed = compile_architecture(request_, tmp_path / "artifact")
    assert changed.artifact_id != read_artifact(folder).artifact_id


@pytest.mark.parametrize("name", ["handheld-compiler", "torch", "onnxruntime-training"])
def test_a_version_that_compiles_changes_the_architecture_id(monkeypatch, name):
    before = REQUEST.architecture_id()
    versions = {**compiler_versions(), name: "other"}
    monkeypatch.setattr(artifact_module, "compiler_versions", lambda: versions)
    assert REQUEST.architecture_id() != before


COMPILE = """
import sys
from pathlib import Path
from device_runtime.specs import ExampleSpec
from pipeline.compile.artifact import CompileRequest, compile_architecture
from profiles.records import decode_record
from search.architecture import Architecture
architecture = decode_record(Architecture, Path(sys.argv[1]).read_bytes())
spec = decode_record(ExampleSpec, Path(sys.argv[2]).read_bytes())
print(compile_architecture(CompileRequest(architecture, spec, 4), Path(sys.argv[3])).artifact_id)
"""


@pytest.mark.slow
def test_a_process_with_another_hash_seed_gives_the_same_bytes(folder, tmp_path):
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for name in ("architecture", "spec"):
        (tmp_path / name).write_text(json.dumps(manifest[name]))
    printed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILE, "architecture", "spec", "artifact"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    assert printed.strip() == read_artifact(folder).artifact_id
    for name in ("gradient.onnx", "evaluate.onnx", "manifest.json", "parameters.safetensors"):
        assert (tmp_path / "artifact" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spec": replace(SPEC, shape=(1, 6, 7))}, r"takes \[1, 6, 6\] and 3 classes, the data are \[1, 6, 7\] and 3"),
        ({"spec": replace(SPEC, labels=("a", "b"))}, "3 classes, the data are .* and 2; make them agree"),
        ({"spec": replace(SPEC, dtype="int64", colour="none")}, "dtype must be float32 for a convolution, got int64"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"spec": replace(SPEC, target="values")}, "a classifier: target must be 'class', got 'values'"),
    ],
)
def test_a_request_at_odds_with_itself_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(REQUEST, **changes)


def test_an_artifact_replaces_an_artifact(folder, tmp_path):
    other = tmp_path / "artifact"
    compile_architecture(replace(REQUEST, batch_size=2), other)
    assert compile_architecture(REQUEST, other).artifact_id == read_artifact(folder).artifact_id
    assert read_artifact(other).manifest.batch_size == 4
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_another_process_may_have_been_first(folder, tmp_path, monkeypatch):
    # Both found nothing there; the other one finishes while this one compiles.
    certify = writing.certify

    def slow(*arguments, **options):
        if not (tmp_path / "artifact").exists():
            monkeypatch.undo()
            compile_architecture(REQUEST, tmp_path / "artifact")
        return certify(*arguments, **options)

    monkeypatch.setattr(writing, "certify", slow)
    compile_architecture(REQUEST, tmp_path / "artifact")
    assert read_artifact(tmp_path / "artifact").artifact_id == read_artifact(folder).artifact_id
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_compiling_leaves_the_number_of_threads_alone(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        compile_architecture(REQUEST, tmp_path / "artifact")
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_nothing_is_compiled_twice(tmp_path, monkeypatch):
    first = cached_artifact(REQUEST, tmp_path)
    monkeypatch.setattr(artifact_module, "compile_architecture", lambda *_: pytest.fail("compiled again"))
    assert cached_artifact(REQUEST, tmp_path) == first
    assert [path.name for path in tmp_path.iterdir()] == [REQUEST.architecture_id()]


@pytest.mark.parametrize("name", ["manifest.json", pytest.param("gradient.onnx", marks=pytest.mark.slow)])
@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"{}"), Path.unlink], ids=["altered", "missing"])
def test_a_damaged_cache_entry_is_compiled_again(folder, tmp_path, name, damage):
    entry = tmp_path / REQUEST.architecture_id()
    compile_architecture(REQUEST, entry)
    damage(entry / name)
    assert cached_artifact(REQUEST, tmp_path).artifact_id == read_artifact(folder).artifact_id
    assert read_artifact(entry).artifact_id == read_artifact(folder).artifact_id


def test_a_cache_entry_of_another_architecture_is_compiled_again(folder, tmp_path):
    compile_architecture(replace(REQUEST, batch_size=2), tmp_path / REQUEST.architecture_id())
    assert cached_artifact(REQUEST, tmp_path).manifest.batch_size == 4


def test_a_device_runs_the_artifact(folder):
    artifact = read_artifact(folder)
    session = StepSession(artifact)
    parameters = read_parameters(folder / "parameters.safetensors", artifact.manifest)
    x = np.random.default_rng(0).standard_normal((6, 1, 6, 6)).astype(np.float32)
    y = np.array([0, 1, 2, 0, 1, 2])
    losses = []
    for _ in range(30):
        gradient_sum, loss_sum, _ = session.gradient(parameters, x, y)
        losses.append(loss_sum)
        parameters = parameters - np.float32(0.05) * gradient_sum
    assert losses[-1] < losses[0] / 2
