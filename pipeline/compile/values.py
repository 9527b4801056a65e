"""What the lowering knows of a value: shared by all examples, one row an example, or a sum over examples kept apart.

The independence of examples is proven while the graph is written: a value that mixes examples can only be an
`ExampleSum`, the rules accept it in linear operations alone, and everything else is a `CouplingError` with the name of
the layer.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from pipeline.compile.builder import CompileError, GraphBuilder, Tensor

ROUNDING = 2.0**-20  # what rounding takes off a norm that is summed from products, at most: decisions/0012
UNDERFLOW = 2.0**-125  # what float32 may take off a product and the sum that it is added to; some runtimes flush
MOST_POSITIONS = 128  # of a ghost norm: `ROUNDING` then moves norms of unlike positions by 6e-5 at most


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

    Whether they are written out is decided where norms are asked for, by `is_ghost`; until then transposing swaps the
    sides and the gradients of two uses of one tensor are joined along T, so that their cross terms are in the norm.
    Where positions cancel, their products round to less than what `weighted_sum` adds up: a ghost norm is therefore
    larger by a share of its `reach`, and never smaller than the norm of what is summed. Nor is it where the squares of
    one side vanish in float32 and the other side is large: what may have vanished is part of the reach.

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
        """Whether norms come from the T x T products of positions: measured in docs/decisions/0006.

        |sum of left^T right|^2 = sum of (left left^T) o (right right^T): "Efficient Per-Example Gradient
        Computations", arXiv:1510.01799, for one position; "Large Language Models Can Be Strong Differentially Private
        Learners", arXiv:2110.05679, for several.
        """
        return is_ghost(self.left.shape[1], *self.shape)

    @property
    def form(self) -> str:
        return "ghost norm" if self.is_ghost else "materialised"

    def per_example(self, graph: GraphBuilder) -> Tensor:
        if self.left.shape[1] == 1:
            return graph.op("Mul", turned(graph, self.left), self.right)
        return graph.op("MatMul", turned(graph, self.left), self.right)

    def squared_norms(self, graph: GraphBuilder) -> Tensor:
        if not self.is_ghost:
            return Materialised(self.per_example(graph)).squared_norms(graph)
        squares = self.squares(graph)
        return squares if self.left.shape[1] == 1 else with_rounding(graph, squares, self.reach(graph))

    def squares(self, graph: GraphBuilder) -> Tensor:
        """Squared norms from the products of positions as they round, [B]."""
        if self.left.shape[1] == 1:
            return self.reach(graph)
        left, right = (graph.op("MatMul", side, turned(graph, side)) for side in (self.left, self.right))
        return total(graph, graph.op("Mul", left, right))

    def reach(self, graph: GraphBuilder) -> Tensor:
        """Squared norms if no position cancelled another, [B]: of the sum over t of |left[b, t]| |right[b, t]|."""
        squares = graph.op("Mul", *(_squares_at_most(graph, side) for side in (self.left, self.right)))
        if self.left.shape[1] == 1:
            return squares
        sums = total(graph, reshape(graph, graph.op("Sqrt", squares), self.left.shape[:2]))
        return graph.op("Mul", sums, sums)

    def weighted_sum(self, graph: GraphBuilder, weights: Tensor) -> Tensor:
        if not self.is_ghost:
            return Materialised(self.per_example(graph)).weighted_sum(graph, weights)
        sides = [self.left, self.right]
        narrow = int(self.right.shape[2] < self.left.shape[2])  # fewer values to scale
        sides[narrow] = graph.op("Mul", sides[narrow], reshape(graph, weights, (*weights.shape, 1, 1)))
        left, right = (reshape(graph, side, (-1, side.shape[2])) for side in sides)
        return reshape(graph, graph.op("Gemm", left, right, transA=1), (prod(self.shape),))


Value = Plain | Moved | ExampleSum


def is_ghost(num_positions: int, num_rows: int, num_columns: int) -> bool:
    """Whether a sum of products over positions gets its norms from those: measured in docs/decisions/0006 and 0012."""
    is_cheaper = num_positions * (num_rows + num_columns) <= num_rows * num_columns
    return num_positions == 1 or (num_positions <= MOST_POSITIONS and is_cheaper)


def _squares_at_most(graph: GraphBuilder, side: Tensor) -> Tensor:
    """Squared length of each row of [B, T, n], [B T], and what may have vanished from its products with another."""
    lengths = squared_lengths(graph, reshape(graph, side, (-1, side.shape[2])))
    vanished = side.shape[2] * UNDERFLOW / ROUNDING  # a norm of several positions takes `ROUNDING` of it
    return graph.op("Add", lengths, graph.constant(vanished, np.float32))


def with_rounding(graph: GraphBuilder, squares: Tensor, reach: Tensor) -> Tensor:
    """Squared norms [B] that rounding leaves no smaller than those of the sums; `reach` is what they cancel from."""
    return graph.op("Add", squares, graph.op("Mul", reach, graph.constant(ROUNDING, np.float32)))


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
    """Squared L2 norm of each row of [B, n], [B]; ONNX Runtime's ReduceSumSquare takes three times as long."""
    return graph.op("ReduceSum", graph.op("Mul", tensor, tensor), graph.constant([1], np.int64), keepdims=0)
