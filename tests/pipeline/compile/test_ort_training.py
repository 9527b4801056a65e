from pathlib import Path

import numpy as np
import pytest
import torch
from onnxruntime.training import api
from torch import nn

from device_runtime.artifact import read_artifact
from device_runtime.session import StepSession
from device_runtime.specs import ExampleSpec
from device_runtime.vectors import read_parameters
from pipeline.compile.artifact import CompileRequest, compile_architecture
from pipeline.compile.losses import Loss
from pipeline.compile.ort_training import WRITTEN, write_ort_training
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
    compile_architecture(CompileRequest(architecture, ExampleSpec((3, 9, 8), ("a", "b", "c")), 5), folder)
    return folder


def classic_step(files: Path, *batch: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
    """Mean loss and parameters by name after one SGD step of ORT Training's own module."""
    state = api.CheckpointState.load_checkpoint(str(files / "checkpoint"))
    module = api.Module(str(files / "training_model.onnx"), state, str(files / "eval_model.onnx"))
    optimizer = api.Optimizer(str(files / "optimizer_model.onnx"), module)
    optimizer.set_learning_rate(LEARNING_RATE)
    module.train()
    loss = module(*batch)
    optimizer.step()
    return float(loss), {name: parameter.data for name, parameter in state.parameters}


def test_a_step_of_ort_trainings_own_module_is_our_unclipped_step(folder):
    artifact = read_artifact(folder)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((5, 3, 9, 8)).astype(np.float32), rng.integers(0, 3, 5)
    start = read_parameters(folder / "parameters.safetensors", artifact.manifest)
    gradient_sum, loss_sum, _ = StepSession(artifact).gradient(start, x, y)
    loss, after = classic_step(folder / "ort_training", x, y)
    assert np.isfinite(loss)
    assert loss == pytest.approx(loss_sum / 5, rel=1e-5)
    expected = start - LEARNING_RATE * gradient_sum / 5
    assert {entry.name for entry in artifact.manifest.layout} == set(after)
    for entry in artifact.manifest.layout:
        part = slice(entry.offset, entry.offset + int(np.prod(entry.shape)))
        np.testing.assert_allclose(after[entry.name].ravel(), expected[part], atol=1e-5)
        assert not np.array_equal(after[entry.name].ravel(), start[part])


class Pair(nn.Module):
    """Two inputs, frozen parameters, and one that no loss reaches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Linear(5, 4).requires_grad_(False), nn.Linear(3, 4)
        self.head, self.spare = nn.Linear(4, 2), nn.Linear(2, 2)

    def forward(self, left, right):
        return self.head(torch.relu(self.left(left) + self.right(right)))


LOSSES = {
    "cross_entropy": (nn.functional.cross_entropy, torch.tensor([0, 1, 1, 0])),
    "bce_with_logits": (nn.functional.binary_cross_entropy_with_logits, torch.rand(4, 2)),
    "mse": (nn.functional.mse_loss, torch.rand(4, 2)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_on_several_inputs_is_torchs_with_every_loss(tmp_path, name):
    module, (loss, y) = Pair(), LOSSES[name]
    left, right = torch.rand(4, 5), torch.rand(4, 3)
    examples = {"x.left": left, "x.right": right}
    assert write_ort_training(module, examples, Loss(name), tmp_path / "classic") == WRITTEN
    found, after = classic_step(tmp_path / "classic", left.numpy(), right.numpy(), y.numpy())
    expected = loss(module(left, right), y)
    expected.backward()
    assert found == pytest.approx(expected.item(), rel=1e-5)
    for part in ("right", "head"):
        parameter = getattr(module, part).weight
        moved = (parameter - LEARNING_RATE * parameter.grad).detach().numpy()
        np.testing.assert_allclose(after[f"{part}.weight"].reshape(moved.shape), moved, atol=1e-6)


class Half(nn.Module):
    """Of two parts of the hidden values, one is used."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(3, 6), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.body(x).split([2, 4], 1)[1])


def test_a_part_of_a_split_that_nobody_uses_takes_no_step(tmp_path):
    torch.manual_seed(0)
    module, x, y = Half(), torch.rand(4, 3), torch.tensor([0, 1, 1, 0])
    assert write_ort_training(module, {"x": x}, Loss(), tmp_path / "classic") == WRITTEN
    _, after = classic_step(tmp_path / "classic", x.numpy(), y.numpy())
    nn.functional.cross_entropy(module(x), y).backward()
    moved = (module.body.weight - LEARNING_RATE * module.body.weight.grad).detach().numpy()
    np.testing.assert_allclose(after["body.weight"].reshape(moved.shape), moved, atol=1e-6)


@pytest.mark.parametrize(
    ("module", "loss", "reason"),
    [
        (nn.Linear(4, 2), Loss(label_smoothing=0.1), "left out: ORT Training's cross-entropy has no label smoothing"),
        (
            nn.Sequential(nn.Linear(4, 4), nn.ELU(), nn.Linear(4, 2)),
            Loss(),
            "not been registered: Elu for node",
        ),
    ],
)
def test_what_ort_training_cannot_do_by_itself_is_left_out_with_the_reason(tmp_path, module, loss, reason):
    told = write_ort_training(module, {"x": torch.zeros(2, 4)}, loss, tmp_path / "classic")
    assert told.startswith("left out: ")
    assert reason in told
    assert not (tmp_path / "classic").exists()


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(64, 2)),
        nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4), nn.Flatten(), nn.Linear(64, 2)),
    ],
)
def test_padding_before_a_norm_is_written(tmp_path, module):
    assert write_ort_training(module, {"x": torch.zeros(2, 2, 4, 4)}, Loss(), tmp_path / "classic") == WRITTEN


@pytest.mark.parametrize("pad", [nn.ReflectionPad2d(1), nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")])
@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 2), nn.InstanceNorm2d(2)])
def test_reflection_before_a_norm_is_written_or_left_out(tmp_path, pad, norm):
    module = nn.Sequential(pad, norm, nn.Flatten(), nn.LazyLinear(2))
    module(torch.zeros(2, 2, 4, 4))
    told = write_ort_training(module, {"x": torch.zeros(2, 2, 4, 4)}, Loss(), tmp_path / "classic")
    assert told == WRITTEN or told.startswith("left out: ")


@pytest.mark.parametrize("kind", [TypeError, ValueError, RuntimeError])
def test_an_export_that_fails_is_a_reason(tmp_path, monkeypatch, kind):
    def fails(*_):
        raise kind("no sizes")

    monkeypatch.setattr("pipeline.compile.ort_training.export_plain", fails)
    told = write_ort_training(nn.Linear(4, 2), {"x": torch.zeros(2, 4)}, Loss(), tmp_path / "classic")
    assert told == "left out: no sizes"
