"""What the lowering knows of a value: shared by all examples, one row an example, or a sum over examples kept apart.

The independence of examples is proven while the graph is written: a value that mixes examples can only be an
`ExampleSum`, the rules accept it in linear operations alone, and everything else is a `CouplingError` with the name of
the layer.
"""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from pipeline.compile.builder import CompileError, GraphBuilder, Tensor


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
class Materialised:
    """A sum over the examples, each one's share a tensor of its own: what the gradient of a parameter is.

    Attributes:
        tensor: The shares, [B, *shape].
    """

    tensor: Tensor
    form: ClassVar[str] = "materialised"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape[1:]

    def per_example(self, _graph: GraphBuilder) -> Tensor:
        """The shares, [B, *shape]."""
        return self.tensor

    def squared_norms(self, graph: GraphBuilder) -> Tensor:
        """Squared L2 norm of each share, [B]."""
        return graph.op("ReduceSumSquare", _rows(graph, self.tensor), axes=[1], keepdims=0)

    def weighted_sum(self, graph: GraphBuilder, weights: Tensor) -> Tensor:
        """Sum of the shares times weights [B], flat: [product of shape]."""
        return graph.op("MatMul", weights, _rows(graph, self.tensor))


@dataclass(frozen=True)
class Outer:
    """A sum over the examples whose shares left[b]^T right[b] are never written out: a linear layer at one position.

    "Efficient Per-Example Gradient Computations", arXiv:1510.01799: |left^T right|^2 = |left|^2 |right|^2.

    Attributes:
        left: [B, rows].
        right: [B, columns].
    """

    left: Tensor
    right: Tensor
    form: ClassVar[str] = "ghost norm"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.left.shape[1], self.right.shape[1])

    def per_example(self, graph: GraphBuilder) -> Tensor:
        """The shares, [B, *shape]."""
        left = reshape(graph, self.left, (*self.left.shape, 1))
        right = reshape(graph, self.right, (self.right.shape[0], 1, self.right.shape[1]))
        return graph.op("Mul", left, right)

    def squared_norms(self, graph: GraphBuilder) -> Tensor:
        """Squared L2 norm of each share, [B]."""
        left = graph.op("ReduceSumSquare", self.left, axes=[1], keepdims=0)
        return graph.op("Mul", left, graph.op("ReduceSumSquare", self.right, axes=[1], keepdims=0))

    def weighted_sum(self, graph: GraphBuilder, weights: Tensor) -> Tensor:
        """Sum of the shares times weights [B], flat: [product of shape]."""
        scaled = graph.op("Mul", self.left, reshape(graph, weights, (weights.shape[0], 1)))
        return reshape(graph, graph.op("Gemm", scaled, self.right, transA=1), (prod(self.shape),))


ExampleSum = Materialised | Outer
Value = Plain | Materialised | Outer


def reshape(graph: GraphBuilder, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Reshape, or the tensor itself where it has that shape."""
    if tensor.shape == shape:
        return tensor
    return graph.op("Reshape", tensor, graph.constant(np.array(shape, np.int64)))


def _rows(graph: GraphBuilder, tensor: Tensor) -> Tensor:
    return reshape(graph, tensor, (tensor.shape[0], tensor.size // tensor.shape[0]))
