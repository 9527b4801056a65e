"""The losses a network can be trained by: each example's loss, metric and gradient by the logits, in closed form.

ORT Training differentiates the network from the logits backwards and never sees a loss, so a loss is one function here
and its gradient costs no more nodes than it must. An example's loss is torch's with `reduction="mean"` on a batch of
that example alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from device_runtime.specs import Target
from pipeline.compile.builder import CompileError, GraphBuilder, Tensor
from pipeline.compile.values import reshape


@dataclass(frozen=True)
class Loss:
    """Which loss.

    Attributes:
        name: `cross_entropy` (y i64[B], class indices), `bce_with_logits` (y f32[B, K] in [0, 1]), `mse` (y f32[B, K]).
        label_smoothing: Of cross-entropy, in [0, 1): the share of each label that is spread over all classes.
    """

    name: str = "cross_entropy"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in _TERMS:
            raise ValueError(f"loss must be one of {', '.join(sorted(_TERMS))}, got {self.name!r}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}")
        if self.label_smoothing and self.name != "cross_entropy":
            raise ValueError(f"label_smoothing goes with cross_entropy, not with {self.name}")

    @property
    def takes_classes(self) -> bool:
        """Whether y is a class index i64[B]; otherwise it is f32[B, K]."""
        return self.name == "cross_entropy"

    @property
    def target(self) -> Target:
        """What an artifact's specification says of y."""
        return "class" if self.takes_classes else "values"

    @property
    def metric(self) -> str:
        """Name of the metric in [0, 1]."""
        return METRICS[self.name]

    def terms(self, graph: GraphBuilder, logits: Tensor, y: Tensor) -> "LossTerms":
        """Write what the loss needs into the graph; what is not used later is left out of the model."""
        if len(logits.shape) != 2:
            raise CompileError(
                f"the network must give [batch, outputs], got {list(logits.shape)}; flatten or average in forward"
            )
        return _TERMS[self.name](graph, logits, y, self.label_smoothing)


@dataclass(frozen=True)
class LossTerms:
    """What one loss gives.

    Attributes:
        losses: [B].
        gradient: Of each example's own loss by its logits, [B, K].
        metric: [B], in [0, 1].
    """

    losses: Tensor
    gradient: Tensor
    metric: Tensor


METRICS = {"cross_entropy": "accuracy", "bce_with_logits": "accuracy", "mse": "closeness"}


def cross_entropy(graph: GraphBuilder, logits: Tensor, y: Tensor, label_smoothing: float = 0.0) -> LossTerms:
    """Softmax cross-entropy; accuracy counts the right answers."""
    num_classes = logits.shape[1]
    log_prob = graph.op("LogSoftmax", logits, axis=1)
    picked = graph.op("GatherElements", log_prob, reshape(graph, y, (*y.shape, 1)), axis=1)
    losses = graph.op("Neg", reshape(graph, picked, y.shape))
    classes = graph.constant(np.arange(num_classes, dtype=np.int64))
    target = _as_float(graph, graph.op("Equal", reshape(graph, y, (*y.shape, 1)), classes))
    if label_smoothing:
        kept, spread = _number(graph, 1 - label_smoothing), _number(graph, label_smoothing / num_classes)
        target = graph.op("Add", graph.op("Mul", target, kept), spread)
        everywhere = graph.op("ReduceMean", log_prob, axes=[1], keepdims=0)
        smooth = graph.op("Mul", everywhere, _number(graph, -label_smoothing))
        losses = graph.op("Add", graph.op("Mul", losses, kept), smooth)
    gradient = graph.op("Sub", graph.op("Exp", log_prob), target)
    best = graph.op("ArgMax", logits, axis=1, keepdims=0)
    return LossTerms(losses, gradient, _as_float(graph, graph.op("Equal", best, y)))


def bce_with_logits(graph: GraphBuilder, logits: Tensor, y: Tensor, _smoothing: float = 0.0) -> LossTerms:
    """Binary cross-entropy of K yes-or-no outputs, their mean; accuracy is the share of outputs on y's side of 1/2."""
    zero, one, half = (_number(graph, value) for value in (0.0, 1.0, 0.5))
    # max(z, 0) - z y + log(1 + exp(-|z|)): no exponential of a positive number, so it cannot overflow.
    tail = graph.op("Log", graph.op("Add", graph.op("Exp", graph.op("Neg", graph.op("Abs", logits))), one))
    each = graph.op("Add", graph.op("Sub", graph.op("Relu", logits), graph.op("Mul", logits, y)), tail)
    difference = graph.op("Sub", graph.op("Sigmoid", logits), y)
    is_right = graph.op("Equal", graph.op("Greater", logits, zero), graph.op("Greater", y, half))
    return LossTerms(
        graph.op("ReduceMean", each, axes=[1], keepdims=0),
        graph.op("Mul", difference, _number(graph, 1 / logits.shape[1])),
        graph.op("ReduceMean", _as_float(graph, is_right), axes=[1], keepdims=0),
    )


def mse(graph: GraphBuilder, logits: Tensor, y: Tensor, _smoothing: float = 0.0) -> LossTerms:
    """Mean squared error of K outputs; closeness is the mean of max(0, 1 - |error|): 1 is exact, 0 a unit off."""
    error = graph.op("Sub", logits, y)
    near = graph.op("Relu", graph.op("Sub", _number(graph, 1.0), graph.op("Abs", error)))
    return LossTerms(
        graph.op("ReduceMean", graph.op("Mul", error, error), axes=[1], keepdims=0),
        graph.op("Mul", error, _number(graph, 2 / logits.shape[1])),
        graph.op("ReduceMean", near, axes=[1], keepdims=0),
    )


def _as_float(graph: GraphBuilder, flags: Tensor) -> Tensor:
    return graph.op("Cast", flags, to=TensorProto.FLOAT)


def _number(graph: GraphBuilder, value: float) -> Tensor:
    return graph.constant(value, np.float32)


_TERMS: dict[str, Callable[[GraphBuilder, Tensor, Tensor, float], LossTerms]] = {
    "cross_entropy": cross_entropy,
    "bce_with_logits": bce_with_logits,
    "mse": mse,
}
