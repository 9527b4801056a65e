"""The steps of an ONNX graph on ONNX Runtime's CPU provider, before it is run anywhere.

The graph that really runs is the one ONNX Runtime makes of it, with operators fused and constants folded, in its own
order; `search.liveness` simulates its values' lives.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnx import helper, numpy_helper

from pipeline.compile.builder import CompileError
from search.liveness import FLOAT_BYTES, Program, Shape, Step, convolution_workspace

_Kind = tuple[Shape, int]  # shape and bytes of an item

_BLOCKED = "com.microsoft.nchwc"
_VIEWS = frozenset({"Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten"})
_IN_PLACE = frozenset(
    {"Relu", "LeakyRelu", "Elu", "Sigmoid", "HardSigmoid", "Tanh", "Softplus", "Softsign", "Softmax", "LogSoftmax"}
)
_PRODUCTS = frozenset({"Gemm", "FusedGemm", "MatMul", "FusedMatMul"})
_MANY = frozenset({"Sum", "Min", "Max", "Mean"})


def read_program(graph: bytes) -> Program:
    """The steps that ONNX Runtime makes of a graph, in its order.

    Raises:
        CompileError: The graph is no ONNX model that runs, or a shape depends on an input; says which.
    """
    model = _optimised(graph)
    kinds = _kinds(onnx.load_from_string(graph), model)
    written = [name for node in model.graph.node for name in node.output if name]
    for name in written:
        if name not in kinds:
            raise CompileError(f"the shape of {name!r} is not fixed; export the graph with a fixed batch")
    constants = {constant.name: numpy_helper.to_array(constant).nbytes for constant in model.graph.initializer}
    products = (node.input[1] for node in model.graph.node if node.op_type in _PRODUCTS)
    return Program(
        steps=tuple(_step(node, kinds) for node in model.graph.node),
        shapes={name: kinds[name][0] for name in written},
        outputs=frozenset(value.name for value in model.graph.output),
        item_bytes={name: kinds[name][1] for name in written if kinds[name][1] != FLOAT_BYTES},
        constants=sorted(constants.values()),
        packed=sum(constants.get(name, 0) for name in dict.fromkeys(products)),
    )


def _optimised(graph: bytes) -> onnx.ModelProto:
    """What runs on a phone: ARM has no blocked layouts for float32, which x86 gives to convolutions by constants."""
    levels = onnxruntime.GraphOptimizationLevel
    model = _written(graph, levels.ORT_ENABLE_ALL)
    is_blocked = any(node.domain == _BLOCKED for node in model.graph.node)
    return _written(graph, levels.ORT_ENABLE_EXTENDED) if is_blocked else model


def _written(graph: bytes, level: Any) -> onnx.ModelProto:
    """A session's graph; nodes stand in the order in which they run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = level
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own classes have no public parent
            raise CompileError(f"ONNX Runtime does not open the graph: {error}") from error
        return onnx.load(path)


def _kinds(model: onnx.ModelProto, optimised: onnx.ModelProto) -> dict[str, _Kind]:
    """Of all values whose shapes are fixed. What fusions write keeps the name that it had in `model`."""
    known = _inferred(model)
    named = {name for value in (optimised.graph.value_info, optimised.graph.output) for name in _names(value)}
    made = {name for node in optimised.graph.node for name in node.output} - named
    optimised.graph.value_info.extend(value for name, value in known.items() if name in made)
    values = {**known, **_inferred(optimised)}
    kinds = {name: kind for name, value in values.items() if (kind := _kind(value))}
    for constant in optimised.graph.initializer:
        kinds[constant.name] = tuple(constant.dims), _item_bytes(constant.data_type)
    return kinds


def _inferred(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}


def _names(values: Iterable[onnx.ValueInfoProto]) -> Iterator[str]:
    return (value.name for value in values)


def _kind(value: onnx.ValueInfoProto) -> _Kind | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    return tuple(dim.dim_value for dim in tensor.shape.dim), _item_bytes(tensor.elem_type)


def _item_bytes(data_type: int) -> int:
    return int(helper.tensor_dtype_to_np_dtype(data_type).itemsize)


def _step(node: onnx.NodeProto, kinds: Mapping[str, _Kind]) -> Step:
    shape, item = kinds[node.output[0]]
    return Step(
        reads=tuple(filter(None, node.input)),
        writes=tuple(filter(None, node.output)),
        is_view=node.op_type in _VIEWS,
        in_place=_in_place(node),
        workspace=_workspace(node, kinds),
        temporaries=(item * prod(shape),) * _num_temporaries(node),
        num_kept=2 if node.op_type == "Where" else 1,
    )


def _in_place(node: onnx.NodeProto) -> int | None:
    if node.op_type == "FusedConv" and len(node.input) > 3:
        return len([name for name in node.input[:3] if name])  # what is added to the convolution
    return 0 if node.op_type in _IN_PLACE else None


def _num_temporaries(node: onnx.NodeProto) -> int:
    """`where_op.cc`: what is taken of either side, before both are merged; `element_wise_ops.cc`: each sum so far."""
    if node.op_type == "Where":
        return 2
    return max(0, len(node.input) - 2) if node.op_type in _MANY else 0


def _workspace(node: onnx.NodeProto, kinds: Mapping[str, _Kind]) -> tuple[int, int]:
    """Taken and written: `conv_transpose.cc` unfolds one example; `MlasConvPrepare` decides for a convolution."""
    if node.op_type == "ConvTranspose":
        x, weight = (kinds[name][0] for name in node.input[:2])
        size = FLOAT_BYTES * prod(weight[1:]) * prod(x[2:])
        return size, size
    if node.op_type not in {"Conv", "FusedConv"}:
        return 0, 0
    x, weight, y = (kinds[name][0] for name in (*node.input[:2], node.output[0]))
    attributes: dict[str, Any] = {attribute.name: list(attribute.ints) or attribute.i for attribute in node.attribute}
    if _is_product(x, weight, attributes):
        return 0, 0
    return convolution_workspace(x[0], weight, prod(y[2:]), attributes.get("group", 1))


def _is_product(x: Shape, weight: Shape, attributes: Mapping[str, Any]) -> bool:
    """Whether a convolution is a matrix product of x as it is."""
    if any(size != 1 for size in attributes.get("strides", ())) or any(attributes.get("pads", ())):
        return False
    kernel = weight[2:]
    if all(size == 1 for size in kernel):
        return True
    is_plane = len(kernel) == 2 and weight[1] == 1 and all(size == 1 for size in attributes.get("dilations", ()))
    return is_plane and (kernel[1] == x[3] or (kernel[0] == x[2] and kernel[1] == 1))
