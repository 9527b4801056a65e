"""Fold the arithmetic on shapes that the exporter writes, so that ORT Training sees every shape.

What it cannot see it sums over axes that it works out when the graph runs: a linear layer's gradient then becomes a
product for each position, of which the lowering can only make a gradient for each position and example.
"""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from pipeline.compile.lower import Node, layer_name, refusing

_LARGEST = 1 << 16  # elements of a folded result
_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}


def fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose nodes on constants, and on shapes of a known size, are `Constant` nodes; all shapes inferred."""
    while True:
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        if not _fold_once(model):
            return model


def _fold_once(model: onnx.ModelProto) -> bool:
    graph = model.graph
    shapes = {value.name: _shape(value) for value in (*graph.input, *graph.value_info, *graph.output)}
    shapes |= {initializer.name: tuple(initializer.dims) for initializer in graph.initializer}
    outputs = {value.name for value in graph.output}
    constants: dict[str, np.ndarray[Any, Any]] = {}
    has_folded = False
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif (value := _value(node, shapes, constants, model)) is not None and node.output[0] not in outputs:
            constants[node.output[0]] = value
            _make_constant(node, value)
            has_folded = True
    return has_folded


def _value(
    node: onnx.NodeProto,
    shapes: dict[str, tuple[int, ...] | None],
    constants: dict[str, np.ndarray[Any, Any]],
    model: onnx.ModelProto,
) -> np.ndarray[Any, Any] | None:
    """What a node gives if that is known."""
    if node.op_type == "Shape" and not node.attribute and (shape := shapes.get(node.input[0])) is not None:
        return np.array(shape, np.int64)
    if node.domain or len(node.output) > 1 or node.op_type in _RANDOM or any(a.HasField("g") for a in node.attribute):
        return None
    if any(name and name not in constants for name in node.input) or not (node.input or node.attribute):
        return None
    evaluator = ReferenceEvaluator(node, opsets={opset.domain: opset.version for opset in model.opset_import})
    with refusing(Node(node.op_type, layer_name(node.name or node.output[0]), tuple(node.output), {})):
        (result,) = evaluator.run(None, {name: constants[name] for name in node.input if name})
    value = np.asarray(result)
    return value if value.size <= _LARGEST else None


def _make_constant(node: onnx.NodeProto, value: np.ndarray[Any, Any]) -> None:
    name, output = node.name, node.output[0]
    node.CopyFrom(helper.make_node("Constant", [], [output], name, value=numpy_helper.from_array(value)))


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    """The shape where all of it is known."""
    tensor_type = value.type.tensor_type
    if not tensor_type.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor_type.shape.dim):
        return None
    return tuple(dim.dim_value for dim in tensor_type.shape.dim)
