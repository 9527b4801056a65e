"""Compile an architecture of the search space, or any torch module, into an artifact folder."""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from device_runtime.arrays import Vector
from device_runtime.artifact import Artifact, ArtifactError, read_artifact
from device_runtime.specs import ExampleSpec
from device_runtime.terms import ARCHITECTURE
from pipeline.compile.builder import CompileError
from pipeline.compile.export import Forward, export_forward
from pipeline.compile.folders import remove_folder, replaced_folder
from pipeline.compile.graphs import Layout
from pipeline.compile.inputs import (
    ExampleInputs,
    batch_of,
    check_forward,
    check_same,
    check_spec,
    derive_spec,
    input_specs,
    name_inputs,
)
from pipeline.compile.losses import Loss
from pipeline.compile.modules import prepare_module
from pipeline.compile.segments import layout_of
from pipeline.compile.versions import DEFAULT_BATCH_SIZE, compiler_versions
from pipeline.compile.writing import Network, flatten_parameters, one_thread, write_artifact
from pipeline.network import build_module
from profiles.records import record_id, to_plain
from search.architecture import Architecture
from search.layers import layers_of

_NO_SEGMENTS: Mapping[str, str] = MappingProxyType({})
_SUPERNET_SEGMENTS: Mapping[str, str] = MappingProxyType({ARCHITECTURE: "stages.*.choices.*"})


@dataclass(frozen=True)
class CompileRequest:
    """An architecture to compile; its id is the architecture id and the key of the cache.

    Attributes:
        batch_size: B, the examples a graph takes at a time: a memory choice, not a hyper-parameter.
    """

    architecture: Architecture
    spec: ExampleSpec
    batch_size: int

    def __post_init__(self) -> None:
        _check_batch_size(self.batch_size)
        if self.spec.shape != self.architecture.input_shape or len(self.spec.labels) != self.architecture.num_classes:
            raise ValueError(
                f"the architecture takes {list(self.architecture.input_shape)} and {self.architecture.num_classes} "
                f"classes, the data are {list(self.spec.shape)} and {len(self.spec.labels)}; make them agree"
            )
        if self.spec.dtype != "float32":
            raise ValueError(f"the specification's dtype must be float32 for a convolution, got {self.spec.dtype}")
        if self.spec.target != "class":
            raise ValueError(f"an architecture is a classifier: target must be 'class', got {self.spec.target!r}")

    def architecture_id(self) -> str:
        """sha256 of architecture, specification, batch size and the versions that compile."""
        return record_id({**to_plain(self), "compiler": compiler_versions()})


def compile_artifact(  # noqa: PLR0913  (each is a choice of the module's author)
    module: torch.nn.Module,
    example_inputs: ExampleInputs,
    num_classes: int,
    folder: Path | str,
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    loss: Loss | str = Loss(),  # noqa: B008  (frozen)
    segments: Mapping[str, str] = _NO_SEGMENTS,
    spec: ExampleSpec | None = None,
    name: str | None = None,
    replace_batchnorm: bool = False,
) -> Artifact:
    """Write the artifact of a module into `folder` (made or replaced whole) and return it.

    Its initial parameters are the module's own values; what has `requires_grad=False` is not trained. The module itself
    is left as it is.

    Args:
        example_inputs: ONE example, without the batch: a tensor or array, several in the order of `forward`, or by the
            names of its arguments. float32 or int64. Of an id that no embedding bounds, the example spans the range.
        num_classes: Outputs of the network: classes, or values for `bce_with_logits` and `mse`.
        batch_size: B, the examples a graph takes at a time: a memory choice, not a hyper-parameter.
        loss: Or its name alone, as in `Loss`.
        segments: Name patterns (`classifier.*`) of parts of the parameters by segment; the rest is `weights`.
        spec: What the inputs and labels mean; None for raw inputs and labels "0", "1" and so on.
        name: Of the network in the manifest, `package.file:factory`; None for its class.
        replace_batchnorm: Put GroupNorm in the place of every BatchNorm, which would mix examples.

    Raises:
        CompileError: The module cannot become a certified private step, with the layer and the cure; or `folder` holds
            something that is no artifact, and is then untouched.
        ValueError: There is no such loss, or no such batch size.
    """
    _check_batch_size(batch_size)
    loss = Loss(loss) if isinstance(loss, str) else loss
    _check_kinds(module, loss)
    with replaced_folder(Path(folder)) as built, one_thread():
        prepared = prepare_module(module, replace_batchnorm=replace_batchnorm)
        _check_tensors(module)
        inputs = name_inputs(prepared, example_inputs)
        batch = batch_of(inputs, batch_size)
        check_forward(prepared, batch, num_classes)
        if not replace_batchnorm:
            check_same(module, prepared, batch)
        spec = spec or derive_spec(input_specs(inputs), num_classes, loss.target)
        check_spec(spec, input_specs(inputs), num_classes, loss)
        forward = export_forward(prepared, batch)
        layout = layout_of(forward, segments)
        named = {"module": name or f"{type(module).__module__}:{type(module).__qualname__}"}
        identity = _module_id(forward, layout, spec, loss)
        return write_artifact(Network(prepared, batch, forward, layout, spec, loss, named, identity), built)


