"""The two graphs of an artifact, `gradient.onnx` and `evaluate.onnx`, from a forward graph."""

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx

from pipeline.compile import rules_elementwise, rules_layers, rules_shape
from pipeline.compile.builder import GraphBuilder, Tensor
from pipeline.compile.export import LABELS, LOG_PROB, LOGITS, LOSS, Forward, gradient_graph
from pipeline.compile.lower import Node, Rule, lower
from pipeline.compile.rules_elementwise import plain
from pipeline.compile.values import CouplingError, ExampleSum, Materialised, Plain, Value, reshape

METRICS = ("accuracy",)
RULES: dict[str, Rule] = {**rules_elementwise.RULES, **rules_shape.RULES, **rules_layers.RULES}


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


def gradient_model(forward: Forward, layout: Layout, x_shape: tuple[int, ...]) -> onnx.ModelProto:
    """`gradient.onnx`: the sum of clipped per-example gradients as DESIGN's interface has it."""
    graph = GraphBuilder()
    known, mask = _declare_inputs(graph, layout, x_shape)
    max_grad_norm = graph.input("max_grad_norm", ())
    segment_weight = graph.input("segment_weight", (len(layout.segments),))
    # The loss's own gradient, so that a masked example's is exactly zero: with x = 0 a deep stack of normalisations
    # amplifies the gradient beyond float32, and a factor of zero at the end would leave 0 * inf.
    known[f"{LOSS}_grad"] = Plain(reshape(graph, mask, (x_shape[0], 1)), is_batched=True)
    raw = gradient_graph(forward)
    # Backwards through the layout, so that each gradient is used up soon after it is made.
    names = list(reversed(layout.shapes))
    *gradients, loss = lower(raw, RULES, graph, known, [*(f"{name}_grad" for name in names), LOSS])
    shares = {name: _as_sum(graph, name, gradient) for name, gradient in zip(names, gradients, strict=True)}
    weights = _segment_weights(graph, layout, segment_weight)
    norms = _norms(graph, layout, shares, weights)
    factors = _where_unmasked(graph, mask, _clip_factors(graph, norms, max_grad_norm))
    parts = [
        graph.op("Mul", shares[name].weighted_sum(graph, factors), weights[layout.segment_of[name]])
        for name in layout.shapes
    ]
    outputs = {
        "gradient_sum": graph.op("Concat", *parts, axis=0),
        "loss_sum": graph.op(
            "ReduceSum", _where_unmasked(graph, mask, _as_sum(graph, LOSS, loss).per_example(graph)), keepdims=0
        ),
        "norms": _where_unmasked(graph, mask, norms),
    }
    return graph.to_model(outputs, "gradient")


def evaluate_model(forward: Forward, layout: Layout, x_shape: tuple[int, ...]) -> onnx.ModelProto:
    """`evaluate.onnx`: each example's loss and metrics."""
    graph = GraphBuilder()
    known, mask = _declare_inputs(graph, layout, x_shape)
    (found,) = lower(forward.model, RULES, graph, known, [LOGITS])
    node = Node("SoftmaxCrossEntropyLoss", LOSS, (LOSS, LOG_PROB), {})
    logits, labels = plain(node, found), plain(node, known[LABELS])
    loss, _ = rules_layers.cross_entropy(graph, node, [logits, labels])
    losses = _as_sum(graph, LOSS, loss).per_example(graph)
    best = graph.op("ArgMax", logits.tensor, axis=1, keepdims=0)
    is_right = graph.op("Cast", graph.op("Equal", best, labels.tensor), to=onnx.TensorProto.FLOAT)
    metrics = reshape(graph, _where_unmasked(graph, mask, is_right), (x_shape[0], len(METRICS)))
    return graph.to_model({"losses": _where_unmasked(graph, mask, losses), "metrics": metrics}, "evaluate")


def _declare_inputs(graph: GraphBuilder, layout: Layout, x_shape: tuple[int, ...]) -> tuple[dict[str, Value], Tensor]:
    parameters = graph.input("parameters", (layout.num_parameters,))
    x = graph.input("x", x_shape)
    y = graph.input(LABELS, x_shape[:1], np.int64)
    mask = graph.input("mask", x_shape[:1])
    sizes = np.array([prod(shape) for shape in layout.shapes.values()], np.int64)
    parts = graph.ops("Split", parameters, graph.constant(sizes), num_outputs=len(sizes), axis=0)
    known: dict[str, Value] = {"x": Plain(x, is_batched=True), LABELS: Plain(y, is_batched=True)}
    for part, (name, shape) in zip(parts, layout.shapes.items(), strict=True):
        known[name] = Plain(reshape(graph, part, shape), is_batched=False)
    return known, mask


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
        own = [shares[name].squared_norms(graph) for name in layout.shapes if layout.segment_of[name] == segment]
        total = graph.op("Sum", *own) if len(own) > 1 else own[0]
        squares.append(graph.op("Mul", total, weights[segment]))
    return graph.op("Sqrt", graph.op("Sum", *squares) if len(squares) > 1 else squares[0])


def _clip_factors(graph: GraphBuilder, norms: Tensor, max_grad_norm: Tensor) -> Tensor:
    """min(1, C / norm): 1 for a zero gradient (C / 0 is infinite) and where C is infinite."""
    return graph.op("Min", graph.op("Div", max_grad_norm, norms), graph.constant(1.0, np.float32))


def _where_unmasked(graph: GraphBuilder, mask: Tensor, values: Tensor) -> Tensor:
    zero = graph.constant(0.0, np.float32)
    return graph.op("Where", graph.op("Greater", mask, zero), values, zero)


def _as_sum(graph: GraphBuilder, name: str, value: Value) -> ExampleSum:
    if isinstance(value, ExampleSum):
        return value
    if value.is_batched and value.shape[0] == 1:
        return Materialised(reshape(graph, value.tensor, (1, *value.shape)))
    raise CouplingError(
        f"the gradient of {name!r} is no sum over the examples: it depends on an example's place in the batch; "
        "use the same weights for every example"
    )
