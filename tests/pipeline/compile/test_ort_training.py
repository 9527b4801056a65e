from pathlib import Path

import numpy as np
import pytest
from onnxruntime.training import api

from device_runtime.artifact import read_artifact
from device_runtime.session import StepSession
from device_runtime.specs import ExampleSpec
from device_runtime.vectors import read_parameters
from pipeline.compile.artifact import CompileRequest, compile_artifact
from search.architecture import Architecture, Stage, Stem

LEARNING_RATE = 0.1


@pytest.fixture(
    scope="module", params=[("none", "relu", "flatten"), ("group", "hard_swish", "global_average")], ids=lambda p: p[0]
)
def folder(request, tmp_path_factory) -> Path:
    normalization, activation, head = request.param
    stages = (Stage("inverted", 4, 1, 3, 1, 2), Stage("depthwise", 6, 1, 3, 2))
    architecture = Architecture((3, 9, 8), 3, Stem(4), stages, head, normalization, activation)
    folder = tmp_path_factory.mktemp("classic") / "artifact"
    compile_artifact(CompileRequest(architecture, ExampleSpec((3, 9, 8), ("a", "b", "c")), 5), folder)
    return folder


def classic_step(folder: Path, x: np.ndarray, y: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
    """Mean loss and parameters by name after one SGD step of ORT Training's own module."""
    files = folder / "ort_training"
    state = api.CheckpointState.load_checkpoint(str(files / "checkpoint"))
    module = api.Module(str(files / "training_model.onnx"), state, str(files / "eval_model.onnx"))
    optimizer = api.Optimizer(str(files / "optimizer_model.onnx"), module)
    optimizer.set_learning_rate(LEARNING_RATE)
    module.train()
    loss = module(x, y)
    optimizer.step()
    return float(loss), {name: parameter.data for name, parameter in state.parameters}


def test_a_step_of_ort_trainings_own_module_is_our_unclipped_step(folder):
    artifact = read_artifact(folder)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((5, 3, 9, 8)).astype(np.float32), rng.integers(0, 3, 5)
    start = read_parameters(folder / "parameters.safetensors", artifact.manifest)
    gradient_sum, loss_sum, _ = StepSession(artifact).gradient(start, x, y)
    loss, after = classic_step(folder, x, y)
    assert np.isfinite(loss)
    assert loss == pytest.approx(loss_sum / 5, rel=1e-5)
    expected = start - LEARNING_RATE * gradient_sum / 5
    assert {entry.name for entry in artifact.manifest.layout} == set(after)
    for entry in artifact.manifest.layout:
        part = slice(entry.offset, entry.offset + int(np.prod(entry.shape)))
        np.testing.assert_allclose(after[entry.name].ravel(), expected[part], atol=1e-5)
        assert not np.array_equal(after[entry.name].ravel(), start[part])
