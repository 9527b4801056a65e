"""Where the example is in a batched value: shapes, axes and broadcasting of values whose examples are not axis 0.

Frameworks put the batch second ([T, B, d]) or merge it with positions ([B T, d]) and heads ([B heads, T, d]). Here the
examples stay rows of the tensor, and only what the lowered graph believes about its shape changes.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from pipeline.compile.builder import GraphBuilder, Tensor
from pipeline.compile.lower import Node
from pipeline.compile.values import Moved, Place, Plain, reshape

FIRST = Place(0, 1, 1)


def is_batched(value: Plain | Moved) -> bool:
    """Whether the value depends on the examples."""
    return isinstance(value, Moved) or value.is_batched


def place_of(value: Plain | Moved) -> Place:
    """Where the example of a batched value is."""
    return FIRST if isinstance(value, Plain) else value.place


def has_example(value: Plain | Moved, axis: int) -> bool:
    """Whether an axis holds the examples."""
    return is_batched(value) and place_of(value).axis == axis


def placed(graph: GraphBuilder, tensor: Tensor, shape: Sequence[int], place: Place) -> Plain | Moved:
    """A batched value of the lowered graph's `shape`, from a tensor [B, ...] with its elements in that order.

    A batch of one may be thought of on any axis, and is thought of on the first where it fits.
    """
    if place == FIRST or tuple(shape[:1]) == tensor.shape[:1] == (1,):
        return Plain(reshape(graph, tensor, tuple(shape)), is_batched=True)
    return Moved(tensor, tuple(shape), place)


def reshaped(graph: GraphBuilder, node: Node, value: Plain | Moved, shape: Sequence[int]) -> Plain | Moved:
    """Reshape; where the example is not axis 0 afterwards, the tensor stays as it is.

    Raises:
        CouplingError: When `shape` cuts the examples in pieces.
    """
    if not is_batched(value):
        return Plain(reshape(graph, value.tensor, tuple(shape)), is_batched=False)
    place = _find(shape, place_of(value).before(value.shape), value.tensor.shape[0])
    if place is None:
        raise node.coupled(f"reshapes {list(value.shape)} to {list(shape)}, which cuts the example axis in pieces")
    return placed(graph, value.tensor, shape, place)


def off_axes(value: Plain | Moved, axes: Sequence[int]) -> Plain | Moved:
    """The value with its example on none of the axes, where that is a matter of words: in a batch of one."""
    if not is_batched(value) or value.tensor.shape[0] != 1 or place_of(value).axis not in axes:
        return value
    others = [axis for axis in range(len(value.shape)) if axis not in axes]
    return Moved(value.tensor, value.shape, Place(others[0], 1, value.shape[others[0]])) if others else value


def alone(graph: GraphBuilder, op_type: str, values: Sequence[Plain | Moved], **attributes: Any) -> Plain | Moved:
    """An operator on a batch of one, whose example depends on no other wherever its axis is thought to be."""
    result = graph.op(op_type, *(reshape(graph, value.tensor, value.shape) for value in values), **attributes)
    place = Place(0, 1, result.shape[0]) if result.shape else FIRST
    return placed(graph, reshape(graph, result, (1, *result.shape)), result.shape, place)


def transposed(graph: GraphBuilder, value: Plain | Moved, order: Sequence[int]) -> Plain | Moved:
    """Transpose; moving the example axis moves nothing."""
    if not is_batched(value):
        return Plain(_permuted(graph, value.tensor, order), is_batched=False)
    place = place_of(value)
    perm = [0, *axes_in(value, order)]
    shape = [value.shape[axis] for axis in order]
    moved = Place(list(order).index(place.axis), place.outer, place.inner)
    return placed(graph, _permuted(graph, structured(graph, value), perm), shape, moved)


def structured(graph: GraphBuilder, value: Plain | Moved) -> Tensor:
    """The tensor as [B, axes before the example's, that axis's parts, axes after it]; a shared one as it is."""
    if isinstance(value, Plain):
        return value.tensor
    return reshape(graph, value.tensor, _structure(value.tensor.shape[0], value.shape, place_of(value)))


def axes_in(value: Plain | Moved, axes: Sequence[int]) -> list[int]:
    """The axes of `structured` that hold the given ones, in that order; of the example's axis, its parts."""
    if isinstance(value, Plain):
        return [axis for axis in axes if not has_example(value, axis)]
    place = place_of(value)
    num_parts = len(place.parts)
    found: list[int] = []
    for axis in axes:
        if axis == place.axis:
            found.extend(1 + place.axis + i for i in range(num_parts))
        else:
            found.append(1 + axis if axis < place.axis else axis + num_parts)
    return found


