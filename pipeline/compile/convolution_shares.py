"""Each example's weight gradient of a convolution, in the forms that plain ONNX Runtime computes fastest.

A weight at kernel position (i, j) multiplies x moved by (i, j), so its gradient is the product of dY and the moved x,
summed over positions. Which form is chosen where was measured: docs/decisions/0008.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from pipeline.compile.builder import GraphBuilder, Tensor
from pipeline.compile.values import ExampleSum, Outer, reshape, rows, squared_lengths, turned
from pipeline.compile.window import Sizes, Window

_ROWS = 2  # the first axis of positions
_COPIES = 1.5  # how many values moved along the rows, whole rows at a time, cost what one moved along the others costs


@dataclass(frozen=True)
class Rearranged(ExampleSum):
    """Shares with their axes in the order in which they are computed; only their sum is transposed.

    Attributes:
        tensor: [B, values of a share].
        stored: Sizes of the share's axes as stored.
        order: The stored axes, in the order of the parameter.
        parameter_shape: What the transposed axes are reshaped to.
    """

    tensor: Tensor
    stored: tuple[int, ...]
    order: tuple[int, ...]
    parameter_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.parameter_shape

    @property
    def form(self) -> str:
        return "materialised"

    def per_example(self, graph: GraphBuilder) -> Tensor:
        batch = self.tensor.shape[0]
        shares = reshape(graph, self.tensor, (batch, *self.stored))
        shares = graph.op("Transpose", shares, perm=[0, *(axis + 1 for axis in self.order)])
        return reshape(graph, shares, (batch, *self.shape))

    def squared_norms(self, graph: GraphBuilder) -> Tensor:
        return squared_lengths(graph, self.tensor)

    def weighted_sum(self, graph: GraphBuilder, weights: Tensor) -> Tensor:
        total = reshape(graph, graph.op("MatMul", weights, self.tensor), self.stored)
        return reshape(graph, graph.op("Transpose", total, perm=list(self.order)), (prod(self.shape),))


@dataclass(frozen=True)
class Reshaped(ExampleSum):
    """Shares of another shape, their values in the same order."""

    shares: ExampleSum
    parameter_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.parameter_shape

    @property
    def form(self) -> str:
        return self.shares.form

    def per_example(self, graph: GraphBuilder) -> Tensor:
        shares = self.shares.per_example(graph)
        return reshape(graph, shares, (shares.shape[0], *self.shape))

    def squared_norms(self, graph: GraphBuilder) -> Tensor:
        return self.shares.squared_norms(graph)

    def weighted_sum(self, graph: GraphBuilder, weights: Tensor) -> Tensor:
        return self.shares.weighted_sum(graph, weights)


def weight_shares(graph: GraphBuilder, window: Window, dy: Tensor, x: Tensor, weight: Tensor) -> ExampleSum:
    """Each example's dW, from dY [B, out, ...] and x [B, in, ...]."""
    if window.groups == 1 and (window.is_pointwise() or _few_positions(dy, weight)):
        return Reshaped(_outer(graph, window, dy, x), weight.shape)
    shape = weight.shape
    if len(shape) == 3:
        # One axis of positions is two, the first of size 1.
        window = _with_rows(window)
        dy, x, weight = (reshape(graph, t, (*t.shape[:2], 1, t.shape[2])) for t in (dy, x, weight))
    compute = _dense
    if shape[1] == 1 and (window.strides > 1).any():
        compute = _by_convolution
    elif shape[1] == 1 and shape[0] == window.groups > 1:
        compute = _depthwise
    return replace(compute(graph, window, dy, x, weight), parameter_shape=shape)


def _few_positions(dy: Tensor, weight: Tensor) -> bool:
    """Whether rows of what the kernel sees at each position cost little beside the gradient: docs/decisions/0008."""
    num_positions, outputs, columns = prod(dy.shape[2:]), weight.shape[0], weight.size // weight.shape[0]
    return num_positions == 1 or num_positions * (outputs + columns) <= outputs * columns


