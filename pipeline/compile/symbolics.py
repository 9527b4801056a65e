"""Export torch layers as one operator each, of the domain `handheld`, where ONNX has none that can be differentiated.

The exporter would write a LayerNorm or a GELU out in primitive operators, whose gradients run into dozens of nodes, and
knows no RMSNorm. Each operator here has two rules (`rules_normalisation`, `rules_activations`, `rules_pooling`): the
layer and its gradient, each in the fewest standard operators.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.onnx import symbolic_helper

from pipeline.compile import symbolics_products, symbolics_spatial
from pipeline.compile.symbolic import Symbolic, exporting, operator, refused

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # arXiv:1706.02515
_SOFTPLUS_THRESHOLD = 20.0  # torch's default: what it leaves out from there on is below float32's rounding


@contextmanager
def layers_as_operators(opset: int) -> Iterator[None]:
    """Let the TorchScript exporter write the operators of this file."""
    with exporting(_SYMBOLICS, opset):
        yield


def _unary(name: str, **fixed: Any) -> Symbolic:
    return lambda g, x, *_: operator(g, name, x, **fixed)


def _group_norm(g: Any, x: Any, num_groups: Any, *others: Any) -> Any:
    *parameters, eps, _cudnn = others
    scale, shift = _scale_and_shift(g, parameters, x.type().sizes()[1:2])
    attributes = {
        "num_groups_i": symbolic_helper._parse_arg(num_groups, "i"),
        "epsilon_f": symbolic_helper._parse_arg(eps, "f"),
    }
    return operator(g, "GroupNorm", x, scale, shift, **attributes)


def _instance_norm(g: Any, x: Any, *others: Any) -> Any:
    *parameters, _mean, _variance, _use_input_stats, _momentum, eps, _cudnn = others
    channels = x.type().sizes()[1]
    scale, shift = _scale_and_shift(g, parameters, [channels])
    epsilon = symbolic_helper._parse_arg(eps, "f")
    return operator(g, "GroupNorm", x, scale, shift, num_groups_i=channels, epsilon_f=epsilon)


def _layer_norm(g: Any, x: Any, shape: Any, *others: Any) -> Any:
    *parameters, eps, _cudnn = others
    scale, shift = _scale_and_shift(g, parameters, symbolic_helper._parse_arg(shape, "is"))
    return operator(g, "LayerNorm", x, scale, shift, epsilon_f=symbolic_helper._parse_arg(eps, "f"))


def _scale_and_shift(g: Any, parameters: Sequence[Any], sizes: Sequence[int]) -> tuple[Any, Any]:
    weight, bias = parameters
    return _or_constant(g, weight, torch.ones(*sizes)), _or_constant(g, bias, torch.zeros(*sizes))


def _rms_norm(g: Any, x: Any, shape: Any, weight: Any, eps: Any) -> Any:
    scale = _or_constant(g, weight, torch.ones(symbolic_helper._parse_arg(shape, "is")))
    epsilon = torch.finfo(torch.float32).eps if symbolic_helper._is_none(eps) else symbolic_helper._parse_arg(eps, "f")
    return operator(g, "RMSNorm", x, scale, epsilon_f=epsilon)


def _gelu(g: Any, x: Any, approximate: Any) -> Any:
    return operator(g, "GeluTanh" if symbolic_helper._parse_arg(approximate, "s") == "tanh" else "Gelu", x)


def _softplus(g: Any, x: Any, beta: Any, threshold: Any) -> Any:
    slope, bend = (symbolic_helper._parse_arg(value, "f") for value in (beta, threshold))
    if bend < _SOFTPLUS_THRESHOLD:
        raise refused(g, f"is linear from threshold={bend:g} on, where it has a step", "leave threshold at 20")
    if slope == 0:
        raise refused(g, "divides by beta=0", "give another beta")
    return operator(g, "Softplus", x, beta_f=slope)


def _elu(g: Any, x: Any, alpha: Any, scale: Any, input_scale: Any) -> Any:
    numbers = [symbolic_helper._parse_arg(value, "f") for value in (alpha, scale, input_scale)]
    return operator(g, "Elu", x, **dict(zip(("alpha_f", "scale_f", "input_scale_f"), numbers, strict=True)))


def _celu(g: Any, x: Any, alpha: Any) -> Any:
    number = symbolic_helper._parse_arg(alpha, "f")
    return operator(g, "Elu", x, alpha_f=number, scale_f=1.0, input_scale_f=1 / number)


def _leaky_relu(g: Any, x: Any, slope: Any) -> Any:
    return operator(g, "LeakyRelu", x, alpha_f=symbolic_helper._parse_arg(slope, "f"))


def _prelu(g: Any, x: Any, weight: Any) -> Any:
    return operator(g, "PRelu", x, weight)


def _hardtanh(g: Any, x: Any, low: Any, high: Any) -> Any:
    bounds = {"low_f": symbolic_helper._parse_arg(low, "f"), "high_f": symbolic_helper._parse_arg(high, "f")}
    return operator(g, "HardTanh", x, **bounds)


def _or_constant(g: Any, parameter: Any, default: Tensor) -> Any:
    return g.op("Constant", value_t=default) if symbolic_helper._is_none(parameter) else parameter


def _clamp(g: Any, x: Any, low: Any = None, high: Any = None) -> Any:
    bounds = [None if bound is None or symbolic_helper._is_none(bound) else bound for bound in (low, high)]
    if any(bound is not None and not symbolic_helper._is_constant(bound) for bound in bounds):
        raise refused(g, "clamps by bounds that are computed", "use torch.minimum and torch.maximum")
    numbers = [None if bound is None else symbolic_helper._parse_arg(bound, "f") for bound in bounds]
    if not x.type().dtype().is_floating_point:
        return _clamp_ids(g, x, numbers)
    lowest, highest = (free if bound is None else bound for bound, free in zip(numbers, (-inf, inf), strict=True))
    return operator(g, "Clamp", x, low_f=lowest, high_f=highest)


def _clamp_ids(g: Any, x: Any, bounds: Sequence[float | None]) -> Any:
    """Whole numbers have no gradient, so ONNX's own operators do."""
    kind = x.type()
    for name, bound in zip(("Max", "Min"), bounds, strict=True):
        if bound is not None and bound != int(bound):
            raise refused(g, f"clamps whole numbers by {bound:g}", "use a whole number, or clamp after .float()")
        if bound is not None:
            x = g.op(name, x, g.op("Constant", value_t=torch.tensor(int(bound), dtype=kind.dtype()))).setType(kind)
    return x


