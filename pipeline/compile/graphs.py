"""The two graphs of an artifact, `gradient.onnx` and `evaluate.onnx`, from a forward graph."""

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
from onnx import helper

from pipeline.compile import (
    rules_activations,
    rules_elementwise,
    rules_layers,
    rules_lookup,
    rules_normalisation,
    rules_pooling,
    rules_products,
    rules_shape,
    rules_slicing,
)
from pipeline.compile.builder import CompileError, GraphBuilder, Tensor
from pipeline.compile.export import LOGITS, Forward, gradient_graph
from pipeline.compile.losses import Loss
from pipeline.compile.lower import Rule, lower
from pipeline.compile.rules_elementwise import as_shares
from pipeline.compile.values import CouplingError, ExampleSum, Plain, Value, reshape, summed

LABELS = "y"
PARAMETERS, LOSS = "parameters", "loss"  # who owns what is no layer's
RULES: dict[str, Rule] = {
    **rules_elementwise.RULES,
    **rules_activations.RULES,
    **rules_shape.RULES,
    **rules_slicing.RULES,
    **rules_pooling.RULES,
    **rules_layers.RULES,
    **rules_normalisation.RULES,
    **rules_products.RULES,
    **rules_lookup.RULES,
}


@dataclass(frozen=True)
class Layout:
    """Where each parameter lies in the flat vector.

    Attributes:
        shapes: By name, in order.
        segments: Names of the parts, in the order of `segment_weight`.
        segment_of: By parameter name.
    """

    shapes: dict[str, tuple[int, ...]]
    segments: tuple[str, ...]
    segment_of: dict[str, str]

    @property
    def num_parameters(self) -> int:
        """P, the length of the flat vector."""
        return sum(prod(shape) for shape in self.shapes.values())


@dataclass(frozen=True)
class GradientGraph:
    """`gradient.onnx`.

    Attributes:
        forms: How each parameter's per-example gradients are held, by name: chosen from the static shapes.
    """

    model: onnx.ModelProto
    forms: dict[str, str]


def gradient_model(forward: Forward, layout: Layout, loss: Loss, *, by_layer: bool = False) -> GradientGraph:
    """`gradient.onnx`: the sum of clipped per-example gradients as DESIGN's interface has it.

    Args:
        by_layer: Name nodes after their layers, for measuring; an artifact's do not depend on its layers' names.
    """
    graph = GraphBuilder(LOSS)
    known = _declare_inputs(graph, forward, layout)
    y = _declare_labels(graph, forward, loss)
    mask = graph.input("mask", (_batch_size(forward),))
    max_grad_norm = graph.input("max_grad_norm", ())
    segment_weight = graph.input("segment_weight", (len(layout.segments),))
    raw = gradient_graph(forward)
    # ORT Training's copy of the forward graph: the gradients read its values, and one more copy would run again.
    terms = loss.terms(graph, _logits(graph, raw, known), y)
    # The mask is part of the loss's own gradient, so that a masked example's is exactly zero: with x = 0 a deep stack
    # of normalisations amplifies the gradient beyond float32, and a factor of zero at the end would leave 0 * inf.
    upstream = graph.op("Mul", terms.gradient, reshape(graph, mask, (*mask.shape, 1)))
    known[f"{LOGITS}_grad"] = Plain(upstream, is_batched=True)
    shares = _shares(graph, raw, layout, known)
    weights = _segment_weights(graph, layout, segment_weight)
    norms = _norms(graph, layout, shares, weights)
    clipped = _where_unmasked(graph, mask, _clip_factors(graph, norms, max_grad_norm))
    factors = {segment: graph.op("Mul", clipped, weight) for segment, weight in weights.items()}
    parts = []
    for name, shape in layout.shapes.items():
        if name in shares:
            with graph.owned_by(_layer_of(name)):
                parts.append(shares[name].weighted_sum(graph, factors[layout.segment_of[name]]))
        else:
            parts.append(graph.op("ConstantOfShape", graph.constant(np.array([prod(shape)], np.int64))))
    with graph.owned_by(PARAMETERS):
        gradient_sum = graph.op("Concat", *parts, axis=0)
    outputs = {
        "gradient_sum": gradient_sum,
        "loss_sum": graph.op("ReduceSum", _where_unmasked(graph, mask, terms.losses), keepdims=0),
        "norms": _where_unmasked(graph, mask, norms),
    }
    forms = {name: shares[name].form if name in shares else "reaches no loss" for name in layout.shapes}
    return GradientGraph(graph.to_model(outputs, "gradient", by_owner=by_layer), forms)


def evaluate_model(forward: Forward, layout: Layout, loss: Loss, *, by_layer: bool = False) -> onnx.ModelProto:
    """`evaluate.onnx`: each example's loss and metrics. `by_layer` as for `gradient_model`."""
    graph = GraphBuilder(LOSS)
    known = _declare_inputs(graph, forward, layout)
    y = _declare_labels(graph, forward, loss)
    mask = graph.input("mask", (_batch_size(forward),))
    terms = loss.terms(graph, _logits(graph, forward.model, known), y)
    metrics = reshape(graph, _where_unmasked(graph, mask, terms.metric), (*mask.shape, 1))
    outputs = {"losses": _where_unmasked(graph, mask, terms.losses), "metrics": metrics}
    return graph.to_model(outputs, "evaluate", by_owner=by_layer)


