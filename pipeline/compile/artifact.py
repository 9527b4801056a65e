"""Compile an architecture into an artifact folder, and keep what was compiled by its architecture id."""

import errno
import hashlib
import importlib.metadata
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate, count
from math import prod
from pathlib import Path

import numpy as np
import onnx
import torch

from device_runtime.arrays import Vector
from device_runtime.artifact import LOSSES, Artifact, ArtifactError, read_artifact
from device_runtime.specs import ExampleSpec, LayoutEntry, Manifest
from device_runtime.vectors import write_vector
from pipeline.compile.builder import OPSET, CompileError
from pipeline.compile.certificate import certify
from pipeline.compile.export import export_forward
from pipeline.compile.graphs import Layout, evaluate_model, gradient_model
from pipeline.compile.losses import METRICS, Loss
from pipeline.compile.ort_training import write_ort_training
from pipeline.network import build_module
from profiles.records import encode_record, record_id, to_plain
from search.architecture import Architecture
from search.layers import layers_of

COMPILER_VERSION = "2"  # raised by every change that alters the graphs
MINIMUM_RUNTIME = "1.12.0"  # the first ONNX Runtime with opset 17
SEGMENT = "weights"
FILES = (
    "manifest.json",
    "gradient.onnx",
    "evaluate.onnx",
    "certificate.json",
    "parameters.safetensors",
    "ort_training",
)


@dataclass(frozen=True)
class CompileRequest:
    """What is compiled; its id is the architecture id and the key of the cache.

    Attributes:
        batch_size: B, the examples a graph takes at a time: a memory choice, not a hyper-parameter.
    """

    architecture: Architecture
    spec: ExampleSpec
    batch_size: int
    loss: str = "cross_entropy"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {self.batch_size}")
        if self.spec.shape != self.architecture.input_shape or len(self.spec.labels) != self.architecture.num_classes:
            raise ValueError(
                f"the architecture takes {list(self.architecture.input_shape)} and {self.architecture.num_classes} "
                f"classes, the data are {list(self.spec.shape)} and {len(self.spec.labels)}; make them agree"
            )
        if self.spec.dtype != "float32":
            raise ValueError(f"the specification's dtype must be float32 for a convolution, got {self.spec.dtype}")
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(sorted(LOSSES))}, got {self.loss!r}")

    def architecture_id(self) -> str:
        """sha256 of architecture, specification, loss, batch size and the versions that compile."""
        return record_id({**to_plain(self), "compiler": compiler_versions()})


def compiler_versions() -> dict[str, str]:
    """Versions that decide what the graphs look like."""
    return {
        "handheld-compiler": COMPILER_VERSION,
        "torch": importlib.metadata.version("torch"),
        "onnxruntime-training": importlib.metadata.version("onnxruntime-training-cpu"),
    }


def compile_artifact(request: CompileRequest, folder: Path, seed: int = 0) -> Artifact:
    """Write the artifact of `request` into `folder` (made or replaced whole) and return it.

    Args:
        seed: Of the initial parameters in `parameters.safetensors`; no part of the id.

    Raises:
        CompileError: When the network cannot be compiled or its certificate fails, or `folder` holds something that is
            no artifact; `folder` is then untouched.
    """
    _check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".compiling-") as temporary, _one_thread():
        built = Path(temporary) / "artifact"
        built.mkdir()
        artifact = _build(request, built, seed)
        _replace(built, folder)
    return artifact


def cached_artifact(request: CompileRequest, cache: Path) -> Artifact:
    """The artifact of `request` from the folder `cache`, compiled into it when it is not there.

    What is there but altered is compiled again: the request determines every byte, so nothing can be lost.
    """
    folder = cache / request.architecture_id()
    if folder.exists():
        with suppress(ArtifactError):
            return _read_cached(request, folder)
    return compile_artifact(request, folder)


