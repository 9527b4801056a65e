"""Activations and their gradients in the fewest passes over the values.

A pass over memory is what an activation costs. HardSigmoid, clip(alpha x + beta, 0, 1) in one pass, is therefore what
0-or-1 masks are made of: with alpha a huge power of two it is exactly the step at -beta / alpha, in two thirds of the
time of a comparison and a cast.
"""

from dataclasses import dataclass
from math import log2, sqrt

import numpy as np

from pipeline.compile.builder import GraphBuilder, Tensor
from pipeline.compile.lower import Node

_STEEPEST = 2.0**127  # times the smallest normal float32 it is 2
_EXP_LIMIT = 20.0  # beyond, mish(x) = x in float32


@dataclass(frozen=True)
class Pen:
    """Write elementwise operators in arithmetic; numbers become float32 constants."""

    graph: GraphBuilder
    node: Node

    def __call__(self, op_type: str, *operands: Tensor | float) -> Tensor:
        constants = (o if isinstance(o, Tensor) else self.graph.constant(o, np.float32) for o in operands)
        return self.graph.op(op_type, *constants)

    def number(self, name: str) -> float:
        """An attribute of the layer."""
        return float(self.node.attributes[name])

    def affine(self, x: Tensor, alpha: float, beta: float) -> Tensor:
        """clip(alpha x + beta, 0, 1)."""
        return self.graph.op("HardSigmoid", x, alpha=alpha, beta=beta)

    def above(self, x: Tensor, threshold: float = 0.0) -> Tensor:
        """1 where x > threshold, else 0."""
        slope = _slope(threshold)
        return self.affine(x, slope, -slope * threshold)

    def below(self, x: Tensor, threshold: float) -> Tensor:
        """1 where x < threshold, else 0."""
        slope = _slope(threshold)
        return self.affine(x, -slope, slope * threshold)


def hard_swish(pen: Pen, x: Tensor) -> Tensor:
    """x clip(x / 6 + 1/2, 0, 1) (arXiv:1905.02244)."""
    return pen("Mul", x, pen.affine(x, 1 / 6, 0.5))


def hard_swish_grad(pen: Pen, dy: Tensor, x: Tensor) -> Tensor:
    """clip(x / 6 + 1/2, 0, 1) + x / 6 where |x| < 3."""
    inner = pen("Mul", x, pen.below(pen("Abs", x), 3.0))
    return pen("Mul", dy, pen("Add", pen("Mul", inner, 1 / 6), pen.affine(x, 1 / 6, 0.5)))


def hard_sigmoid(pen: Pen, x: Tensor) -> Tensor:
    """clip(x / 6 + 1/2, 0, 1)."""
    return pen.affine(x, 1 / 6, 0.5)


def hard_sigmoid_grad(pen: Pen, dy: Tensor, x: Tensor) -> Tensor:
    """1/6 where |x| < 3."""
    return pen("Mul", pen("Mul", dy, 1 / 6), pen.below(pen("Abs", x), 3.0))


def hard_tanh(pen: Pen, x: Tensor) -> Tensor:
    """clip(x, low, high); ReLU6 from 0 to 6."""
    return pen("Clip", x, pen.number("low"), pen.number("high"))


def hard_tanh_grad(pen: Pen, dy: Tensor, x: Tensor) -> Tensor:
    """1 strictly between low and high."""
    return pen("Mul", pen("Mul", dy, pen.above(x, pen.number("low"))), pen.below(x, pen.number("high")))


def clamp(pen: Pen, x: Tensor) -> Tensor:
    """clip(x, low, high); either may be infinite."""
    low, high = pen.number("low"), pen.number("high")
    x = x if np.isinf(low) else pen("Max", x, low)
    return x if np.isinf(high) else pen("Min", x, high)


def clamp_grad(pen: Pen, dy: Tensor, x: Tensor) -> Tensor:
    """1 from low to high, both included: clamp's gradient differs from hardtanh's in that."""
    low, high = pen.number("low"), pen.number("high")
    dy = dy if np.isinf(low) else pen("Mul", dy, pen("Sub", 1.0, pen.below(x, low)))
    return dy if np.isinf(high) else pen("Mul", dy, pen("Sub", 1.0, pen.above(x, high)))


def silu(pen: Pen, x: Tensor) -> Tensor:
    """x sigmoid(x) (arXiv:1702.03118)."""
    return pen("Mul", x, pen("Sigmoid", x))


def silu_grad(pen: Pen, dy: Tensor, x: Tensor) -> Tensor:
    """y + sigmoid(x) (1 - y)."""
    y = silu(pen, x)
    return pen("Mul", dy, pen("Add", y, pen("Mul", pen("Sigmoid", x), pen("Sub", 1.0, y))))


def gelu(pen: Pen, x: Tensor) -> Tensor:
    """x times the normal distribution's cumulative function (arXiv:1606.08415)."""
    return pen("Mul", x, _normal_share(pen, x))


def gelu_grad(pen: Pen, dy: Tensor, x: Tensor) -> Tensor:
    """The cumulative function + x times the density."""
    density = pen("Exp", pen("Mul", pen("Mul", x, -0.5), x))
    rise = pen("Mul", pen("Mul", x, 1 / sqrt(2 * np.pi)), density)
    return pen("Mul", dy, pen("Add", rise, _normal_share(pen, x)))


def gelu_tanh(pen: Pen, x: Tensor) -> Tensor:
    """GELU by a tanh: (1 + tanh z) / 2 is sigmoid(2 z)."""
    return pen("Mul", x, pen("Sigmoid", pen("Mul", x, _gelu_slope(pen, x, 1.0))))