def along(
    graph: GraphBuilder, value: Plain | Moved, op_type: str, *others: Tensor, axis: int, **attributes: Any
) -> Plain | Moved:
    """An operator with an `axis` that does not hold the examples, and which it may replace by any number of axes."""
    (inner,) = axes_in(value, [axis])
    data = structured(graph, value)
    result = graph.op(op_type, data, *others, axis=inner, **attributes)
    sizes = result.shape[inner : inner + 1 + len(result.shape) - len(data.shape)]
    return with_axis(graph, value, result, axis, sizes)


def with_axis(
    graph: GraphBuilder, value: Plain | Moved, tensor: Tensor, axis: int, sizes: Sequence[int]
) -> Plain | Moved:
    """What an operator on `structured` made of `value`: an axis that does not hold the examples became `sizes`."""
    if not is_batched(value):
        return Plain(tensor, is_batched=False)
    shape = (*value.shape[:axis], *sizes, *value.shape[axis + 1 :])
    old = place_of(value)
    at = old.axis if old.axis < axis else old.axis + len(sizes) - 1
    return placed(graph, tensor, shape, Place(at, old.outer, old.inner))


def reduced(
    graph: GraphBuilder, value: Plain | Moved, tensor: Tensor, axes: Sequence[int], *, keepdims: bool
) -> Plain | Moved:
    """What a reduction of `structured` leaves: `tensor`, without the given axes, none of which holds the examples."""
    shape = [1 if axis in axes else size for axis, size in enumerate(value.shape) if keepdims or axis not in axes]
    if not is_batched(value):
        return Plain(reshape(graph, tensor, tuple(shape)), is_batched=False)
    old = place_of(value)
    at = old.axis if keepdims else old.axis - sum(axis < old.axis for axis in axes)
    return placed(graph, tensor, shape, Place(at, old.outer, old.inner))


def broadcast(
    graph: GraphBuilder, node: Node, op_type: str, values: Sequence[Plain | Moved], **attributes: Any
) -> Plain | Moved:
    """An elementwise operator with broadcasting inside each example.

    Raises:
        CouplingError: When broadcasting would put the example axis of a value beside another axis.
    """
    batched = [value for value in values if is_batched(value)]
    shape = np.broadcast_shapes(*(value.shape for value in values))
    places = [_seen_from(value, len(shape)) for value in batched]
    if all(isinstance(value, Plain) for value in values) and all(place == FIRST for place in places):
        result = graph.op(op_type, *(value.tensor for value in values), **attributes)
        if batched and result.shape[0] != batched[0].shape[0]:
            raise node.coupled("broadcasts examples against each other")
        return Plain(result, bool(batched))
    place, size = places[0], batched[0].tensor.shape[0]
    if size == 1 and any(isinstance(value, Moved) for value in values) and len(set(places)) > 1:
        return alone(graph, op_type, values, **attributes)
    if len(set(places)) > 1 or any(value.shape[place.axis - len(shape)] != shape[place.axis] for value in batched):
        raise node.coupled("broadcasts examples against each other")
    tensors = [_spread(graph, value, len(shape), place, size) for value in values]
    return placed(graph, graph.op(op_type, *tensors, **attributes), shape, place)


def expanded(graph: GraphBuilder, node: Node, value: Plain | Moved, shape: Sequence[int]) -> Plain | Moved:
    """Expand: repeat axes of size one inside each example, to what broadcasting with `shape` gives."""
    wide = np.broadcast_shapes(value.shape, tuple(shape))
    if wide == value.shape:
        return value
    if not is_batched(value):
        return Plain(graph.op("Expand", value.tensor, graph.constant(np.array(wide, np.int64))), is_batched=False)
    first = len(wide) - len(value.shape)
    value = off_axes(value, [axis for axis, size in enumerate(value.shape) if size != wide[axis + first]])
    place, num_examples = _seen_from(value, len(wide)), value.tensor.shape[0]
    if wide[place.axis] != value.shape[place_of(value).axis]:
        raise node.coupled("repeats the examples")
    narrow = _spread(graph, value, len(wide), place, num_examples)
    target = graph.constant(np.array(_structure(num_examples, wide, place), np.int64))
    return placed(graph, graph.op("Expand", narrow, target), wide, place)


