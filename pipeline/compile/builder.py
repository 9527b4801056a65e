"""Build a plain ONNX graph of standard operators, with every shape known and every constant folded as it is written."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

OPSET = 17
IR_VERSION = 8  # the one of opset 17; newer writers default to one that ONNX Runtime 1.19 refuses
_GROWTH_LIMIT = 1 << 12  # bytes; a runtime folds what is left when it opens the graph
_FOLD_LIMIT = 1 << 16  # elements; a larger folded constant would cost more in the file than it saves at run time


class CompileError(ValueError):
    """A network cannot become a certified private step; the message names the layer and the cure."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """A value of the graph.

    Attributes:
        constant: Its value where it is known at compile time.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    constant: np.ndarray[Any, Any] | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass
class GraphBuilder:
    """Nodes in the order they were asked for; the same node asked for twice is one node.

    Attributes:
        owner: Name of the layer that asks.
    """

    owner: str = ""
    inputs: list[Tensor] = field(default_factory=list)
    _nodes: list[onnx.NodeProto] = field(default_factory=list)
    _constants: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)
    _known: dict[tuple[Any, ...], tuple[Tensor, ...]] = field(default_factory=dict)

    def input(self, name: str, shape: tuple[int, ...], dtype: Any = np.float32) -> Tensor:
        """Declare an input of the graph."""
        tensor = Tensor(name, shape, np.dtype(dtype))
        self.inputs.append(tensor)
        return tensor

    def constant(self, value: Any, dtype: Any = None) -> Tensor:
        """A constant; equal ones are one initializer."""
        array = np.ascontiguousarray(np.asarray(value, dtype=dtype))
        array = array.reshape(np.shape(value))  # ascontiguousarray makes a scalar one-dimensional
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = Tensor(f"c{len(self._constants)}", array.shape, array.dtype, array)
        return self._constants[key]

    def op(self, op_type: str, *inputs: Tensor | None, **attributes: Any) -> Tensor:
        """Append a node with one output, or find it: folded if all inputs are constant, shared if asked for before."""
        return self.ops(op_type, *inputs, num_outputs=1, **attributes)[0]

    def ops(self, op_type: str, *inputs: Tensor | None, num_outputs: int, **attributes: Any) -> tuple[Tensor, ...]:
        """Like `op`, for a node with several outputs."""
        names = [tensor.name if tensor is not None else "" for tensor in inputs]
        key = (op_type, tuple(names), num_outputs, repr(sorted(attributes.items())))
        if key not in self._known:
            outputs = [f"v{len(self._nodes)}" + (f"_{i}" if num_outputs > 1 else "") for i in range(num_outputs)]
            node = helper.make_node(op_type, names, outputs, self.owner, **attributes)
            self._known[key] = self._fold(node, inputs) or self._append(node, inputs)
        return self._known[key]

    @contextmanager
    def owned_by(self, layer: str) -> Iterator[None]:
        """What is asked for meanwhile is the layer's, unless it is there already."""
        before, self.owner = self.owner, layer
        try:
            yield
        finally:
            self.owner = before

    def to_model(self, outputs: dict[str, Tensor], name: str, *, by_owner: bool = False) -> onnx.ModelProto:
        """The graph that computes the named outputs and nothing else, values renamed in order of use.

        Args:
            by_owner: Put the owner in front of the names of nodes and values: `stages.0.0.depthwise/Conv_7`. Runtimes
                keep these names in what they fuse.
        """
        ends = [helper.make_node("Identity", [tensor.name], [output]) for output, tensor in outputs.items()]
        fixed = {*outputs, *(tensor.name for tensor in self.inputs)}
        nodes, renamed = _renumber(_needed(self._nodes, ends), fixed, by_owner)
        constants = [tensor for tensor in self._constants.values() if tensor.name in renamed]
        graph = helper.make_graph(
            nodes,
            name,
            [_value_info(tensor.name, tensor) for tensor in self.inputs],
            [_value_info(output, tensor) for output, tensor in outputs.items()],
            [numpy_helper.from_array(np.asarray(tensor.constant), renamed[tensor.name]) for tensor in constants],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        model.producer_name = "handheld"
        onnx.checker.check_model(model, full_check=True)
        return model

    def _fold(self, node: onnx.NodeProto, inputs: tuple[Tensor | None, ...]) -> tuple[Tensor, ...] | None:
        known = [tensor for tensor in inputs if tensor is not None]
        if any(tensor.constant is None or tensor.size > _FOLD_LIMIT for tensor in known):
            return None
        model_inputs = {tensor.name: np.asarray(tensor.constant) for tensor in known}
        evaluator = ReferenceEvaluator(node, opsets={"": OPSET})
        results = [np.asarray(result) for result in evaluator.run(None, model_inputs)]
        grown = sum(result.nbytes for result in results) - sum(value.nbytes for value in model_inputs.values())
        if grown > _GROWTH_LIMIT or any(result.size > _FOLD_LIMIT for result in results):
            return None
        return tuple(self.constant(result) for result in results)

    def _append(self, node: onnx.NodeProto, inputs: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
        known = [tensor for tensor in inputs if tensor is not None]
        types = {t.name: helper.make_tensor_type_proto(_element_type(t.dtype), t.shape) for t in known}
        data = {t.name: numpy_helper.from_array(t.constant, t.name) for t in known if t.constant is not None}
        schema = onnx.defs.get_schema(node.op_type, OPSET)
        inferred = onnx.shape_inference.infer_node_outputs(
            schema, node, types, data, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        self._nodes.append(node)
        return tuple(_from_type(name, inferred[name]) for name in node.output)


def _needed(nodes: list[onnx.NodeProto], ends: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes that `ends` depend on, and the ends."""
    names = {name for node in ends for name in node.input}
    kept = []
    for node in reversed(nodes):
        if names.intersection(node.output):
            kept.append(node)
            names.update(node.input)
    return [*reversed(kept), *ends]


def _renumber(
    nodes: list[onnx.NodeProto], fixed: set[str], by_owner: bool
) -> tuple[list[onnx.NodeProto], dict[str, str]]:
    """Copies of the nodes with values named in order of use, and the new names by the old; `fixed` names stay."""
    names = {name: name for name in fixed}
    for node in nodes:
        for name in (*node.input, *node.output):
            if name and name not in names:
                names[name] = f"{_owner_path(node, by_owner)}t{len(names) - len(fixed)}"
    renamed: list[onnx.NodeProto] = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [names.get(name, "") for name in node.input]
        copy.output[:] = [names[name] for name in node.output]
        copy.name = f"{_owner_path(node, by_owner)}{node.op_type}_{len(renamed)}"
        renamed.append(copy)
    return renamed, names


def _owner_path(node: onnx.NodeProto, by_owner: bool) -> str:
    return f"{node.name}/" if by_owner and node.name else ""


def _value_info(name: str, tensor: Tensor) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _element_type(tensor.dtype), tensor.shape)


def _element_type(dtype: np.dtype[Any]) -> int:
    return int(helper.np_dtype_to_tensor_dtype(dtype))


def _from_type(name: str, inferred: onnx.TypeProto) -> Tensor:
    tensor_type = inferred.tensor_type
    if any(not dim.HasField("dim_value") for dim in tensor_type.shape.dim) or not tensor_type.HasField("shape"):
        raise CompileError(f"the shape of {name} is not fixed once the batch is; use static shapes in the network")
    dtype = helper.tensor_dtype_to_np_dtype(tensor_type.elem_type)
    return Tensor(name, tuple(dim.dim_value for dim in tensor_type.shape.dim), np.dtype(dtype))
