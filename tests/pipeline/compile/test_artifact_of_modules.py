import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from device_runtime.artifact import Artifact
from device_runtime.session import StepSession
from device_runtime.specs import ExampleSpec, InputSpec
from device_runtime.vectors import read_parameters
from pipeline.compile.artifact import compile_artifact
from pipeline.compile.builder import CompileError
from pipeline.compile.folders import FILES
from pipeline.compile.losses import Loss

IMAGE = torch.zeros(3, 5, 5)


def make_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 4))


class Tuned(nn.Module):
    """A large body, a small neck and a head that is trained; something that no loss reaches."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.neck = nn.Linear(6, 900), nn.Linear(900, 4)
        self.head, self.spare = nn.Linear(4, num_classes), nn.Linear(2, 2)
        for part in (self.body, self.neck):
            part.requires_grad_(False)

    def forward(self, x):
        return self.head(torch.relu(self.neck(torch.relu(self.body(x)))))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Linear(5, 4), nn.Linear(3, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, left, right):
        return self.head(torch.relu(self.left(left) + self.right(right)))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Artifact:
    return compile_artifact(make_net(), IMAGE, 4, tmp_path_factory.mktemp("compiled") / "artifact", batch_size=3)


def compile_again(folder: Path, **changes) -> Artifact:
    options = {"module": make_net(), "example_inputs": IMAGE, "num_classes": 4, "batch_size": 3, **changes}
    return compile_artifact(folder=folder / "artifact", **options)


def test_the_manifest_has_the_modules_own_names(artifact):
    manifest = artifact.manifest
    assert {entry.name: entry.shape for entry in manifest.layout} == {
        name: tuple(value.shape) for name, value in make_net().named_parameters()
    }
    assert manifest.architecture == {"module": "torch.nn.modules.container:Sequential"}
    assert (manifest.batch_size, manifest.metrics, manifest.frozen) == (3, ("accuracy",), None)


def test_training_starts_from_the_modules_values_and_the_module_is_left_as_it_is(tmp_path):
    module = make_net().eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    compiled = compile_artifact(module, IMAGE, 4, tmp_path / "artifact", batch_size=2)
    vector = read_parameters(tmp_path / "artifact" / "parameters.safetensors", compiled.manifest)
    np.testing.assert_array_equal(vector, np.concatenate([value.numpy().ravel() for value in before.values()]))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not module.training


def test_neither_trained_values_nor_the_name_change_the_architecture_id(artifact, tmp_path):
    again = compile_again(tmp_path, module=make_net(1), name="nets:make_net")
    assert again.manifest.architecture_id == artifact.manifest.architecture_id
    assert again.manifest.architecture == {"module": "nets:make_net"}
    assert (again.gradient, again.evaluate) == (artifact.gradient, artifact.evaluate)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 2},
        {"segments": {"head": "3.*"}},
        {"loss": Loss("mse")},
        {"loss": Loss(label_smoothing=0.1)},
        {"spec": ExampleSpec((3, 5, 5), ("a", "b", "c", "d"))},
        {"module": nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.ReLU(), nn.Linear(36, 4))},
        {"module": nn.Sequential(nn.Conv2d(3, 4, 3).requires_grad_(False), nn.ReLU(), nn.Flatten(), nn.Linear(36, 4))},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_whatever_decides_the_graphs_changes_the_architecture_id(artifact, tmp_path, changes):
    assert compile_again(tmp_path, **changes).manifest.architecture_id != artifact.manifest.architecture_id


def test_small_frozen_values_are_a_part_of_the_architecture(tmp_path):
    first, second = Tuned(3), Tuned(3)
    second.neck.bias.data += 1
    ids = {compile_artifact(module, torch.zeros(6), 3, tmp_path / "artifact").artifact_id for module in (first, second)}
    assert len(ids) == 2


COMPILE = """
import sys, torch
from pathlib import Path
from torch import nn
from pipeline.compile.artifact import compile_artifact
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 70), nn.Linear(3, 70).requires_grad_(False), nn.Linear(70, 70)
        self.register_buffer("table", torch.ones(70, 70))
    def forward(self, left, right):
        return self.c(torch.relu(self.a(left) + self.b(right)) @ self.table)
