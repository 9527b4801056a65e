"""Export layers in primitive operators that ORT Training differentiates by itself: what its own tools need."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.onnx import symbolic_helper, symbolic_opset11

from pipeline.compile.symbolic import Symbolic
from pipeline.compile.symbolics_spatial import with_padded_sizes


def _group_norm(g: Any, x: Any, num_groups: Any, *others: Any) -> Any:
    weight, bias, eps, _cudnn = others
    return _normalised_groups(g, x, symbolic_helper._parse_arg(num_groups, "i"), weight, bias, eps)


def _instance_norm(g: Any, x: Any, weight: Any, bias: Any, *others: Any) -> Any:
    return _normalised_groups(g, x, x.type().sizes()[1], weight, bias, others[-2])


def _normalised_groups(g: Any, x: Any, num_groups: int, *parameters: Any) -> Any:
    weight, bias, eps = parameters
    sizes = x.type().sizes()
    groups = _reshape(g, x, [sizes[0], num_groups, -1])
    centred = g.op("Sub", groups, g.op("ReduceMean", groups, axes_i=[2]))
    normal = _reshape(g, _over_deviation(g, centred, [2], eps), sizes)
    for operator, parameter in (("Mul", weight), ("Add", bias)):
        if not symbolic_helper._is_none(parameter):
            normal = g.op(operator, normal, _reshape(g, parameter, [-1, *(1 for _ in sizes[2:])]))
    return normal.setType(x.type())


def _rms_norm(g: Any, x: Any, shape: Any, weight: Any, eps: Any) -> Any:
    rank = len(x.type().sizes())
    axes = list(range(rank - len(symbolic_helper._parse_arg(shape, "is")), rank))
    normal = _over_deviation(g, x, axes, eps)
    return (normal if symbolic_helper._is_none(weight) else g.op("Mul", normal, weight)).setType(x.type())


def _over_deviation(g: Any, centred: Any, axes: Sequence[int], eps: Any) -> Any:
    epsilon = torch.finfo(torch.float32).eps if symbolic_helper._is_none(eps) else symbolic_helper._parse_arg(eps, "f")
    variance = g.op("ReduceMean", g.op("Mul", centred, centred), axes_i=list(axes))
    return g.op("Div", centred, g.op("Sqrt", g.op("Add", variance, _number(g, epsilon))))


def _hardswish(g: Any, x: Any) -> Any:
    return g.op("Mul", x, _hardsigmoid(g, x)).setType(x.type())


def _hardsigmoid(g: Any, x: Any) -> Any:
    clipped = g.op("Clip", g.op("Add", x, _number(g, 3.0)), _number(g, 0.0), _number(g, 6.0))
    return g.op("Mul", clipped, _number(g, 1 / 6)).setType(x.type())


def _pad(g: Any, x: Any, widths: Any, *mode_and_value: Any) -> Any:
    return with_padded_sizes(g, x, widths, symbolic_opset11.pad(g, x, widths, *mode_and_value))


def _reshape(g: Any, x: Any, sizes: Sequence[int]) -> Any:
    return g.op("Reshape", x, g.op("Constant", value_t=torch.tensor(sizes)))


def _number(g: Any, value: float) -> Any:
    return g.op("Constant", value_t=torch.tensor(value))


SYMBOLICS: dict[str, Symbolic] = {
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "rms_norm": _rms_norm,
    "hardswish": _hardswish,
    "hardsigmoid": _hardsigmoid,
    "pad": _pad,
}
