"""Softmax regression: its artifact, written by hand, its gradients in closed form, and what tests train it with."""

import hashlib
from dataclasses import replace
from math import prod

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from device_runtime.artifact import check_artifact
from device_runtime.loaded import Examples
from device_runtime.session import StepSession
from device_runtime.specs import ExampleSpec, LayoutEntry, Manifest
from device_runtime.terms import PrivacyTerms, TrainTerms
from profiles.records import encode_record

# Of 3 inputs and 3 classes.
PARAMETERS = np.linspace(-1, 1, 12, dtype=np.float32)


def draw_examples(num_examples: int, seed: int = 0) -> Examples:
    """Of 3 inputs and 3 classes."""
    rng = np.random.default_rng(seed)
    return Examples(rng.normal(size=(num_examples, 3)).astype(np.float32), rng.integers(0, 3, num_examples))


EXAMPLES = draw_examples(10)


def private(noise_at="device", sample_rate=0.5, noise_multiplier=1.0, **changes) -> TrainTerms:
    """Terms of one private step, with changes."""
    terms = TrainTerms(0.5, local_steps=1, max_grad_norm=0.8, privacy=PrivacyTerms("device", 1.0, 1.0))
    return replace(terms, privacy=PrivacyTerms(noise_at, sample_rate, noise_multiplier), **changes)


def example_gradients(parameters, x, y):
    """Of 3 inputs and 3 classes in closed form, f64[n, 12]."""
    logits = x.astype(np.float64) @ parameters[:9].reshape(3, 3).T.astype(np.float64) + parameters[9:]
    residual = np.exp(logits - logits.max(axis=1, keepdims=True))
    residual = residual / residual.sum(axis=1, keepdims=True) - np.eye(3)[y]
    return np.concatenate([(residual[:, :, None] * x[:, None, :]).reshape(len(x), 9), residual], axis=1)


def clip(gradients, max_grad_norm):
    """Each row scaled to a norm of at most max_grad_norm."""
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    return gradients * np.minimum(1, max_grad_norm / norms)


def write_softmax_regression(
    shape: tuple[int, ...], num_classes: int, batch_size: int, bias: str = "adapter"
) -> dict[str, bytes]:
    """The artifact's files; segments `weights` (the matrix) and one of the bias."""
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
            LayoutEntry("linear.bias", (num_classes,), num_classes * size, bias),
        ),
        segments=("weights", bias),
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


def open_softmax_regression(
    shape: tuple[int, ...] = (3,), num_classes: int = 3, batch_size: int = 4, bias: str = "adapter"
) -> StepSession:
    files = write_softmax_regression(shape, num_classes, batch_size, bias)
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
    outputs = [
        _float("gradient_sum", [classes * size + classes]),
        _float("loss_sum", []),
        _float("norms", [batch]),
    ]
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