def initial_parameters(architecture: Architecture, seed: int) -> Vector:
    """The parameters that torch's initialisation draws from `seed`, one f32[P] vector in layout order."""
    return flatten_parameters(build_module(layers_of(architecture), seed))


def flatten_parameters(module: torch.nn.Module) -> Vector:
    """A module's parameters as one f32[P] vector in layout order."""
    return np.concatenate([parameter.detach().numpy().ravel() for parameter in module.parameters()])


def _build(request: CompileRequest, folder: Path, seed: int) -> Artifact:
    module = build_module(layers_of(request.architecture), seed)
    x_shape = (request.batch_size, *request.spec.shape)
    forward = export_forward(module, {"x": torch.zeros(x_shape)})
    loss = Loss(request.loss)
    layout = Layout(forward.parameters, (SEGMENT,), dict.fromkeys(forward.parameters, SEGMENT))
    # The forward graph first: a layer that cannot be compiled is named best where it stands in the network.
    evaluate = evaluate_model(forward, layout, loss)
    gradient = gradient_model(forward, layout, loss).model
    (folder / "gradient.onnx").write_bytes(gradient.SerializeToString(deterministic=True))
    (folder / "evaluate.onnx").write_bytes(evaluate.SerializeToString(deterministic=True))
    (folder / "manifest.json").write_bytes(encode_record(_manifest(request, layout, folder, (gradient, evaluate))))
    parameters = flatten_parameters(module)
    (folder / "parameters.safetensors").write_bytes(write_vector("parameters", parameters))
    artifact = read_artifact(folder)
    (folder / "certificate.json").write_bytes(encode_record(certify(artifact, module, parameters)))
    write_ort_training(forward, folder / "ort_training")
    return artifact


def _manifest(request: CompileRequest, layout: Layout, folder: Path, models: tuple[onnx.ModelProto, ...]) -> Manifest:
    offsets = accumulate((prod(shape) for shape in layout.shapes.values()), initial=0)
    entries = [
        LayoutEntry(name, shape, offset, layout.segment_of[name])
        for (name, shape), offset in zip(layout.shapes.items(), offsets, strict=False)
    ]
    return Manifest(
        architecture=to_plain(request.architecture),
        architecture_id=request.architecture_id(),
        spec=request.spec,
        loss=request.loss,
        layout=tuple(entries),
        segments=layout.segments,
        batch_size=request.batch_size,
        num_parameters=layout.num_parameters,
        metrics=(METRICS[request.loss],),
        operators=tuple(sorted({node.op_type for model in models for node in model.graph.node})),
        opset=OPSET,
        minimum_runtime=MINIMUM_RUNTIME,
        gradient_sha256=hashlib.sha256((folder / "gradient.onnx").read_bytes()).hexdigest(),
        evaluate_sha256=hashlib.sha256((folder / "evaluate.onnx").read_bytes()).hexdigest(),
        compiler=compiler_versions(),
    )


def _read_cached(request: CompileRequest, folder: Path) -> Artifact:
    artifact = read_artifact(folder)
    if artifact.manifest.architecture_id != request.architecture_id():
        raise ArtifactError(f"{folder} holds the artifact of another architecture; delete it")
    return artifact


def _check_replaceable(folder: Path) -> None:
    others = sorted(path.name for path in folder.iterdir() if path.name not in FILES) if folder.is_dir() else []
    if others or (folder.exists() and not folder.is_dir()):
        what = ", ".join(others[:5]) or "a file"
        raise CompileError(f"{folder} holds {what}, which is no part of an artifact; name an empty or a new folder")


def _replace(built: Path, folder: Path) -> None:
    # Another process may compile the same thing into the same place: the same bytes, so whoever comes last wins.
    for attempt in count():
        with suppress(FileNotFoundError):
            folder.rename(built.with_name(f"replaced-{attempt}"))
        try:
            built.rename(folder)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
        else:
            return


@contextmanager
def _one_thread() -> Iterator[None]:
    # Networks for phones are too small for more, and on a busy machine torch's threads wait for each other for seconds.
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
