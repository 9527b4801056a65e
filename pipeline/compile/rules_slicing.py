"""Lowering rules for what cuts values apart, pads and repeats them inside each example."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.compile.builder import GraphBuilder, Tensor
from pipeline.compile.lower import Node, Rule
from pipeline.compile.placement import (
    axes_in,
    has_example,
    is_batched,
    off_axes,
    place_of,
    placed,
    reshaped,
    structured,
)
from pipeline.compile.rules_elementwise import reduce_sum, to_shape, unsummed
from pipeline.compile.rules_shape import known
from pipeline.compile.values import ExampleSum, Materialised, Moved, Plain, Value, reshape


def slice_(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Slice with constant bounds along any axes but the examples'."""
    data = unsummed(node, inputs[0])
    tensor, shape = structured(graph, data), list(data.shape)
    cuts = _cuts(node, inputs[1:], data.shape)
    _check_inside(node, data, cuts)
    for axis, cut in cuts.items():
        shape[axis] = len(cut)
        tensor = _sliced(graph, tensor, axes_in(data, [axis])[0], cut)
    return (_like(graph, data, tensor, shape),)


def slice_grad(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """com.microsoft SliceGrad: dy at the positions that were cut out, zeros elsewhere; of cut parameters too."""
    whole = tuple(known(node, inputs[1]))
    cuts = _cuts(node, inputs[2:], whole)
    if isinstance(inputs[0], ExampleSum):
        shares = Plain(inputs[0].per_example(graph), is_batched=True)
        whole_shares = (shares.shape[0], *whole)
        at_shares = {axis + 1: cut for axis, cut in cuts.items()}
        return (Materialised(_uncut(graph, node, shares, at_shares, whole_shares).tensor),)
    return (_uncut(graph, node, unsummed(node, inputs[0]), cuts, whole),)


def _uncut(
    graph: GraphBuilder, node: Node, dy: Plain | Moved, cuts: dict[int, range], whole: tuple[int, ...]
) -> Plain | Moved:
    _check_inside(node, dy, cuts)
    tensor = structured(graph, dy)
    for axis, cut in cuts.items():
        at = axes_in(dy, [axis])[0]
        rising = cut if cut.step > 0 else cut[::-1]
        tensor = tensor if rising == cut else _sliced(graph, tensor, at, range(len(cut))[::-1])
        tensor = _padded(graph, _spread(graph, tensor, at, rising.step), at, rising.start, whole[axis])
    return _like(graph, dy, tensor, whole)


def split(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
    """Split along any axis but the examples'; of joined parameters too."""
    first, num = inputs[0], len(node.outputs)
    data = first if isinstance(first, ExampleSum) else unsummed(node, first)
    axis = node.attributes.get("axis", 0) % len(data.shape)
    sizes = known(node, inputs[1]) if len(inputs) > 1 else [data.shape[axis] // num] * num
    if isinstance(data, ExampleSum):
        shares = Plain(data.per_example(graph), is_batched=True)
        parts = _split(graph, node, shares, axis + 1, sizes)
        return tuple(Materialised(part.tensor) for part in parts)
    return _split(graph, node, data, axis, sizes)


def _split(
    graph: GraphBuilder, node: Node, data: Plain | Moved, axis: int, sizes: Sequence[int]
) -> tuple[Plain | Moved, ...]:
    if has_example(data, axis):
        raise node.coupled("splits the batch")
    at = axes_in(data, [axis])[0]
    lengths = graph.constant(sizes, np.int64)
    parts = graph.ops("Split", structured(graph, data), lengths, num_outputs=len(sizes), axis=at)
    shapes = [(*data.shape[:axis], size, *data.shape[axis + 1 :]) for size in sizes]
    return tuple(_like(graph, data, part, shape) for part, shape in zip(parts, shapes, strict=True))


def pad(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Pad with a constant, or crop where a width is negative, along any axes but the examples'; cut parameters too."""
    if node.attributes.get("mode", b"constant") != b"constant":
        raise node.refused("pads by other values than a constant")
    widths = np.array(known(node, inputs[1])).reshape(2, -1)
    value = unsummed(node, inputs[2]).tensor if len(inputs) > 2 and inputs[2] is not None else None
    if isinstance(inputs[0], ExampleSum):
        shares = Plain(inputs[0].per_example(graph), is_batched=True)
        return (Materialised(_pad(graph, node, shares, np.pad(widths, ((0, 0), (1, 0))), value).tensor),)
    return (_pad(graph, node, unsummed(node, inputs[0]), widths, value),)


def _pad(
    graph: GraphBuilder, node: Node, data: Plain | Moved, widths: NDArray[np.int64], value: Tensor | None
) -> Plain | Moved:
    axes = [axis for axis in range(len(data.shape)) if widths[:, axis].any()]
    if any(has_example(data, axis) for axis in axes):
        raise node.coupled("pads the batch")
    tensor = structured(graph, data)
    inner = np.zeros((2, len(tensor.shape)), np.int64)
    inner[:, axes_in(data, axes)] = widths[:, axes]
    tensor = graph.op("Pad", tensor, graph.constant(inner.reshape(-1)), *([] if value is None else [value]))
    return _like(graph, data, tensor, tuple(np.array(data.shape) + widths.sum(0)))


def repeat(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Repeat: each axis, but the examples', so and so many times."""
    data, repeats = unsummed(node, inputs[0]), node.attributes["repeats"]
    axes = [axis for axis, count in enumerate(repeats) if count != 1]
    if any(has_example(data, axis) for axis in axes):
        raise node.coupled("repeats the batch")
    tensor = structured(graph, data)
    inner = np.ones(len(tensor.shape), np.int64)
    inner[axes_in(data, axes)] = [repeats[axis] for axis in axes]
    tensor = graph.op("Tile", tensor, graph.constant(inner))
    return (_like(graph, data, tensor, tuple(np.array(data.shape) * repeats)),)


def repeat_grad(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Gradient dx of Repeat: the sum over the repetitions."""
    if isinstance(inputs[0], ExampleSum):
        shares = inputs[0].per_example(graph)
        return (Materialised(_unrepeated(graph, shares, [1, *node.attributes["repeats"]])),)
    dy, x = unsummed(node, inputs[0]), unsummed(node, inputs[1])
    counts = node.attributes["repeats"]
    sizes = [dy_size // count for dy_size, count in zip(dy.shape, counts, strict=True)]
    apart = reshaped(graph, node, dy, [size for pair in zip(counts, sizes, strict=True) for size in pair])
    axes = [2 * axis for axis, count in enumerate(counts) if count > 1]
    # A shared value that was repeated for every example has a sum over the examples here.
    over_counts = replace(node, attributes={"axes": axes, "keepdims": 0, "noop_with_empty_axes": 1})
    (summed,) = reduce_sum(graph, over_counts, [off_axes(apart, axes)])
    return (to_shape(graph, node, summed, x.shape),)


def _unrepeated(graph: GraphBuilder, tensor: Tensor, repeats: Sequence[int]) -> Tensor:
    """Sum over the repetitions of each axis."""
    for axis, count in enumerate(repeats):
        if count > 1:
            before, size, behind = tensor.shape[:axis], tensor.shape[axis] // count, tensor.shape[axis + 1 :]
            apart = reshape(graph, tensor, (*before, count, size, *behind))
            tensor = graph.op("ReduceSum", apart, graph.constant([axis], np.int64), keepdims=0)
    return tensor


def _check_inside(node: Node, data: Plain | Moved, axes: Iterable[int]) -> None:
    if any(has_example(data, axis) for axis in axes):
        raise node.coupled("cuts the batch in pieces")


def _cuts(node: Node, bounds: Sequence[Value | None], shape: Sequence[int]) -> dict[int, range]:
    """The positions that a Slice keeps, by axis; axes that it keeps whole are left out."""
    starts, ends, *others = (known(node, bound) for bound in bounds)
    axes = others[0] if others else list(range(len(starts)))
    steps = others[1] if len(others) > 1 else [1] * len(starts)
    cuts = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        positions = range(shape[axis])
        # ONNX writes "before the first" as a number far below, which Python's slice would count from the end.
        cut = positions[slice(start, None if step < 0 and end < -len(positions) else end, step)]
        if cut != positions:
            cuts[axis % len(shape)] = cut
    return cuts


def _sliced(graph: GraphBuilder, tensor: Tensor, axis: int, cut: range) -> Tensor:
    end = cut.stop if cut.step > 0 or cut.stop >= 0 else np.iinfo(np.int64).min
    numbers = (graph.constant([number], np.int64) for number in (cut.start, end, axis, cut.step))
    return graph.op("Slice", tensor, *numbers)


def _spread(graph: GraphBuilder, tensor: Tensor, axis: int, step: int) -> Tensor:
    """step - 1 zeros behind each position, the last one too."""
    if step == 1:
        return tensor
    before, size, behind = tensor.shape[:axis], tensor.shape[axis], tensor.shape[axis + 1 :]
    apart = reshape(graph, tensor, (*before, size, 1, *behind))
    return reshape(graph, _padded(graph, apart, axis + 1, 0, step), (*before, size * step, *behind))


def _padded(graph: GraphBuilder, tensor: Tensor, axis: int, begin: int, size: int) -> Tensor:
    """Zeros before and behind, or cropped, to `size` along an axis."""
    widths = np.zeros((2, len(tensor.shape)), np.int64)
    widths[:, axis] = begin, size - begin - tensor.shape[axis]
    return graph.op("Pad", tensor, graph.constant(widths.reshape(-1))) if widths.any() else tensor


def _like(graph: GraphBuilder, value: Plain | Moved, tensor: Tensor, shape: Sequence[int]) -> Plain | Moved:
    """What became of a value's `structured`, with the example where it was."""
    if not is_batched(value):
        return Plain(tensor, is_batched=False)
    return placed(graph, tensor, [int(size) for size in shape], place_of(value))


RULES: dict[str, Rule] = {
    "Slice": slice_,
    "SliceGrad": slice_grad,
    "Split": split,
    "Pad": pad,
    "Repeat": repeat,
    "RepeatGrad": repeat_grad,
}