def _clamp_max(g: Any, x: Any, high: Any) -> Any:
    return _clamp(g, x, None, high)


def _log_sum_exp(g: Any, x: Any, dim: Any, keepdim: Any) -> Any:
    axes, is_kept = symbolic_helper._parse_arg(dim, "is"), symbolic_helper._parse_arg(keepdim, "i")
    return _without_axes(g, x, g.op("ReduceLogSumExp", x, axes_i=axes, keepdims_i=1), axes, is_kept)


def _vector_norm(g: Any, x: Any, order: Any, dim: Any, keepdim: Any, _dtype: Any) -> Any:
    number, is_kept = symbolic_helper._parse_arg(order, "f"), symbolic_helper._parse_arg(keepdim, "i")
    if number not in (1, 2):
        raise refused(g, f"is a norm of order {number}", "use order 1 or 2, or write it out in abs, pow and sum")
    asked = [] if symbolic_helper._is_none(dim) else symbolic_helper._parse_arg(dim, "is")
    axes = asked or list(range(len(x.type().sizes())))
    if number == 2:
        norm = g.op("ReduceL2", x, axes_i=axes, keepdims_i=1)
    else:
        norm = g.op("ReduceSum", g.op("Abs", x), g.op("Constant", value_t=torch.tensor(axes)), keepdims_i=1)
    return _without_axes(g, x, norm, axes, is_kept)


def _without_axes(g: Any, x: Any, reduced: Any, axes: Sequence[int], is_kept: int) -> Any:
    """A reduction without its axes of size one: ORT Training cannot differentiate one that drops them itself."""
    sizes = x.type().sizes()
    dropped = [axis % len(sizes) for axis in axes]
    wide = [1 if i in dropped else size for i, size in enumerate(sizes)]
    reduced.setType(x.type().with_sizes(wide))
    if is_kept:
        return reduced
    left = [size for i, size in enumerate(sizes) if i not in dropped]
    squeezed = g.op("Squeeze", reduced, g.op("Constant", value_t=torch.tensor(dropped)))
    return squeezed.setType(x.type().with_sizes(left))


def _dropout(g: Any, x: Any, p: Any, is_training: Any) -> Any:
    if symbolic_helper._parse_arg(is_training, "i") and symbolic_helper._parse_arg(p, "f") > 0:
        raise refused(
            g, "drops values at random, which a graph cannot repeat on every runtime", "set p=0 or leave it out"
        )
    return x


_SYMBOLICS: dict[str, Symbolic] = {
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "hardswish": _unary("HardSwish"),
    "hardsigmoid": _unary("HardSigmoid"),
    "silu": _unary("Silu"),
    "gelu": _gelu,
    "mish": _unary("Mish"),
    "softplus": _softplus,
    "log_sigmoid": _unary("LogSigmoid"),
    "elu": _elu,
    "selu": _unary("Elu", alpha_f=_SELU_ALPHA, scale_f=_SELU_SCALE, input_scale_f=1.0),
    "celu": _celu,
    "leaky_relu": _leaky_relu,
    "prelu": _prelu,
    "hardtanh": _hardtanh,
    "relu6": _unary("HardTanh", low_f=0.0, high_f=6.0),
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp_max,
    "logsumexp": _log_sum_exp,
    "linalg_vector_norm": _vector_norm,
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), _dropout),
    **symbolics_spatial.SYMBOLICS,
    **symbolics_products.SYMBOLICS,
}
