"""Lower ONNX Runtime Training's gradient graph to standard operators, keeping each example's share of every gradient.

One rule an operator, found in the tables of `rules_*.py`. The rules write into a `GraphBuilder`, which knows every
shape, so the shape arithmetic of the gradient graph folds away as it is met.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper, numpy_helper

from pipeline.compile.builder import CompileError, GraphBuilder
from pipeline.compile.rules_refused import REASONS, refusal
from pipeline.compile.values import CouplingError, Plain, Value


@dataclass(frozen=True)
class Node:
    """One operator of the graph that is lowered.

    Attributes:
        layer: Name of the module it came from, for messages.
        outputs: Names of its outputs; empty where nobody asks for one.
    """

    op_type: str
    layer: str
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    def coupled(self, why: str) -> CouplingError:
        """The error for a layer that mixes examples."""
        return CouplingError(
            f"layer {self.layer!r} ({self.op_type}) {why}, so it mixes the examples of a batch and a per-example clip "
            "would protect nobody; use a layer that works on each example alone (GroupNorm for BatchNorm)"
        )

    def refused(self, why: str) -> CompileError:
        """The error for a layer that has no rule for what it does."""
        return CompileError(f"layer {self.layer!r} ({self.op_type}) {why}; replace that layer")


_RANDOM = {"Bernoulli", "Multinomial", "RandomNormalLike", "RandomUniformLike"}
# What shape inference, folding and numpy's broadcasting raise on a node that was exported wrongly.
_LIBRARY_ERRORS = (ValueError, IndexError, TypeError, RuntimeError, onnx.shape_inference.InferenceError)
Rule = Callable[[GraphBuilder, Node, Sequence[Value | None]], tuple[Value | None, ...]]


def lower(
    model: onnx.ModelProto,
    rules: Mapping[str, Rule],
    graph: GraphBuilder,
    known: Mapping[str, Value],
    wanted: Sequence[str],
) -> tuple[Value, ...]:
    """Write what computes the wanted values into `graph`.

    Args:
        model: Forward or gradient graph, batch fixed.
        known: Values of the model's inputs (and of parameters) by name.

    Raises:
        CompileError: For an operator without a rule, and for a wanted value that the model does not compute.
        CouplingError: For a layer that mixes examples.
    """
    values: dict[str, Value] = dict(known)
    for initializer in model.graph.initializer:
        if initializer.name not in values:
            values[initializer.name] = Plain(graph.constant(numpy_helper.to_array(initializer)), is_batched=False)
    for node in _in_order(model, set(values), wanted):
        inputs = [values[name] if name else None for name in node.input]
        outputs = _apply(graph, rules, node, inputs)
        # A rule may give fewer values than the node has outputs; whoever reads a missing one is told by name.
        values.update((name, value) for name, value in zip(node.output, outputs, strict=False) if name and value)
    return tuple(values[name] for name in wanted)


def layer_name(node_name: str) -> str:
    """The module of a node: `stages.0` for /stages/0/Conv and for its gradient, /stages/0/Conv_Grad/ConvGrad_0."""
    forward = node_name.removeprefix("AccumulateGrad_").partition("_Grad/")[0]
    *scopes, operator = forward.strip("/").split("/")
    path = ""
    for scope in scopes:  # each inside the one before, by its own name or by its whole path
        path = scope if not path or scope.startswith(f"{path}.") else f"{path}.{scope}"
    return path or operator


def _apply(
    graph: GraphBuilder, rules: Mapping[str, Rule], proto: onnx.NodeProto, inputs: list[Value | None]
) -> tuple[Value | None, ...]:
    attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
    node = Node(proto.op_type, layer_name(proto.name or proto.output[0]), tuple(proto.output), attributes)
    with refusing(node), graph.owned_by(node.layer):
        return _lowered(graph, rules, proto, node, inputs)


@contextmanager
def refusing(node: Node) -> Iterator[None]:
    """Name the layer in what a library raises on its node."""
    try:
        yield
    except CompileError:
        raise
    except _LIBRARY_ERRORS as error:
        told = (str(error).splitlines() or [type(error).__name__])[0]
        raise node.refused(f"cannot be computed as it was exported ({told})") from error


def _lowered(
    graph: GraphBuilder, rules: Mapping[str, Rule], proto: onnx.NodeProto, node: Node, inputs: list[Value | None]
) -> tuple[Value | None, ...]:
    if inputs and proto.domain == "" and proto.op_type != "If" and all(_is_known(value) for value in inputs):
        return _evaluate(graph, proto, inputs)
    if proto.op_type in REASONS:
        raise refusal(proto.op_type, node.layer)
    rule = rules.get(proto.op_type)
    if rule is None:
        if folded := _folded(graph, proto, node.attributes, inputs):
            return folded
        raise CompileError(
            f"layer {node.layer!r} needs operator {proto.op_type}, which has no rule; replace the layer by one of the "
            f"operators {', '.join(sorted(name for name in rules if 'Grad' not in name))}"
        )
    return rule(graph, node, inputs)


def _is_known(value: Value | None) -> bool:
    return value is None or (isinstance(value, Plain) and value.tensor.constant is not None)


def _evaluate(graph: GraphBuilder, proto: onnx.NodeProto, inputs: list[Value | None]) -> tuple[Value | None, ...]:
    """An operator on constants: shape arithmetic for the most part, which folds away."""
    if proto.op_type in _RANDOM:
        raise CompileError(f"layer {layer_name(proto.name)!r} ({proto.op_type}) is random; draw it outside of forward")
    attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
    tensors = [value.tensor if isinstance(value, Plain) else None for value in inputs]
    outputs = graph.ops(proto.op_type, *tensors, num_outputs=len(proto.output), **attributes)
    return tuple(Plain(output, is_batched=False) for output in outputs)


def _folded(
    graph: GraphBuilder, proto: onnx.NodeProto, attributes: dict[str, Any], inputs: list[Value | None]
) -> tuple[Value, ...] | None:
    """A standard operator on constants, of which shape arithmetic is made; None where it is anything else."""
    tensors = [value.tensor for value in inputs if isinstance(value, Plain) and value.tensor.constant is not None]
    if proto.domain or len(tensors) < len(inputs) or len(proto.output) > 1:
        return None
    result = graph.op(proto.op_type, *tensors, **attributes)
    return None if result.constant is None else (Plain(result, is_batched=False),)


def _in_order(model: onnx.ModelProto, known: set[str], wanted: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that `wanted` needs, by depth-first search: the order in the file changes from process to process."""
    producer = {name: node for node in model.graph.node for name in node.output if name}
    if missing := [name for name in wanted if name not in producer and name not in known]:
        raise CompileError(f"the graph does not compute {', '.join(missing)}: nothing differentiable leads there")
    order: list[onnx.NodeProto] = []
    done: set[int] = set()
    stack = [(producer[name], False) for name in reversed(wanted) if name not in known]
    while stack:
        node, is_ready = stack.pop()
        if id(node) in done:
            continue
        if is_ready:
            done.add(id(node))
            order.append(node)
            continue
        stack.append((node, True))
        stack.extend((producer[name], False) for name in reversed(node.input) if name and name not in known)
    return order
