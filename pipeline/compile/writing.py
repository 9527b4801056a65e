"""Write the files of an artifact from a forward graph; `compile_architecture` and `compile_artifact` end here."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from device_runtime.arrays import Vector
from device_runtime.artifact import Artifact, read_artifact
from device_runtime.specs import ExampleSpec, FrozenTensors, LayoutEntry, Manifest
from device_runtime.vectors import write_frozen, write_vector
from pipeline.compile.builder import OPSET
from pipeline.compile.certificate import certify
from pipeline.compile.export import Forward
from pipeline.compile.graphs import Layout, evaluate_model, gradient_model, layers_model
from pipeline.compile.ids import draw_inputs, find_tables, id_limits, table_sizes
from pipeline.compile.losses import Loss
from pipeline.compile.ort_training import write_ort_training
from pipeline.compile.versions import MINIMUM_RUNTIME, compiler_versions
from profiles.records import encode_record


@dataclass(frozen=True)
class Network:
    """What an artifact is written from.

    Attributes:
        examples: The batch that `module` was exported with, [B, ...] by the graph's names.
        forward: What came of it.
        architecture, architecture_id: As in `Manifest`.
    """

    module: torch.nn.Module
    examples: Mapping[str, torch.Tensor]
    forward: Forward
    layout: Layout
    spec: ExampleSpec
    loss: Loss
    architecture: dict[str, Any]
    architecture_id: str


def write_artifact(network: Network, folder: Path) -> Artifact:
    """Write and certify an artifact; its parameters are the module's.

    Raises:
        CompileError: The network cannot be compiled, or its certificate fails.
    """
    forward, layout, loss = network.forward, network.layout, network.loss
    # The forward graph first: a layer that cannot be compiled is named best where it stands in the network.
    evaluate = evaluate_model(forward, layout, loss)
    gradient = gradient_model(forward, layout, loss)
    (folder / "gradient.onnx").write_bytes(gradient.model.SerializeToString(deterministic=True))
    (folder / "evaluate.onnx").write_bytes(evaluate.SerializeToString(deterministic=True))
    frozen = _write_frozen(forward, folder)
    tables = find_tables(forward, network.examples)
    manifest = _manifest(network, folder, (gradient.model, evaluate))
    manifest = replace(manifest, frozen=frozen, num_ids=table_sizes(tables))
    (folder / "manifest.json").write_bytes(encode_record(manifest))
    parameters = flatten_parameters(network.module)
    (folder / "parameters.safetensors").write_bytes(write_vector("parameters", parameters))
    artifact = read_artifact(folder)
    sample = partial(draw_inputs, network.spec, id_limits(tables, network.examples))
    certificate = certify(artifact, network.module, parameters, sample, partial(layers_model, forward, layout))
    classic = write_ort_training(network.module, network.examples, loss, folder / "ort_training")
    certificate = replace(certificate, forms=gradient.forms, ort_training=classic)
    (folder / "certificate.json").write_bytes(encode_record(certificate))
    return artifact


def flatten_parameters(module: torch.nn.Module) -> Vector:
    """A module's trained parameters as one f32[P] vector in layout order; a shared tensor once."""
    return np.concatenate([value.detach().numpy().ravel() for value in module.parameters() if value.requires_grad])


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread.

    Networks for phones are too small for more, and on a busy machine torch's threads wait for each other for seconds.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _write_frozen(forward: Forward, folder: Path) -> FrozenTensors | None:
    """Equal tensors of equal names give equal bytes, whatever else a network has: artifacts share the file by hash."""
    if not forward.frozen_inputs:
        return None
    data = write_frozen(forward.frozen_inputs)
    (folder / "frozen.safetensors").write_bytes(data)
    shapes = {name: tensor.shape for name, tensor in forward.frozen_inputs.items()}
    return FrozenTensors(hashlib.sha256(data).hexdigest(), shapes)


def _manifest(network: Network, folder: Path, models: tuple[onnx.ModelProto, ...]) -> Manifest:
    layout = network.layout
    offsets = accumulate((prod(shape) for shape in layout.shapes.values()), initial=0)
    entries = [
        LayoutEntry(name, shape, offset, layout.segment_of[name])
        for (name, shape), offset in zip(layout.shapes.items(), offsets, strict=False)
    ]
    return Manifest(
        architecture=network.architecture,
        architecture_id=network.architecture_id,
        spec=network.spec,
        loss=network.loss.name,
        label_smoothing=network.loss.label_smoothing,
        layout=tuple(entries),
        segments=layout.segments,
        batch_size=len(next(iter(network.examples.values()))),
        num_parameters=layout.num_parameters,
        metrics=(network.loss.metric,),
        operators=tuple(sorted({node.op_type for model in models for node in model.graph.node})),
        opset=OPSET,
        minimum_runtime=MINIMUM_RUNTIME,
        gradient_sha256=hashlib.sha256((folder / "gradient.onnx").read_bytes()).hexdigest(),
        evaluate_sha256=hashlib.sha256((folder / "evaluate.onnx").read_bytes()).hexdigest(),
        compiler=compiler_versions(),
    )