def gelu_tanh_grad(pen: Pen, dy: Tensor, x: Tensor) -> Tensor:
    """s + y (1 - s) (2 z)' with s = sigmoid(2 z)."""
    share = pen("Sigmoid", pen("Mul", x, _gelu_slope(pen, x, 1.0)))
    bend = pen("Mul", pen("Mul", gelu_tanh(pen, x), pen("Sub", 1.0, share)), _gelu_slope(pen, x, 3.0))
    return pen("Mul", dy, pen("Add", share, bend))


def mish(pen: Pen, x: Tensor) -> Tensor:
    """x tanh(softplus(x)) (arXiv:1908.08681)."""
    return pen("Mul", x, _tanh_softplus(pen, x))


def mish_grad(pen: Pen, dy: Tensor, x: Tensor) -> Tensor:
    """t + x (1 - t^2) sigmoid(x) with t = tanh(softplus(x))."""
    t = _tanh_softplus(pen, x)
    bend = pen("Mul", pen("Mul", x, pen("Sub", 1.0, pen("Mul", t, t))), pen("Sigmoid", x))
    return pen("Mul", dy, pen("Add", t, bend))


def softplus(pen: Pen, x: Tensor) -> Tensor:
    """log(1 + exp(beta x)) / beta; no exponential of a positive number, so it cannot overflow."""
    scaled = _times(pen, x, pen.number("beta"))
    return _times(pen, _log_one_plus_exp(pen, scaled), 1 / pen.number("beta"))


def softplus_grad(pen: Pen, dy: Tensor, x: Tensor) -> Tensor:
    """sigmoid(beta x)."""
    return pen("Mul", dy, pen("Sigmoid", _times(pen, x, pen.number("beta"))))


def log_sigmoid(pen: Pen, x: Tensor) -> Tensor:
    """-log(1 + exp(-x))."""
    return pen("Neg", _log_one_plus_exp(pen, pen("Neg", x)))


def log_sigmoid_grad(pen: Pen, dy: Tensor, x: Tensor) -> Tensor:
    """sigmoid(-x)."""
    return pen("Mul", dy, pen("Sigmoid", pen("Neg", x)))


def elu(pen: Pen, x: Tensor) -> Tensor:
    """scale x where x > 0, else scale alpha (exp(input_scale x) - 1): ELU, SELU and CELU."""
    below = _times(pen, pen("Sub", _bounded_exp(pen, x), 1.0), pen.number("alpha"))
    return _times(pen, pen("Add", pen("Relu", x), below), pen.number("scale"))


def elu_grad(pen: Pen, dy: Tensor, x: Tensor) -> Tensor:
    """scale where x > 0, else scale alpha input_scale exp(input_scale x)."""
    slope, exponential = pen.number("alpha") * pen.number("input_scale"), _bounded_exp(pen, x)
    if slope != 1:  # where x > 0 the exponential is 1 and must not be scaled
        positive = pen.above(x)
        exponential = pen("Add", positive, pen("Mul", pen("Sub", exponential, positive), slope))
    return pen("Mul", dy, _times(pen, exponential, pen.number("scale")))


def leaky_relu(pen: Pen, x: Tensor) -> Tensor:
    """x where x > 0, else alpha x."""
    return pen("PRelu", x, pen.number("alpha"))  # half the time of ONNX Runtime's LeakyRelu


def leaky_relu_grad(pen: Pen, dy: Tensor, x: Tensor) -> Tensor:
    """1 where x > 0, else alpha."""
    alpha, positive = pen.number("alpha"), pen.above(x)
    if 0 <= alpha <= 1:
        return pen("Mul", dy, pen("Max", positive, alpha))
    return pen("Mul", dy, pen("Add", pen("Mul", positive, 1 - alpha), alpha))


def sigmoid_grad(pen: Pen, dy: Tensor, y: Tensor) -> Tensor:
    """y (1 - y)."""
    return pen("Mul", pen("Mul", dy, y), pen("Sub", 1.0, y))


def tanh_grad(pen: Pen, dy: Tensor, y: Tensor) -> Tensor:
    """1 - y^2."""
    return pen("Mul", dy, pen("Sub", 1.0, pen("Mul", y, y)))


def relu_grad(pen: Pen, dy: Tensor, y: Tensor) -> Tensor:
    """1 where y > 0."""
    return pen("Mul", dy, pen.above(y))


def _normal_share(pen: Pen, x: Tensor) -> Tensor:
    return pen.affine(pen("Erf", pen("Mul", x, sqrt(0.5))), 0.5, 0.5)


def _gelu_slope(pen: Pen, x: Tensor, factor: float) -> Tensor:
    """2 sqrt(2 / pi) (1 + factor 0.044715 x^2)."""
    slope = 2 * sqrt(2 / np.pi)
    return pen("Add", pen("Mul", pen("Mul", x, x), slope * factor * 0.044715), slope)


def _tanh_softplus(pen: Pen, x: Tensor) -> Tensor:
    exponential = pen("Exp", pen("Min", x, _EXP_LIMIT))
    numerator = pen("Mul", exponential, pen("Add", exponential, 2.0))
    return pen("Div", numerator, pen("Add", numerator, 2.0))


def _log_one_plus_exp(pen: Pen, x: Tensor) -> Tensor:
    return pen("Add", pen("Relu", x), pen("Log", pen("Add", pen("Exp", pen("Neg", pen("Abs", x))), 1.0)))


def _bounded_exp(pen: Pen, x: Tensor) -> Tensor:
    return pen("Exp", pen("Min", _times(pen, x, pen.number("input_scale")), 0.0))


def _times(pen: Pen, x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else pen("Mul", x, factor)


def _slope(threshold: float) -> float:
    """A power of two that makes the step from one float32 to the next at least 1, and its product finite."""
    return _STEEPEST if threshold == 0 else 2.0 ** (126 - max(0, int(log2(abs(threshold)) + 1)))
