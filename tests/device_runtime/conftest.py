"""Tiny artifacts: softmax regression, written by hand, and a compiled net of several inputs; and a measurement pack."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from math import prod
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from device_runtime.artifact import FILES, FROZEN, Artifact, check_artifact
from device_runtime.measurement_pack import PackEntry, PackManifest, graph_file
from device_runtime.session import StepSession
from device_runtime.specs import ExampleSpec, FrozenTensors, InputSpec, LayoutEntry, Manifest
from device_runtime.vectors import write_frozen
from pipeline.compile.export import export_forward
from pipeline.compile.graphs import Layout, evaluate_model, frozen_inputs, gradient_model
from pipeline.compile.losses import Loss
from profiles.records import decode_record, encode_record
from profiles.schema import Kernel

ArtifactFiles = dict[str, bytes]


def write_softmax_regression(shape: tuple[int, ...], num_classes: int, batch_size: int) -> ArtifactFiles:
    """The artifact's files; segments `weights` (the matrix) and `adapter` (the bias)."""
    size = prod(shape)
    gradient = _gradient_graph(shape, size, num_classes, batch_size).SerializeToString(deterministic=True)
    evaluate = _evaluate_graph(shape, size, num_classes, batch_size).SerializeToString(deterministic=True)
    manifest = Manifest(
        architecture={"kind": "softmax_regression"},
        architecture_id="0" * 64,
        spec=ExampleSpec(shape, tuple(map(str, range(num_classes)))),
        loss="cross_entropy",
        layout=(
            LayoutEntry("linear.weight", (num_classes, size), 0, "weights"),
            LayoutEntry("linear.bias", (num_classes,), num_classes * size, "adapter"),
        ),
        segments=("weights", "adapter"),
        batch_size=batch_size,
        num_parameters=num_classes * size + num_classes,
        metrics=("accuracy",),
        operators=("Add", "Mul"),
        opset=17,
        minimum_runtime="1.14.0",
        gradient_sha256=hashlib.sha256(gradient).hexdigest(),
        evaluate_sha256=hashlib.sha256(evaluate).hexdigest(),
        compiler={},
    )
    return {"manifest.json": encode_record(manifest), "gradient.onnx": gradient, "evaluate.onnx": evaluate}


def open_softmax_regression(shape: tuple[int, ...] = (3,), num_classes: int = 3, batch_size: int = 4) -> StepSession:
    files = write_softmax_regression(shape, num_classes, batch_size)
    return StepSession(check_artifact(files["manifest.json"], files["gradient.onnx"], files["evaluate.onnx"]))


def _forward(size: int, num_classes: int) -> list[onnx.NodeProto]:
    node = helper.make_node
    return [
        node("Slice", ["parameters", "zero", "matrix_end"], ["flat_matrix"]),
        node("Slice", ["parameters", "matrix_end", "all_end"], ["bias"]),
        node("Reshape", ["flat_matrix", "matrix_shape"], ["matrix"]),
        node("Reshape", ["x", "x_shape"], ["rows"]),
        node("Gemm", ["rows", "matrix", "bias"], ["logits"], transB=1),
        node("LogSoftmax", ["logits"], ["log_probabilities"], axis=1),
        node("OneHot", ["y", "num_classes", "off_on"], ["target"], axis=1),
        node("Mul", ["log_probabilities", "target"], ["picked"]),
        node("ReduceSum", ["picked", "axis_1"], ["minus_losses"], keepdims=0),
        node("Neg", ["minus_losses"], ["raw_losses"]),
        node("Mul", ["raw_losses", "mask"], ["losses"]),
    ]


def _gradient_nodes() -> list[onnx.NodeProto]:
    node = helper.make_node
    return [
        node("ReduceSum", ["losses"], ["loss_sum"], keepdims=0),
        node("Exp", ["log_probabilities"], ["probabilities"]),
        node("Sub", ["probabilities", "target"], ["residual"]),
        node("Mul", ["residual", "residual"], ["residual_squared"]),
        node("ReduceSum", ["residual_squared", "axis_1"], ["bias_norm"], keepdims=0),
        node("Mul", ["rows", "rows"], ["rows_squared"]),
        node("ReduceSum", ["rows_squared", "axis_1"], ["row_norm"], keepdims=0),
        node("Mul", ["bias_norm", "row_norm"], ["matrix_norm"]),
        node("Split", ["segment_weight"], ["matrix_weight", "bias_weight"], axis=0),
        node("Mul", ["matrix_norm", "matrix_weight"], ["matrix_part"]),
        node("Mul", ["bias_norm", "bias_weight"], ["bias_part"]),
        node("Add", ["matrix_part", "bias_part"], ["squared"]),
        node("Sqrt", ["squared"], ["raw_norms"]),
        node("Mul", ["raw_norms", "mask"], ["norms"]),
        node("Div", ["max_grad_norm", "raw_norms"], ["ratio"]),
        node("Min", ["ratio", "one"], ["clip"]),
        node("Mul", ["clip", "mask"], ["factor"]),
        node("Unsqueeze", ["factor", "axis_1"], ["factor_column"]),
        node("Mul", ["residual", "factor_column"], ["scaled"]),
        node("Gemm", ["scaled", "rows"], ["matrix_sum"], transA=1),
        node("Mul", ["matrix_sum", "matrix_weight"], ["matrix_gradient"]),
        node("Reshape", ["matrix_gradient", "minus_one"], ["flat_gradient"]),
        node("ReduceSum", ["scaled", "zero"], ["bias_sum"], keepdims=0),
        node("Mul", ["bias_sum", "bias_weight"], ["bias_gradient"]),
        node("Concat", ["flat_gradient", "bias_gradient"], ["gradient_sum"], axis=0),
    ]


