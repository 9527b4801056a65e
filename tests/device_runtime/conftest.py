"""Tiny artifacts: softmax regression and a compiled net of several inputs; and a measurement pack."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from device_runtime.artifact import FILES, FROZEN, Artifact, check_artifact
from device_runtime.ledger_storage import LedgerFile, LedgerMemory, LedgerStorage
from device_runtime.measurement_pack import GRAPHS, PackEntry, PackManifest, archive_of
from device_runtime.session import StepSession
from device_runtime.specs import ExampleSpec, FrozenTensors, InputSpec, LayoutEntry, Manifest
from device_runtime.terms import ARCHITECTURE
from device_runtime.vectors import write_frozen
from pipeline.compile.artifact import compile_artifact
from pipeline.compile.export import export_forward
from pipeline.compile.graphs import Layout, evaluate_model, gradient_model
from pipeline.compile.losses import Loss
from profiles.kernel import Kernel
from profiles.records import decode_record, encode_record
from tests.device_runtime.softmax_regression import open_softmax_regression, write_softmax_regression
from tests.device_runtime.supernet import Supernet

ArtifactFiles = dict[str, bytes]


TOWERS_SPEC = ExampleSpec(
    (),
    ("left", "right"),
    inputs=(InputSpec("pixels", (80,)), InputSpec("scale", ()), InputSpec("counts", (3,), "int64")),
    target="values",
)


class Towers(nn.Module):
    """Two outputs from three inputs; the first layer is frozen and too large to be a constant of the graphs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Linear(80, 64).requires_grad_(False)
        self.head = nn.Linear(64 + 3, 2)

    def forward(self, pixels, scale, counts):
        hidden = torch.relu(self.backbone(pixels)) * scale.unsqueeze(1)
        return self.head(torch.cat([hidden, counts.to(hidden.dtype)], 1))


@cache
def compile_towers(loss: str) -> ArtifactFiles:
    """The artifact's files, 4 examples a batch; the frozen tensors are the same for every loss."""
    examples = {"x.pixels": torch.zeros(4, 80), "x.scale": torch.ones(4), "x.counts": torch.zeros(4, 3).long()}
    forward = export_forward(Towers(), examples)
    layout = Layout(forward.parameters, ("weights",), dict.fromkeys(forward.parameters, "weights"))
    models = gradient_model(forward, layout, Loss(loss)).model, evaluate_model(forward, layout, Loss(loss))
    graphs = [model.SerializeToString(deterministic=True) for model in models]
    frozen = write_frozen(tensors := forward.frozen_inputs)
    hashes = [hashlib.sha256(data).hexdigest() for data in (*graphs, frozen)]
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    manifest = replace(
        decode_record(Manifest, write_softmax_regression((3,), 3, 4)["manifest.json"]),
        spec=TOWERS_SPEC,
        loss=loss,
        layout=(LayoutEntry("head.weight", (2, 67), 0, "weights"), LayoutEntry("head.bias", (2,), 134, "weights")),
        segments=("weights",),
        num_parameters=136,
        metrics=(Loss(loss).metric,),
        gradient_sha256=hashes[0],
        evaluate_sha256=hashes[1],
        frozen=FrozenTensors(hashes[2], shapes),
    )
    return dict(zip((*FILES, FROZEN), (encode_record(manifest), *graphs, frozen), strict=True))


@pytest.fixture(scope="session")
def towers_files() -> Callable[[str], ArtifactFiles]:
    """Files of an artifact with three inputs, values for labels and frozen tensors, by its loss."""
    return compile_towers


@pytest.fixture(scope="session")
def towers_session() -> Callable[[str], StepSession]:
    return cache(lambda loss: StepSession(check_artifact(*compile_towers(loss).values())))


@pytest.fixture(scope="session")
def towers_module() -> nn.Module:
    return Towers().double()


