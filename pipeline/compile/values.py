"""What the lowering knows of a value: shared by all examples, one row an example, or a sum over examples kept apart.

The independence of examples is proven while the graph is written: a value that mixes examples can only be an
`ExampleSum`, the rules accept it in linear operations alone, and everything else is a `CouplingError` with the name of
the layer.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt, prod

import numpy as np

from pipeline.compile.builder import CompileError, GraphBuilder, Tensor

UNDERFLOW = 2.0**-125  # what float32 may take off a product and the sum that it is added to; some runtimes flush
_LONGEST_SUM = 4096


class CouplingError(CompileError):
    """A layer mixes examples: one example's gradient would depend on the others, and clipping would protect nobody."""


@dataclass(frozen=True)
class Plain:
    """A value without sums over examples.

    Attributes:
        is_batched: Axis 0 is the example: row b depends on example b alone. Otherwise on no example at all.
    """

    tensor: Tensor
    is_batched: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape


@dataclass(frozen=True)
class Place:
    """Where the example is inside a shape: axis `axis` has outer * B * inner elements, the example in the middle."""

    axis: int
    outer: int
    inner: int

    @property
    def is_alone(self) -> bool:
        """Whether the axis holds the examples and nothing else."""
        return self.outer == self.inner == 1

    @property
    def parts(self) -> tuple[int, ...]:
        """What is left of the axis without the examples: outer and inner, where they are more than 1."""
        return tuple(size for size in (self.outer, self.inner) if size > 1)

    def before(self, shape: Sequence[int]) -> int:
        """How many elements of `shape` come before the example."""
        return prod(shape[: self.axis]) * self.outer


@dataclass(frozen=True)
class Moved:
    """A batched value that the graph which is lowered holds with the example in another place: [T, B, d] or [B T, d].

    Here the examples stay rows, so moving them back and forth costs nothing. `placement.py` reads and makes these.

    Attributes:
        tensor: [B, ...]: row b depends on example b alone; its elements in the order they have in `shape`.
        shape: What the lowered graph sees.
        place: Where the examples are in `shape`.
    """

    tensor: Tensor
    shape: tuple[int, ...]
    place: Place


class ExampleSum(ABC):
    """A sum over the examples whose shares are kept apart: what the gradient of a parameter is."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of the sum, and so of each share."""

    @property
    @abstractmethod
    def form(self) -> str:
        """How the shares are held: `materialised` or without writing them out."""

    @abstractmethod
    def per_example(self, graph: GraphBuilder) -> Tensor:
        """The shares, [B, *shape]."""

    @abstractmethod
    def squared_norms(self, graph: GraphBuilder) -> Tensor:
        """Squared L2 norm of each share, [B]."""

    @abstractmethod
    def weighted_sum(self, graph: GraphBuilder, weights: Tensor) -> Tensor:
        """Sum of the shares times weights [B], flat: [product of shape]."""


@dataclass(frozen=True)
class Materialised(ExampleSum):
    """Each example's share is a tensor of its own.

    Attributes:
        tensor: The shares, [B, *shape].
    """

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape[1:]

    @property
    def form(self) -> str:
        return "materialised"

    def per_example(self, _graph: GraphBuilder) -> Tensor:
        return self.tensor

    def squared_norms(self, graph: GraphBuilder) -> Tensor:
        return squared_lengths(graph, rows(graph, self.tensor))

    def weighted_sum(self, graph: GraphBuilder, weights: Tensor) -> Tensor:
        return graph.op("MatMul", weights, rows(graph, self.tensor))