def compile_architecture(request: CompileRequest, folder: Path, seed: int = 0) -> Artifact:
    """Write the artifact of an architecture into `folder` (made or replaced whole) and return it.

    The architecture weights of a supernet are a segment of their own, `architecture`, and 0 at first.

    Args:
        seed: Of the initial parameters in `parameters.safetensors`; no part of the id.

    Raises:
        CompileError: When the network cannot be compiled or its certificate fails, or `folder` holds something that is
            no artifact; `folder` is then untouched.
    """
    with replaced_folder(folder) as built, one_thread():
        module = build_module(layers_of(request.architecture), seed)
        batch = {"x": torch.zeros(request.batch_size, *request.spec.shape)}
        forward = export_forward(module, batch)
        layout = layout_of(forward, _SUPERNET_SEGMENTS if request.architecture.is_supernet else _NO_SEGMENTS)
        plain, identity = to_plain(request.architecture), request.architecture_id()
        return write_artifact(Network(module, batch, forward, layout, request.spec, Loss(), plain, identity), built)


def cached_artifact(request: CompileRequest, cache: Path) -> Artifact:
    """The artifact of `request` from the folder `cache`, compiled into it when it is not there.

    What is there but altered is compiled again: the request determines every byte, so nothing can be lost.
    """
    folder = cache / request.architecture_id()
    if folder.exists():
        with suppress(ArtifactError):
            return _read_cached(request, folder)
        remove_folder(folder)
    return compile_architecture(request, folder)


def initial_parameters(architecture: Architecture, seed: int) -> Vector:
    """The parameters that torch's initialisation draws from `seed`, one f32[P] vector in layout order."""
    return flatten_parameters(build_module(layers_of(architecture), seed))


def _read_cached(request: CompileRequest, folder: Path) -> Artifact:
    artifact = read_artifact(folder)
    if artifact.manifest.architecture_id != request.architecture_id():
        raise ArtifactError(f"{folder} holds the artifact of another architecture; delete it")
    return artifact


def _module_id(forward: Forward, layout: Layout, spec: ExampleSpec, loss: Loss) -> str:
    """sha256 of all that decides the graphs: the network without its trained values, what it is for, the versions."""
    skeleton = type(forward.model)()
    skeleton.CopyFrom(forward.model)
    for initializer in skeleton.graph.initializer:
        if initializer.name in forward.parameters:
            initializer.ClearField("raw_data")
    return record_id(
        {
            "forward": hashlib.sha256(skeleton.SerializeToString(deterministic=True)).hexdigest(),
            "layout": to_plain(layout),
            "spec": to_plain(spec),
            "loss": to_plain(loss),
            "compiler": compiler_versions(),
        }
    )


def _check_kinds(module: torch.nn.Module, loss: Loss) -> None:
    if not isinstance(module, torch.nn.Module):
        raise CompileError(f"the network must be a torch.nn.Module, got {module!r:.80}; call what makes it")
    if not isinstance(loss, Loss):
        raise CompileError(f"the loss must be a Loss, or the name of one, got {loss!r:.80}")


def _check_tensors(module: torch.nn.Module) -> None:
    buffers = dict(module.named_buffers())
    for name, value in [*module.named_parameters(), *buffers.items()]:
        if (value.is_floating_point() or value.is_complex()) and value.dtype != torch.float32:
            raise CompileError(f"{name!r} is {value.dtype}; a step is float32 throughout: call module.float() first")
        if name not in buffers and value.numel() == 0:
            raise CompileError(f"{name!r} is a parameter of shape {list(value.shape)}, which has no value; remove it")
        if value.device.type != "cpu":
            raise CompileError(f"{name!r} is on {value.device}; call module.cpu() first")
        # A mask may be infinite.
        if not (~value.isnan() if name in buffers else value.isfinite()).all():
            raise CompileError(f"{name!r} holds a value that is no finite number; give it its values before compiling")
    if not any(value.requires_grad for value in module.parameters()):
        raise CompileError("nothing is trained: no parameter has requires_grad=True; leave the last layers unfrozen")


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
