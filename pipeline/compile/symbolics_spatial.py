"""Export pooling, padding, upsampling and shuffling layers in operators that have rules."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # torch's own abbreviation
from torch.onnx import OnnxExporterError, symbolic_helper, symbolic_opset11

from pipeline.compile.symbolic import Symbolic, operator, refused


def _amax(name: str) -> Symbolic:
    def symbolic(g: Any, x: Any, dim: Any, keepdim: Any) -> Any:
        sizes = x.type().sizes()
        axes = [axis % len(sizes) for axis in symbolic_helper._parse_arg(dim, "is")] or list(range(len(sizes)))
        is_kept = symbolic_helper._parse_arg(keepdim, "i")
        left = [1 if i in axes else size for i, size in enumerate(sizes) if is_kept or i not in axes]
        return operator(g, name, x, sizes=left, axes_i=axes, keepdims_i=is_kept)

    return symbolic


def _extreme(name: str) -> Symbolic:
    """max and min: over everything, of two tensors, or along an axis with the position of the first."""

    def symbolic(g: Any, x: Any, other: Any = None, keepdim: Any = None) -> Any:
        if other is None:
            return operator(g, f"Reduce{name}", x, sizes=[], axes_i=list(range(len(x.type().sizes()))), keepdims_i=0)
        if keepdim is None:
            return g.op(name, x, other)
        sizes, is_kept = x.type().sizes(), symbolic_helper._parse_arg(keepdim, "i")
        axis = symbolic_helper._parse_arg(other, "i") % len(sizes)
        left = [1 if i == axis else size for i, size in enumerate(sizes) if is_kept or i != axis]
        values = operator(g, f"First{name}", x, sizes=left, axes_i=[axis], keepdims_i=is_kept)
        return values, g.op(f"Arg{name}", x, axis_i=axis, keepdims_i=is_kept)

    return symbolic


def _max_pool(g: Any, x: Any, *arguments: Any) -> Any:
    """MaxPool with torch's ceil_mode as padding: ONNX Runtime also counts windows that begin behind the input."""
    sizes = x.type().sizes()
    rank = len(sizes) - 2
    kernel, stride, begin, dilation = (symbolic_helper._parse_arg(value, "is") for value in arguments[:4])
    kernel, begin, dilation = (_repeated(values, rank) for values in (kernel, begin, dilation))
    stride = _repeated(stride, rank) if stride else kernel
    is_ceil = bool(symbolic_helper._parse_arg(arguments[4], "i"))
    windows = zip(sizes[2:], kernel, stride, begin, dilation, strict=True)
    out = [F.max_pool1d(torch.zeros(1, size), k, s, p, d, is_ceil).shape[1] for size, k, s, p, d in windows]
    reach = [s * (o - 1) + d * (k - 1) + 1 for o, k, s, d in zip(out, kernel, stride, dilation, strict=True)]
    end = [max(p, r - p - size) for size, r, p in zip(sizes[2:], reach, begin, strict=True)]
    if any(e >= k for e, k in zip(end, kernel, strict=True)):
        raise refused(g, "has a window that lies half outside the input", "leave ceil_mode or the dilation out")
    window = {"kernel_shape_i": kernel, "strides_i": stride, "dilations_i": dilation, "pads_i": [*begin, *end]}
    return g.op("MaxPool", x, **window).setType(x.type().with_sizes([*sizes[:2], *out]))


