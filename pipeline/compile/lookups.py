"""Sums over examples that embeddings leave: rows added at ids."""

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from pipeline.compile.builder import GraphBuilder, Tensor
from pipeline.compile.values import ExampleSum, Materialised, Outer, reshape, turned


@dataclass(frozen=True)
class Lookup(ExampleSum):
    """Shares have row dy[b, t] added at ids[b, t] and are zero elsewhere: the gradient of a table that is looked up in.

    The rows of equal ids meet in an example before anything else: norms and sums are of the same rows, each id's once.
    Where positions outnumber rows, the shares are written out.

    Attributes:
        ids: [B, T], or [T] where all examples look up the same; int64 in [0, num_rows).
        dy: [B, T, columns].
    """

    ids: Tensor
    dy: Tensor
    num_rows: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.num_rows, self.dy.shape[2])

    @property
    def is_sparse(self) -> bool:
        """Whether the rows of the shares that are zero are left out."""
        return self._are_distinct() or self.dy.shape[1] <= self.num_rows

    @property
    def form(self) -> str:
        return "sparse" if self.is_sparse else "materialised"

    def per_example(self, graph: GraphBuilder) -> Tensor:
        return graph.op("MatMul", turned(graph, self._choices(graph)), self.dy)

    def squared_norms(self, graph: GraphBuilder) -> Tensor:
        return Materialised(self._shares(graph)).squared_norms(graph)

    def weighted_sum(self, graph: GraphBuilder, weights: Tensor) -> Tensor:
        shares = self._shares(graph)
        if not self.is_sparse:
            return Materialised(shares).weighted_sum(graph, weights)
        if len(self.ids.shape) == 1:
            updates = Materialised(shares).weighted_sum(graph, weights)
        else:
            updates = graph.op("Mul", shares, reshape(graph, weights, (*weights.shape, 1, 1)))
        zeros = graph.op("ConstantOfShape", graph.constant(np.array(self.shape, np.int64)))
        at, updates = reshape(graph, self.ids, (-1, 1)), reshape(graph, updates, (-1, self.shape[1]))
        return reshape(graph, graph.op("ScatterND", zeros, at, updates, reduction="add"), (-1,))

    def _shares(self, graph: GraphBuilder) -> Tensor:
        """The shares written out, or their rows [B, T, columns]: an id's where it comes first, and zeros after that."""
        if not self.is_sparse:
            return self.per_example(graph)
        if self._are_distinct():
            return self.dy
        left, right = (reshape(graph, self.ids, (*self.ids.shape[:-1], *shape)) for shape in ((-1, 1), (1, -1)))
        is_same = graph.op("Cast", graph.op("Equal", left, right), to=TensorProto.FLOAT)
        count = self.ids.shape[-1]
        earlier = graph.op("Mul", is_same, graph.constant(np.tri(count, k=-1, dtype=np.float32)))
        num_earlier = graph.op("ReduceSum", earlier, graph.constant([-1], np.int64), keepdims=1)
        is_first = graph.op("Cast", graph.op("Equal", num_earlier, graph.constant(0, np.float32)), to=TensorProto.FLOAT)
        return graph.op("Mul", graph.op("MatMul", is_same, self.dy), is_first)

    def joined(self, graph: GraphBuilder, other: "Lookup") -> "Lookup":
        """Both sums' rows as one sum."""
        size = self.dy.shape[0]
        dy = graph.op("Concat", self.dy, other.dy, axis=1)
        if len(self.ids.shape) == len(other.ids.shape) == 1:
            return Lookup(graph.op("Concat", self.ids, other.ids, axis=0), dy, self.num_rows)
        each = [_for_each(graph, value.ids, size) for value in (self, other)]
        return Lookup(graph.op("Concat", *each, axis=1), dy, self.num_rows)

    def _are_distinct(self) -> bool:
        ids = self.ids.constant
        if self.dy.shape[1] == 1:
            return True
        return ids is not None and all(len(np.unique(row)) == len(row) for row in ids.reshape(-1, ids.shape[-1]))

    def _choices(self, graph: GraphBuilder) -> Tensor:
        """1 where a position looks a row up: [B, T, rows] or [T, rows]."""
        at = reshape(graph, self.ids, (*self.ids.shape, 1))
        return graph.op("Cast", graph.op("Equal", at, graph.constant(np.arange(self.num_rows))), to=TensorProto.FLOAT)


def added(graph: GraphBuilder, sums: list[ExampleSum]) -> ExampleSum:
    """The gradients of several uses of one tensor as one, the cross terms of its norms included."""
    if len(sums) == 1:
        return sums[0]
    lookups = [value for value in sums if isinstance(value, Lookup)]
    products = [value for value in sums if isinstance(value, Outer)]
    if len(lookups) + len(products) < len(sums):
        return Materialised(graph.op("Sum", *(value.per_example(graph) for value in sums)))
    if not lookups:
        return _joined(graph, products)
    lookup = lookups[0]
    for other in lookups[1:]:
        lookup = lookup.joined(graph, other)
    if not products:
        return lookup
    product = _joined(graph, products)
    return Materialised(graph.op("Add", product.per_example(graph), lookup.per_example(graph)))


def _joined(graph: GraphBuilder, products: list[Outer]) -> Outer:
    """Products one after the other along their positions."""
    if len(products) == 1:
        return products[0]
    left = graph.op("Concat", *(product.left for product in products), axis=1)
    return Outer(left, graph.op("Concat", *(product.right for product in products), axis=1))


def _for_each(graph: GraphBuilder, ids: Tensor, num_examples: int) -> Tensor:
    """Ids of every example, [B, T]."""
    if len(ids.shape) == 2:
        return ids
    return graph.op("Expand", ids, graph.constant(np.array([num_examples, *ids.shape], np.int64)))