def _gradient_graph(shape: tuple[int, ...], size: int, classes: int, batch: int) -> onnx.ModelProto:
    inputs = [*_inputs(shape, size, classes, batch), _float("max_grad_norm", []), _float("segment_weight", [2])]
    outputs = [_float("gradient_sum", [classes * size + classes]), _float("loss_sum", []), _float("norms", [batch])]
    return _model([*_forward(size, classes), *_gradient_nodes()], inputs, outputs, (batch, size, classes))


def _evaluate_graph(shape: tuple[int, ...], size: int, classes: int, batch: int) -> onnx.ModelProto:
    nodes = [
        *_forward(size, classes),
        helper.make_node("ArgMax", ["logits"], ["best"], axis=1, keepdims=0),
        helper.make_node("Equal", ["best", "y"], ["is_right"]),
        helper.make_node("Cast", ["is_right"], ["right"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["right", "mask"], ["masked_right"]),
        helper.make_node("Unsqueeze", ["masked_right", "axis_1"], ["metrics"]),
    ]
    outputs = [_float("losses", [batch]), _float("metrics", [batch, 1])]
    return _model(nodes, _inputs(shape, size, classes, batch), outputs, (batch, size, classes))


def _inputs(shape: tuple[int, ...], size: int, classes: int, batch: int) -> list[onnx.ValueInfoProto]:
    return [
        _float("parameters", [classes * size + classes]),
        _float("x", [batch, *shape]),
        helper.make_tensor_value_info("y", TensorProto.INT64, [batch]),
        _float("mask", [batch]),
    ]


def _float(name: str, shape: list[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    sizes: tuple[int, int, int],
) -> onnx.ModelProto:
    batch, size, classes = sizes
    constants = {
        "zero": np.array([0]),
        "matrix_end": np.array([classes * size]),
        "all_end": np.array([classes * size + classes]),
        "matrix_shape": np.array([classes, size]),
        "x_shape": np.array([batch, size]),
        "num_classes": np.array(classes),
        "off_on": np.array([0, 1], np.float32),
        "axis_1": np.array([1]),
        "minus_one": np.array([-1]),
        "one": np.array(1, np.float32),
    }
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "softmax_regression", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


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
    frozen = write_frozen(tensors := frozen_inputs(forward))
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
    """Open softmax regression of a given (shape, num_classes, batch_size)."""
    return open_softmax_regression


@pytest.fixture(scope="session")
def tiny_pack() -> Callable[[Path], Path]:
    """Write a measurement pack into a folder by hand: an empty call, relu for 1 and 4 examples, its gradient."""
    shape = (2, 8, 8)
    kernel = Kernel("relu", shape, shape)
    node = helper.make_node
    relu = node("Relu", ["x"], ["y"])
    backward = [node("Sign", ["y"], ["is_positive"]), node("Mul", ["dy", "is_positive"], ["dx"])]
    graphs = {
        (Kernel("call", (1,), (1,)), 1, "forward"): ([node("Identity", ["x"], ["y"])], ["x"], ["y"], [1, 1]),
        (kernel, 1, "forward"): ([relu], ["x"], ["y"], [1, *shape]),
        (kernel, 4, "evaluate"): ([relu], ["x"], ["y"], [4, *shape]),
        (kernel, 4, "gradient"): ([relu, *backward], ["x", "dy"], ["y", "dx"], [4, *shape]),
    }

    def write(folder: Path) -> Path:
        folder.mkdir(parents=True)
        entries = []
        for key, (nodes, inputs, outputs, sizes) in graphs.items():
            values = ([_float(name, sizes) for name in names] for names in (inputs, outputs))
            graph = helper.make_graph(nodes, "kernel", *values)
            model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
            data = model.SerializeToString(deterministic=True)
            entries.append(PackEntry(*key, hashlib.sha256(data).hexdigest()))
            (folder / graph_file(entries[-1].sha256)).write_bytes(data)
        (folder / "manifest.json").write_bytes(encode_record(PackManifest(tuple(entries), 17, "1.12.0", {})))
        return folder

    return write