@pytest.fixture(scope="session")
def draw_towers() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Draw x [n] and y f32[n, 2] in [0, 1] for it: (n, seed=0)."""

    def draw(num_examples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        x = np.zeros(num_examples, TOWERS_SPEC.row_dtype())
        x["pixels"] = rng.normal(size=(num_examples, 80))
        x["scale"] = rng.uniform(0.5, 2, num_examples)
        x["counts"] = rng.integers(0, 5, (num_examples, 3))
        return x, rng.uniform(size=(num_examples, 2)).astype(np.float32)

    return draw


@pytest.fixture(scope="session")
def artifact_files() -> ArtifactFiles:
    """Softmax regression over 3 inputs and 3 classes, 4 examples a batch."""
    return write_softmax_regression((3,), 3, 4)


@pytest.fixture(scope="session")
def artifact(artifact_files: ArtifactFiles) -> Artifact:
    return check_artifact(*artifact_files.values())


@pytest.fixture(scope="session")
def session(artifact: Artifact) -> StepSession:
    return StepSession(artifact)


@pytest.fixture(scope="session")
def open_session() -> Callable[..., StepSession]:
    """Open softmax regression of a given (shape, num_classes, batch_size, segment of the bias)."""
    return open_softmax_regression


@pytest.fixture(scope="session")
def searched_session() -> StepSession:
    """Softmax regression whose three biases, the last of its 12 parameters, are called architecture weights."""
    return open_softmax_regression(bias=ARCHITECTURE)


@pytest.fixture(scope="session")
def supernet_session(tmp_path_factory) -> StepSession:
    """A mix of two convolutions, compiled, 4 examples a batch."""
    folder = tmp_path_factory.mktemp("supernet") / "artifact"
    segments = {ARCHITECTURE: "alpha*"}
    return StepSession(compile_artifact(Supernet(), torch.zeros(1, 4, 4), 3, folder, batch_size=4, segments=segments))


@pytest.fixture(scope="session")
def tiny_pack() -> Callable[[Path], Path]:
    """Write a measurement pack into a folder by hand: an empty call, and a network of two kernels in all directions."""
    shape = (2, 8, 8)
    kernels = (Kernel("call", (1,), (1,)), Kernel("relu", shape, shape), Kernel("linear", (2,), (2,)))
    node = helper.make_node
    forward = [node("Relu", ["x"], ["a"], "k0/Relu"), node("Exp", ["a"], ["y"], "k1/Exp")]
    backward = [node("Sign", ["y"], ["is_positive"], "k1/Sign"), node("Mul", ["dy", "is_positive"], ["dx"], "k0/Mul")]
    graphs = [
        ("forward", 0, (0,), [node("Identity", ["x"], ["y"], "k0/Identity")], ["x"], ["y"], [1, 1]),
        ("forward", 1, (1, 2), forward, ["x"], ["y"], [1, *shape]),
        ("evaluate", 1, (1, 2), forward, ["x"], ["y"], [4, *shape]),
        ("gradient", 1, (1, 2), [*forward, *backward], ["x", "dy"], ["y", "dx"], [4, *shape]),
    ]

    def write(folder: Path) -> Path:
        folder.mkdir(parents=True)
        entries, written = [], []
        for direction, network, places, nodes, inputs, outputs, sizes in graphs:
            values = (
                [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name in names]
                for names in (inputs, outputs)
            )
            graph = helper.make_graph(nodes, "network", *values)
            model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
            data = model.SerializeToString(deterministic=True)
            entries.append(PackEntry(places, sizes[0], direction, network, hashlib.sha256(data).hexdigest()))
            written.append(data)
        (folder / GRAPHS).write_bytes(archive_of(written))
        (folder / "manifest.json").write_bytes(encode_record(PackManifest(kernels, tuple(entries), 17, "1.12.0", {})))
        return folder

    return write


@pytest.fixture(params=["file", "memory"])
def storage(request, tmp_path) -> LedgerStorage:
    """Where a ledger lies."""
    return LedgerMemory() if request.param == "memory" else LedgerFile(tmp_path / "ledger.jsonl")