def joined(graph: GraphBuilder, node: Node, values: Sequence[Plain | Moved], axis: int) -> Plain | Moved:
    """Concat along an axis that does not hold the examples; shared values need a row for each place in the batch."""
    batched = [value for value in values if is_batched(value)]
    shape = (*values[0].shape[:axis], sum(value.shape[axis] for value in values), *values[0].shape[axis + 1 :])
    if not batched:
        return Plain(graph.op("Concat", *(value.tensor for value in values), axis=axis), is_batched=False)
    place, num_examples = place_of(batched[0]), batched[0].tensor.shape[0]
    places = {place_of(value) for value in batched}
    if num_examples == 1 and any(isinstance(value, Moved) for value in batched):
        return alone(graph, "Concat", values, axis=axis)
    if place.axis == axis or len(places) > 1:
        raise node.coupled("joins examples with something else along the example axis")
    tensors = [_row_by_row(graph, value, value.shape, place, num_examples) for value in values]
    rows = [tensor.constant for tensor in tensors if tensor.constant is not None]
    if any((row != row[:1]).any() for row in rows):
        raise node.coupled("joins examples with values that differ from place to place in the batch")
    (at,) = axes_in(batched[0], [axis])
    return placed(graph, graph.op("Concat", *tensors, axis=at), shape, place)


def _find(shape: Sequence[int], before: int, num_examples: int) -> Place | None:
    """The axis that holds the whole example when `before` elements come before it; None where there is none.

    A batch of one fits in several axes; one of its own is preferred.
    """
    found = []
    for axis, size in enumerate(shape):
        left = prod(shape[:axis])
        if left and before % left == 0 and size and size % (before // left * num_examples) == 0:
            outer = before // left
            found.append(Place(axis, outer, size // (outer * num_examples)))
    return min(found, key=lambda place: (not place.is_alone, place.outer, place.axis), default=None)


def _structure(num_examples: int, shape: Sequence[int], place: Place) -> tuple[int, ...]:
    return (num_examples, *shape[: place.axis], *place.parts, *shape[place.axis + 1 :])


def _seen_from(value: Plain | Moved, rank: int) -> Place:
    """Where the example is among `rank` axes, counted from the right as broadcasting does."""
    place = place_of(value)
    return Place(place.axis + rank - len(value.shape), place.outer, place.inner)


def _spread(graph: GraphBuilder, value: Plain | Moved, rank: int, place: Place, num_examples: int) -> Tensor:
    """An operand beside others [B, ...] whose examples are at `place` of `rank` axes."""
    padded = (1,) * (rank - len(value.shape)) + value.shape
    if not is_batched(value) and padded[place.axis] == 1:
        left, right = padded[: place.axis], padded[place.axis + 1 :]
        if prod(left) == 1:
            return reshape(graph, value.tensor, right)
        return reshape(graph, value.tensor, (*left, *(1 for _ in place.parts), *right))
    return _row_by_row(graph, value, padded, place, num_examples)


def _row_by_row(
    graph: GraphBuilder, value: Plain | Moved, shape: Sequence[int], place: Place, num_examples: int
) -> Tensor:
    """A value of `shape` as the `structured` of a batched one; a shared one has a row for each place in the batch."""
    if is_batched(value):
        return reshape(graph, value.tensor, _structure(num_examples, shape, place))
    split = (*shape[: place.axis], place.outer, num_examples, place.inner, *shape[place.axis + 1 :])
    at = place.axis + 1
    perm = [at, *(axis for axis in range(len(split)) if axis != at)]
    rows_first = _permuted(graph, reshape(graph, value.tensor, split), perm)
    return reshape(graph, rows_first, _structure(num_examples, shape, place))


def _permuted(graph: GraphBuilder, tensor: Tensor, perm: Sequence[int]) -> Tensor:
    """Transpose, or a reshape where only axes of size one move."""
    if list(perm) == list(range(len(perm))):
        return tensor
    moved = [axis for axis in perm if tensor.shape[axis] > 1]
    if moved == sorted(moved):
        return reshape(graph, tensor, tuple(tensor.shape[axis] for axis in perm))
    return graph.op("Transpose", tensor, perm=list(perm))