def _outer(graph: GraphBuilder, window: Window, dy: Tensor, x: Tensor) -> Outer:
    """A linear layer at every position, whose inputs are what the kernel sees there."""
    moved = [_flat(graph, x)] if window.is_pointwise() else _move_x(graph, window, x, dy.shape[2:])
    left, right = _flat(graph, dy), _stack(graph, moved)
    return Outer(turned(graph, left), turned(graph, reshape(graph, right, (x.shape[0], -1, right.shape[3]))))


def _dense(graph: GraphBuilder, window: Window, dy: Tensor, x: Tensor, weight: Tensor) -> Rearranged:
    """One matrix product an example and group: x at each move, times dY at each move along the rows."""
    batch, groups, outputs, inputs = dy.shape[0], window.groups, dy.shape[1] // window.groups, weight.shape[1]
    height, width = int(window.kernel[0]), int(window.kernel[1:].prod())
    moves_dy = height * outputs + width * inputs <= _COPIES * height * width * inputs
    if moves_dy and height > 1 and window.strides[0] == 1:
        moved_dy, moved_x = _move_both(graph, window, dy, x)
    else:
        moved_dy, moved_x = [_flat(graph, dy)], _move_x(graph, window, x, dy.shape[2:])
    left, right = _stack(graph, moved_dy), _stack(graph, moved_x)
    left, right = (reshape(graph, side, (batch, groups, -1, side.shape[-1])) for side in (left, right))
    sizes = (groups, outputs, len(moved_dy), inputs, len(moved_x))
    if len(moved_dy) > 1:
        return Rearranged(
            rows(graph, graph.op("MatMul", left, turned(graph, right))), sizes, (0, 1, 3, 2, 4), weight.shape
        )
    # The smaller side is the one that ONNX Runtime packs.
    product = graph.op("MatMul", right, turned(graph, left))
    return Rearranged(rows(graph, product), (groups, inputs * len(moved_x), outputs), (0, 2, 1), weight.shape)


def _depthwise(graph: GraphBuilder, window: Window, dy: Tensor, x: Tensor, weight: Tensor) -> Rearranged:
    """A product and a sum a weight: matrix products of so few rows would be slower."""
    moved_dy, moved_x = _move_both(graph, window, dy, x)
    last = graph.constant([2], np.int64)
    sums = [graph.op("ReduceSum", graph.op("Mul", a, b), last, keepdims=0) for a in moved_dy for b in moved_x]
    shares = graph.op("Concat", *sums, axis=1) if len(sums) > 1 else sums[0]
    return Rearranged(shares, (len(sums), x.shape[1]), (1, 0), weight.shape)


def _by_convolution(graph: GraphBuilder, window: Window, dy: Tensor, x: Tensor, weight: Tensor) -> Rearranged:
    """One convolution, a group for each example and channel: dY is the kernel, stride and dilation change places."""
    batch, channels, *size = x.shape
    end = window.reach(np.array(dy.shape[2:])) - window.begin - np.array(size)
    unread = np.maximum(-end, 0)  # positions behind the last output, where the stride does not divide
    if unread.any():
        axes = graph.constant(np.arange(2, len(x.shape)))
        x = graph.op("Slice", x, graph.constant(0 * unread), graph.constant(np.array(size) - unread), axes)
    product = graph.op(
        "Conv",
        reshape(graph, x, (1, batch * channels, *x.shape[2:])),
        reshape(graph, dy, (batch * dy.shape[1], 1, *dy.shape[2:])),
        group=batch * channels,
        strides=window.dilations.tolist(),
        dilations=window.strides.tolist(),
        pads=[*window.begin.tolist(), *np.maximum(end, 0).tolist()],
    )
    return Rearranged(reshape(graph, product, (batch, -1)), (weight.size,), (0,), weight.shape)