torch.manual_seed(0)
options = {"segments": {"head": "c.*", "biases": "*.bias"}, "batch_size": 2}
inputs = {"right": torch.zeros(3), "left": torch.zeros(5)}
print(compile_artifact(Net(), inputs, 70, Path(sys.argv[1]), **options).manifest.architecture_id)
"""


@pytest.mark.slow
def test_a_process_with_another_hash_seed_gives_the_same_bytes(tmp_path, monkeypatch, capsys):
    (tmp_path / "script.py").write_text(COMPILE)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "script.py", "theirs"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["script.py", "ours"])
    runpy.run_path("script.py", run_name="__main__")
    assert capsys.readouterr().out.strip() == done.stdout.strip()
    for name in set(FILES) - {"certificate.json", "ort_training"}:  # these hold times
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()


def test_a_frozen_backbone_is_one_file_for_all_artifacts_that_share_it(tmp_path):
    first = compile_artifact(Tuned(3), torch.zeros(6), 3, tmp_path / "first", batch_size=2)
    second = compile_artifact(Tuned(5), torch.zeros(6), 5, tmp_path / "second", batch_size=4, loss=Loss("mse"))
    files = [(tmp_path / name / "frozen.safetensors").read_bytes() for name in ("first", "second")]
    assert files[0] == files[1]
    assert first.manifest.frozen == second.manifest.frozen
    assert first.manifest.frozen.shapes == {"body.weight": (900, 6)}  # the others are small enough for the graphs
    np.testing.assert_array_equal(first.frozen["body.weight"], Tuned(3).body.weight.detach().numpy())
    assert len(first.gradient) < 4 * 900 * 6
    assert [entry.name for entry in first.manifest.layout] == ["head.weight", "head.bias", "spare.weight", "spare.bias"]


def test_the_step_of_a_tuned_head_is_torchs(tmp_path):
    module = Tuned(3)
    session = StepSession(compile_artifact(module, torch.zeros(6), 3, tmp_path / "artifact", batch_size=4))
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4, 6)).astype(np.float32), np.array([0, 1, 2, 0])
    parameters = np.concatenate(
        [value.detach().numpy().ravel() for value in (*module.head.parameters(), *module.spare.parameters())]
    )
    gradient_sum, loss_sum, norms = session.gradient(parameters, x, y)
    loss = nn.functional.cross_entropy(module(torch.from_numpy(x)), torch.from_numpy(y), reduction="sum")
    loss.backward()
    expected = np.concatenate([value.grad.numpy().ravel() for value in module.head.parameters()])
    np.testing.assert_allclose(gradient_sum, [*expected, *[0] * 6], atol=1e-5)
    assert loss_sum == pytest.approx(loss.item(), rel=1e-5)
    assert (norms > 0).all()


@pytest.mark.parametrize("name", ["bce_with_logits", "mse"])
def test_losses_of_values_train_on_several_inputs(tmp_path, name):
    module, example = Pair(), (torch.zeros(5), torch.zeros(3))
    compiled = compile_artifact(module, example, 2, tmp_path / "artifact", batch_size=4, loss=Loss(name))
    assert compiled.manifest.spec == ExampleSpec(
        (), ("0", "1"), inputs=(InputSpec("left", (5,)), InputSpec("right", (3,))), target="values"
    )
    rng = np.random.default_rng(0)
    x = np.zeros(6, compiled.manifest.spec.row_dtype())
    x["left"], x["right"] = rng.standard_normal((6, 5)), rng.standard_normal((6, 3))
    y = (x["left"][:, :2] > 0).astype(np.float32)
    session = StepSession(compiled)
    parameters = read_parameters(tmp_path / "artifact" / "parameters.safetensors", compiled.manifest)
    first = session.evaluate(parameters, x, y)[0].sum()
    for _ in range(60):
        parameters = parameters - np.float32(0.1) * session.gradient(parameters, x, y)[0]
    assert session.evaluate(parameters, x, y)[0].sum() < first / 2


def test_a_segment_that_no_loss_reaches_has_no_norm(tmp_path):
    segments = {"spare": "spare.*"}
    compiled = compile_artifact(Tuned(3), torch.zeros(6), 3, tmp_path / "artifact", batch_size=2, segments=segments)
    parameters = read_parameters(tmp_path / "artifact" / "parameters.safetensors", compiled.manifest)
    x, y, alone = np.ones((2, 6), np.float32), np.array([0, 1]), np.array([1, 0], np.float32)
    gradient_sum, _, norms = StepSession(compiled).gradient(parameters, x, y, max_grad_norm=1.0, segment_weight=alone)
    assert not gradient_sum.any()
    assert not norms.any()


def test_ids_of_a_table_compile_and_ids_beyond_it_are_told(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 2))
    compiled = compile_artifact(module, torch.zeros(3, dtype=torch.int64), 2, tmp_path / "artifact", batch_size=4)
    assert compiled.manifest.spec == ExampleSpec((3,), ("0", "1"), "int64")
    assert compiled.manifest.num_ids == {"x": 7}
    with pytest.raises(CompileError, match="the example's ids run from 7 to 7, embedding '0' has 7 rows"):
        compile_artifact(module, torch.full((3,), 7), 2, tmp_path / "artifact", batch_size=4)


def test_a_network_that_uses_no_parameter_is_refused(tmp_path):
    module = nn.Sequential(nn.Flatten())
    module.register_parameter("unused", nn.Parameter(torch.zeros(3)))
    with pytest.raises(CompileError, match="no trained parameter reaches the logits; does forward use them"):
        compile_artifact(module, torch.zeros(3), 3, tmp_path / "artifact", batch_size=2)


def test_a_tensor_that_is_used_twice_is_once_in_the_layout(tmp_path):
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    module[2].weight = module[0].weight
    compiled = compile_artifact(module, torch.zeros(4), 4, tmp_path / "artifact", batch_size=2)
    assert [entry.name for entry in compiled.manifest.layout] == ["0.weight", "0.bias", "2.bias"]


def test_the_certificate_tells_how_gradients_are_held_and_which_parameters_reach_no_loss(tmp_path):
    compile_artifact(Tuned(3), torch.zeros(6), 3, tmp_path / "artifact", batch_size=2)
    forms = json.loads((tmp_path / "artifact" / "certificate.json").read_bytes())["forms"]
    assert forms["head.weight"] != "reaches no loss"
    assert forms["spare.weight"] == forms["spare.bias"] == "reaches no loss"


def holding(bias: float = 0.0, buffer: float = 0.0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    module = make_net()
    module[3].bias.data[1] = bias
    module.register_buffer("offset", torch.full((1,), buffer, dtype=dtype))
    return module


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"module": holding(bias=torch.nan)}, "'3.bias' holds a value that is no finite number; give it its values"),
        ({"module": holding(bias=torch.inf)}, "'3.bias' holds a value that is no finite number"),
        ({"module": holding(buffer=torch.nan)}, "'offset' holds a value that is no finite number"),
        ({"module": holding(dtype=torch.float64)}, "'offset' is torch.float64"),
        ({"module": make_net().half()}, r"'0.weight' is torch.float16; a step is float32 .*: call module.float\(\)"),
        ({"module": make_net().to("meta")}, r"'0.weight' is on meta; call module.cpu\(\) first"),
        ({"module": make_net().requires_grad_(False)}, "nothing is trained: no parameter has requires_grad=True"),
        ({"num_classes": 5}, "the network gives 4 outputs and num_classes is 5"),
        ({"example_inputs": torch.zeros(3, 5, 6)}, "forward fails on x"),
        ({"spec": ExampleSpec((3, 5, 5), ("a", "b"))}, "and 4 outputs, the specification says"),
        ({"segments": {"head": "4.*"}}, r"pattern '4.\*' matches no parameter"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"module": nn.Linear}, "the network must be a torch.nn.Module, got <class .*Linear'>; call what makes it"),
        ({"loss": "hinge"}, "loss must be one of bce_with_logits, cross_entropy, mse, got 'hinge'"),
        ({"loss": nn.MSELoss()}, r"the loss must be a Loss, or the name of one, got MSELoss\(\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_compiled_is_told_and_leaves_no_folder(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        compile_again(tmp_path, **changes)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("unmeasured")
def test_a_buffer_may_be_infinite_as_a_mask_is(tmp_path):
    compile_again(tmp_path, module=holding(buffer=-torch.inf))


@pytest.mark.usefixtures("unmeasured")
def test_arrays_names_of_losses_and_folders_as_text_are_taken(artifact, tmp_path):
    options = {"batch_size": 3, "loss": "cross_entropy"}
    again = compile_artifact(make_net(), IMAGE.numpy(), 4, str(tmp_path / "artifact"), **options)
    assert again.artifact_id == artifact.artifact_id


class AsksForTheType(nn.Sequential):
    def forward(self, x):
        return super().forward(x) * (2 if isinstance(self[0], nn.Dropout) else 1)


def test_a_module_that_is_another_one_once_prepared_leaves_no_artifact(tmp_path):
    module = AsksForTheType(nn.Dropout().eval(), nn.Linear(3, 2))
    with pytest.raises(CompileError, match="prepared for compiling differs from yours"):
        compile_artifact(module, torch.zeros(3), 2, tmp_path / "artifact", batch_size=2)
    assert not (tmp_path / "artifact").exists()