def layers_model(forward: Forward, layout: Layout) -> onnx.ModelProto:
    """Every value of forward that is of the examples: no part of an artifact, but tells which layer is wrong."""
    graph = GraphBuilder()
    known = _declare_inputs(graph, forward, layout)
    names = [node.output[0] for node in forward.model.graph.node]
    values = zip(names, lower(forward.model, RULES, graph, known, names), strict=True)
    outputs = {name: value.tensor for name, value in values if isinstance(value, Plain) and value.is_batched}
    return graph.to_model(outputs, "layers")


def _declare_inputs(graph: GraphBuilder, forward: Forward, layout: Layout) -> dict[str, Value]:
    """Parameters, examples and frozen tensors."""
    parameters = graph.input("parameters", (layout.num_parameters,))
    known: dict[str, Value] = {}
    for value in forward.model.graph.input:
        shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        known[value.name] = Plain(graph.input(value.name, shape, dtype), is_batched=True)
    for name, array in forward.frozen_inputs.items():
        known[name] = Plain(graph.input(f"frozen.{name}", array.shape), is_batched=False)
    sizes = np.array([prod(shape) for shape in layout.shapes.values()], np.int64)
    with graph.owned_by(PARAMETERS):
        parts = graph.ops("Split", parameters, graph.constant(sizes), num_outputs=len(sizes), axis=0)
    for part, (name, shape) in zip(parts, layout.shapes.items(), strict=True):
        with graph.owned_by(_layer_of(name)):
            known[name] = Plain(reshape(graph, part, shape), is_batched=False)
    return known


def _declare_labels(graph: GraphBuilder, forward: Forward, loss: Loss) -> Tensor:
    if loss.takes_classes:
        return graph.input(LABELS, (_batch_size(forward),), np.int64)
    (logits,) = forward.model.graph.output
    return graph.input(LABELS, tuple(dim.dim_value for dim in logits.type.tensor_type.shape.dim))


def _batch_size(forward: Forward) -> int:
    return int(forward.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value)


def _logits(graph: GraphBuilder, model: onnx.ModelProto, known: dict[str, Value]) -> Tensor:
    (found,) = lower(model, RULES, graph, known, [LOGITS])
    if not isinstance(found, Plain) or not found.is_batched:
        raise CouplingError("the logits are not one row an example; forward must keep the batch on axis 0")
    return found.tensor


def _shares(
    graph: GraphBuilder, raw: onnx.ModelProto, layout: Layout, known: dict[str, Value]
) -> dict[str, ExampleSum]:
    """Each parameter's gradients, example by example; those that do not reach the loss are left out."""
    computed = {name for node in raw.graph.node for name in node.output}
    # Backwards through the layout, so that each gradient is used up soon after it is made.
    names = [name for name in reversed(layout.shapes) if f"{name}_grad" in computed]
    if not names:
        raise CompileError("no trained parameter reaches the logits; does forward use them?")
    gradients = lower(raw, RULES, graph, known, [f"{name}_grad" for name in names])
    found = {}
    for name, gradient in zip(names, gradients, strict=True):
        with graph.owned_by(_layer_of(name)):
            found[name] = _as_sum(graph, name, gradient)
    return found


def _segment_weights(graph: GraphBuilder, layout: Layout, segment_weight: Tensor) -> dict[str, Tensor]:
    num = len(layout.segments)
    if num == 1:
        return {layout.segments[0]: segment_weight}
    parts = graph.ops("Split", segment_weight, graph.constant(np.ones(num, np.int64)), num_outputs=num, axis=0)
    return dict(zip(layout.segments, parts, strict=True))


def _norms(graph: GraphBuilder, layout: Layout, shares: dict[str, ExampleSum], weights: dict[str, Tensor]) -> Tensor:
    """L2 norm of each example's gradient over the segments in use, [B]."""
    squares = []
    for segment in layout.segments:
        used = [name for name in layout.shapes if layout.segment_of[name] == segment and name in shares]
        if used:  # a segment that reaches no loss adds nothing
            total = summed(graph, [_squared_norms(graph, name, shares[name]) for name in used])
            squares.append(graph.op("Mul", total, weights[segment]))
    return graph.op("Sqrt", summed(graph, squares))


def _squared_norms(graph: GraphBuilder, name: str, share: ExampleSum) -> Tensor:
    with graph.owned_by(_layer_of(name)):
        return share.squared_norms(graph)


def _clip_factors(graph: GraphBuilder, norms: Tensor, max_grad_norm: Tensor) -> Tensor:
    """min(1, C / norm): 1 for a zero gradient (C / 0 is infinite) and where C is infinite."""
    return graph.op("Min", graph.op("Div", max_grad_norm, norms), graph.constant(1.0, np.float32))


def _where_unmasked(graph: GraphBuilder, mask: Tensor, values: Tensor) -> Tensor:
    zero = graph.constant(0.0, np.float32)
    return graph.op("Where", graph.op("Greater", mask, zero), values, zero)


def _layer_of(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _as_sum(graph: GraphBuilder, name: str, value: Value) -> ExampleSum:
    shares = as_shares(graph, value)
    if isinstance(shares, ExampleSum):
        return shares
    raise CouplingError(
        f"the gradient of {name!r} is no sum over the examples: it depends on an example's place in the batch; "
        "use the same weights for every example"
    )