def _adaptive_max(g: Any, x: Any, output_size: Any) -> Any:
    sizes, out = x.type().sizes(), symbolic_helper._parse_arg(output_size, "is")
    space = sizes[2:]
    if any(size % wanted for size, wanted in zip(space, out, strict=True)):
        raise refused(g, f"pools {list(space)} to {list(out)}", "use sizes that divide, or adaptive average pooling")
    kernel = [size // wanted for size, wanted in zip(space, out, strict=True)]
    pooled = g.op("MaxPool", x, outputs=2, kernel_shape_i=kernel, strides_i=kernel)
    pooled[0].setType(x.type().with_sizes([*sizes[:2], *out]))
    return pooled


def _per_axis(function: Callable[..., list[Tensor]]) -> Symbolic:
    """A layer that acts on each spatial axis alone and linearly: one matrix an axis, read off the identity."""

    def symbolic(g: Any, x: Any, *arguments: Any) -> Any:
        sizes = x.type().sizes()
        matrices = function(sizes[2:], *arguments)
        out = [*sizes[:2], *(matrix.shape[1] for matrix in matrices)]
        constants = [g.op("Constant", value_t=matrix) for matrix in matrices]
        return operator(g, "AxisMaps", x, *constants, sizes=out)

    return symbolic


def _average_matrices(sizes: Sequence[int], *arguments: Any) -> list[Tensor]:
    kernel, stride, padding = (symbolic_helper._parse_arg(value, "is") for value in arguments[:3])
    ceil_mode, count_padding = (bool(symbolic_helper._parse_arg(value, "i")) for value in arguments[3:5])
    rank = len(sizes)
    kernel, padding = _repeated(kernel, rank), _repeated(padding, rank)
    stride = _repeated(stride, rank) if stride else kernel
    matrices = [
        F.avg_pool1d(torch.eye(size)[:, None], k, s, p, ceil_mode, count_padding)[:, 0]
        for size, k, s, p in zip(sizes, kernel, stride, padding, strict=True)
    ]
    if len(arguments) > 5 and not symbolic_helper._is_none(arguments[5]):
        divisor = symbolic_helper._parse_arg(arguments[5], "i")
        matrices[0] = matrices[0] * (prod(kernel) / divisor)
    return matrices


def _adaptive_matrices(sizes: Sequence[int], output_size: Any) -> list[Tensor]:
    out = symbolic_helper._parse_arg(output_size, "is")
    return [F.adaptive_avg_pool1d(torch.eye(size)[:, None], o)[:, 0] for size, o in zip(sizes, out, strict=True)]


def _adaptive_average(g: Any, x: Any, output_size: Any) -> Any:
    sizes = x.type().sizes()
    if all(size == 1 for size in symbolic_helper._parse_arg(output_size, "is")):
        average = g.op("GlobalAveragePool", x)
        return average.setType(x.type().with_sizes([*sizes[:2], *[1] * (len(sizes) - 2)]))
    return _per_axis(_adaptive_matrices)(g, x, output_size)


def _pad(g: Any, x: Any, widths: Any, mode: Any, value: Any) -> Any:
    kind = symbolic_helper._parse_arg(mode, "s")
    if kind == "constant":
        return with_padded_sizes(g, x, widths, symbolic_opset11.constant_pad_nd(g, x, widths, value))
    sizes, ends = x.type().sizes(), symbolic_helper._parse_arg(widths, "is")
    num_axes = len(ends) // 2
    if len(sizes) - num_axes != 2:
        raise refused(g, f"pads {num_axes} axes by {kind}", "pad the axes behind batch and channels")

    def matrices(space: Sequence[int]) -> list[Tensor]:
        pairs = [ends[2 * i : 2 * i + 2] for i in reversed(range(num_axes))]  # torch begins with the last axis
        return [F.pad(torch.eye(n)[:, None], pair, kind)[:, 0] for n, pair in zip(space, pairs, strict=True)]

    return _per_axis(matrices)(g, x)


def with_padded_sizes(g: Any, x: Any, widths: Any, padded: Any) -> Any:
    """The padded x with its sizes, which torch's own export leaves out; without them where the widths are computed."""
    try:
        ends = symbolic_helper._parse_arg(widths, "is")
    except OnnxExporterError:
        return padded
    if x.type().sizes() is None:
        return padded
    sizes = list(x.type().sizes())
    for i in range(len(ends) // 2):  # torch begins with the last axis
        sizes[-1 - i] += ends[2 * i] + ends[2 * i + 1]
    if min(sizes) < 1:
        raise refused(g, f"leaves nothing of {x.type().sizes()}", "cut off less by negative widths")
    return padded.setType(x.type().with_sizes(sizes))


def _upsample(kind: str) -> Symbolic:
    def symbolic(g: Any, x: Any, size: Any, *others: Any) -> Any:
        *align, scales = others
        is_aligned = bool(symbolic_helper._parse_arg(align[0], "i")) if align else None
        by_size = not symbolic_helper._is_none(size)
        asked = symbolic_helper._parse_arg(size, "is") if by_size else symbolic_helper._parse_arg(scales, "fs")

        def matrices(space: Sequence[int]) -> list[Tensor]:
            name = "size" if by_size else "scale_factor"
            return [
                F.interpolate(torch.eye(n)[:, None], **{name: one}, mode=kind, align_corners=is_aligned)[:, 0]
                for n, one in zip(space, asked, strict=True)
            ]

        return _per_axis(matrices)(g, x)

    return symbolic


def _repeat(g: Any, x: Any, counts: Any) -> Any:
    sizes, repeats = x.type().sizes(), symbolic_helper._parse_arg(counts, "is")
    rank = max(len(sizes), len(repeats))
    sizes, repeats = ([*[1] * (rank - len(numbers)), *numbers] for numbers in (sizes, repeats))
    if rank > len(x.type().sizes()):
        x = g.op("Reshape", x, g.op("Constant", value_t=torch.tensor(sizes))).setType(x.type().with_sizes(sizes))
    out = [size * count for size, count in zip(sizes, repeats, strict=True)]
    return operator(g, "Repeat", x, sizes=out, repeats_i=repeats)


def _pixel_shuffle(g: Any, x: Any, factor: Any) -> Any:
    batch, channels, height, width = x.type().sizes()
    r = symbolic_helper._parse_arg(factor, "i")
    left = channels // r**2
    split = (batch, left, r, r, height, width)
    return _rearranged(g, x, split, (0, 1, 4, 2, 5, 3), (batch, left, height * r, width * r))


def _pixel_unshuffle(g: Any, x: Any, factor: Any) -> Any:
    batch, channels, height, width = x.type().sizes()
    r = symbolic_helper._parse_arg(factor, "i")
    split = (batch, channels, height // r, r, width // r, r)
    return _rearranged(g, x, split, (0, 1, 3, 5, 2, 4), (batch, channels * r**2, height // r, width // r))


def _channel_shuffle(g: Any, x: Any, groups: Any) -> Any:
    batch, channels, *space = x.type().sizes()
    num = symbolic_helper._parse_arg(groups, "i")
    split = (batch, num, channels // num, *space)
    return _rearranged(g, x, split, (0, 2, 1, *range(3, len(split))), (batch, channels, *space))


def _rearranged(g: Any, x: Any, split: Sequence[int], order: Sequence[int], merged: Sequence[int]) -> Any:
    apart = g.op("Reshape", x, g.op("Constant", value_t=torch.tensor(split)))
    turned = g.op("Transpose", apart, perm_i=list(order))
    result = g.op("Reshape", turned, g.op("Constant", value_t=torch.tensor(merged)))
    return result.setType(x.type().with_sizes(list(merged)))


def _repeated(values: Sequence[int], rank: int) -> list[int]:
    return list(values) * (rank if len(values) == 1 else 1)


SYMBOLICS: dict[str, Symbolic] = {
    "max": _extreme("Max"),
    "min": _extreme("Min"),
    "amax": _amax("ReduceMax"),
    "amin": _amax("ReduceMin"),
    "adaptive_max_pool1d": _adaptive_max,
    "adaptive_max_pool2d": _adaptive_max,
    "max_pool1d": _max_pool,
    "max_pool2d": _max_pool,
    "avg_pool1d": _per_axis(_average_matrices),
    "avg_pool2d": _per_axis(_average_matrices),
    "adaptive_avg_pool1d": _adaptive_average,
    "adaptive_avg_pool2d": _adaptive_average,
    "pad": _pad,
    "upsample_nearest1d": _upsample("nearest"),
    "upsample_nearest2d": _upsample("nearest"),
    "upsample_linear1d": _upsample("linear"),
    "upsample_bilinear2d": _upsample("linear"),
    "repeat": _repeat,
    "tile": _repeat,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "channel_shuffle": _channel_shuffle,
}