@dataclass(frozen=True)
class Outer(ExampleSum):
    """Shares are products: the sum over T positions of left[b, t]^T right[b, t], the gradient of a linear layer.

    At one position a share is never written out: |left^T right| = |left| |right| ("Efficient Per-Example Gradient
    Computations", arXiv:1510.01799). Nor does the norm vanish where the squares of one side do and the other side is
    large. At several positions the shares are written out, since norms from products of positions would round to less
    than what is summed: docs/decisions/0013. Until then transposing swaps the sides, and the gradients of two uses of
    one tensor are joined along T.

    Attributes:
        left: [B, T, rows].
        right: [B, T, columns].
    """

    left: Tensor
    right: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.left.shape[2], self.right.shape[2])

    @property
    def is_ghost(self) -> bool:
        """Whether the shares are not written out."""
        return self.left.shape[1] == 1

    @property
    def form(self) -> str:
        return "ghost norm" if self.is_ghost else "materialised"

    def per_example(self, graph: GraphBuilder) -> Tensor:
        return graph.op("Mul" if self.is_ghost else "MatMul", turned(graph, self.left), self.right)

    def squared_norms(self, graph: GraphBuilder) -> Tensor:
        if not self.is_ghost:
            return Materialised(self.per_example(graph)).squared_norms(graph)
        return graph.op("Mul", *(_squares_at_most(graph, side) for side in (self.left, self.right)))

    def weighted_sum(self, graph: GraphBuilder, weights: Tensor) -> Tensor:
        if not self.is_ghost:
            return Materialised(self.per_example(graph)).weighted_sum(graph, weights)
        sides = [rows(graph, self.left), rows(graph, self.right)]
        narrow = int(sides[1].size < sides[0].size)  # fewer values to scale
        sides[narrow] = graph.op("Mul", sides[narrow], reshape(graph, weights, (*weights.shape, 1)))
        return reshape(graph, graph.op("Gemm", *sides, transA=1), (prod(self.shape),))


Value = Plain | Moved | ExampleSum


def _squares_at_most(graph: GraphBuilder, side: Tensor) -> Tensor:
    """Squared length of each example's only row, [B, 1, n] to [B], and what may have vanished from it."""
    lengths = squared_lengths(graph, side)
    return graph.op("Add", lengths, graph.constant(side.shape[2] * UNDERFLOW, np.float32))


def summed(graph: GraphBuilder, terms: Sequence[Tensor]) -> Tensor:
    """The sum of the tensors, or the one there is."""
    return graph.op("Sum", *terms) if len(terms) > 1 else terms[0]


def total(graph: GraphBuilder, tensor: Tensor) -> Tensor:
    """Sum over everything but the examples, [B]."""
    return graph.op("ReduceSum", rows(graph, tensor), graph.constant([1], np.int64), keepdims=0)


def reshape(graph: GraphBuilder, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Reshape, or the tensor itself where it has that shape; one size may be -1.

    Raises:
        CompileError: To no elements: ONNX takes a size of 0 for that of the tensor.
    """
    if tensor.shape == shape:
        return tensor
    if 0 in shape:
        raise CompileError(f"a value without elements is given the shape {list(shape)}; leave it out of the network")
    if -1 in shape:
        shape = tuple(-tensor.size // prod(shape) if size == -1 else size for size in shape)
    if tensor.shape == shape:
        return tensor
    return graph.op("Reshape", tensor, graph.constant(np.array(shape, np.int64)))


def rows(graph: GraphBuilder, tensor: Tensor) -> Tensor:
    """A tensor of the examples as [B, everything else]."""
    return reshape(graph, tensor, (tensor.shape[0], -1))


def turned(graph: GraphBuilder, tensor: Tensor) -> Tensor:
    """The last two axes exchanged; ONNX Runtime makes it part of a MatMul that follows."""
    perm = [*range(len(tensor.shape) - 2), len(tensor.shape) - 1, len(tensor.shape) - 2]
    if tensor.shape[-1] == 1 or tensor.shape[-2] == 1:
        return reshape(graph, tensor, tuple(tensor.shape[axis] for axis in perm))
    return graph.op("Transpose", tensor, perm=perm)


def squared_lengths(graph: GraphBuilder, tensor: Tensor) -> Tensor:
    """Squared L2 norm of each example's [B, ...], [B]; ONNX Runtime's ReduceSumSquare takes three times as long.

    A float32 sum of millions of terms may fall short by a percent, so many are added in two stages.
    """
    squares = rows(graph, graph.op("Mul", tensor, tensor))
    if (size := squares.shape[1]) > _LONGEST_SUM and (parts := _divisor(size)) > 1:
        in_parts = reshape(graph, squares, (squares.shape[0], parts, size // parts))
        squares = graph.op("ReduceSum", in_parts, graph.constant([2], np.int64), keepdims=0)
    return total(graph, squares)


def _divisor(size: int) -> int:
    """The divisor next to the square root, from below."""
    return next(number for number in range(isqrt(size), 0, -1) if size % number == 0)