def _move_both(graph: GraphBuilder, window: Window, dy: Tensor, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """dY at each move along the rows, backwards, and x at each along the other axes; each [B, channels, positions].

    Positions are rows of x and outputs of the other axes. Moving whole rows is cheap, and so dY at `height` moves and x
    at `width` moves are made instead of x at `height * width`.
    """
    height, begin, span = x.shape[_ROWS], int(window.begin[0]), int(window.span[0])
    moved_x = _move_columns(graph, window, x, dy)
    above, below = max(0, span - begin), max(0, height + begin - dy.shape[_ROWS])
    if above or below:
        pads = np.zeros((2, len(dy.shape)), np.int64)
        pads[:, _ROWS] = above, below
        dy = graph.op("Pad", dy, graph.constant(pads.reshape(-1)))
    flat, row = _flat(graph, dy), prod(dy.shape[3:])
    starts = [(above + begin - i * int(window.dilations[0])) * row for i in range(int(window.kernel[0]))]
    length = np.array([height * row])
    return [_cut(graph, flat, np.array([start]), length, length**0) for start in starts], moved_x


def _move_columns(graph: GraphBuilder, window: Window, x: Tensor, dy: Tensor) -> list[Tensor]:
    """x at each move along all axes but the rows, [B, channels, rows of x times outputs of the other axes]."""
    if len(x.shape) == 4 and x.shape[3] == dy.shape[3] and window.strides[1] == 1:
        return _shift(graph, window, x)
    others = np.array([0] + [1] * (len(dy.shape) - 3))
    across = replace(window, kernel=window.kernel**others, begin=window.begin * others, end=window.end * others)
    return _move_x(graph, across, x, (x.shape[_ROWS], *dy.shape[3:]))


def _shift(graph: GraphBuilder, window: Window, x: Tensor) -> list[Tensor]:
    """The same by shifting all rows as one, and making zeros of what came from the next row: few long copies."""
    (_, before), (_, after), (height, width) = window.begin, window.end, x.shape[2:]
    flat = graph.op("Pad", _flat(graph, x), graph.constant(np.array([0, 0, before, 0, 0, after])))
    moved = []
    for start in np.arange(window.kernel[1]) * window.dilations[1]:
        column = np.arange(width) + start - before
        is_own = np.tile((column >= 0) & (column < width), height)
        cut = _cut(graph, flat, np.array([start]), np.array([height * width]), np.ones(1, np.int64))
        moved.append(cut if is_own.all() else graph.op("Mul", cut, graph.constant(is_own, np.float32)))
    return moved


def _move_x(graph: GraphBuilder, window: Window, x: Tensor, out: Sequence[int]) -> list[Tensor]:
    """The values of x that each kernel position multiplies, [B, channels, positions]."""
    if window.begin.any() or window.end.any():
        both = np.concatenate([np.zeros(2, np.int64), window.begin, np.zeros(2, np.int64), window.end])
        x = graph.op("Pad", x, graph.constant(both))
    starts = [np.array(position) * window.dilations for position in np.ndindex(*window.kernel)]
    length = window.strides * (np.array(out) - 1) + 1
    return [_flat(graph, _cut(graph, x, start, length, window.strides)) for start in starts]


def _cut(graph: GraphBuilder, tensor: Tensor, start: Sizes, length: Sizes, steps: Sizes) -> Tensor:
    """A slice of the last axes; the tensor itself where that is all of it."""
    rank = len(tensor.shape)
    if tensor.shape[rank - len(start) :] == tuple(length) and (steps == 1).all():
        return tensor
    axes = graph.constant(np.arange(rank - len(start), rank))
    return graph.op("Slice", tensor, graph.constant(start), graph.constant(start + length), axes, graph.constant(steps))


def _stack(graph: GraphBuilder, moved: list[Tensor]) -> Tensor:
    """[B, channels, moves, positions] of tensors [B, channels, positions]."""
    apart = [reshape(graph, tensor, (*tensor.shape[:2], 1, tensor.shape[2])) for tensor in moved]
    return graph.op("Concat", *apart, axis=2) if len(apart) > 1 else apart[0]


def _with_rows(window: Window) -> Window:
    """The same window with an axis of size one in front."""
    kernel, strides, dilations = (np.insert(sizes, 0, 1) for sizes in (window.kernel, window.strides, window.dilations))
    begin, end = (np.insert(sizes, 0, 0) for sizes in (window.begin, window.end))
    return Window(kernel, strides, dilations, begin, end, window.groups)


def _flat(graph: GraphBuilder, tensor: Tensor) -> Tensor:
    """[B, channels, ...] as [B, channels, positions]."""
    return reshape(graph, tensor, (*tensor.shape[:2], -1))
