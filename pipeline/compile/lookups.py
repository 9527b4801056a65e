"""Sums over examples that embeddings leave: rows added at ids, and such rows on top of a linear layer's products."""

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from pipeline.compile.builder import GraphBuilder, Tensor
from pipeline.compile.values import ExampleSum, Materialised, Outer, reshape, total, turned, with_rounding


@dataclass(frozen=True)
class Lookup(ExampleSum):
    """Shares have row dy[b, t] added at ids[b, t] and are zero elsewhere: the gradient of a table that is looked up in.

    The rows of equal ids meet, so that |share|^2 = sum over t and s with equal ids of dy[t] dy[s]. Like an `Outer`'s,
    such a norm is larger by a share of its `reach`. Where positions outnumber rows, the shares are written out.

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
    def is_ghost(self) -> bool:
        """Whether norms come from equal ids, or from rows that never meet."""
        return self._are_distinct() or self.dy.shape[1] <= self.num_rows

    @property
    def form(self) -> str:
        return "ghost norm" if self.is_ghost else "materialised"

    def per_example(self, graph: GraphBuilder) -> Tensor:
        return graph.op("MatMul", turned(graph, self._choices(graph)), self.dy)

    def squared_norms(self, graph: GraphBuilder) -> Tensor:
        if not self.is_ghost:
            return Materialised(self.per_example(graph)).squared_norms(graph)
        squares = self.squares(graph)
        return squares if self._are_distinct() else with_rounding(graph, squares, self.reach(graph))

    def squares(self, graph: GraphBuilder) -> Tensor:
        """Squared norms from the products of rows as they round, [B]."""
        if self._are_distinct():
            return Materialised(self.dy).squared_norms(graph)
        return self._sum_of_equal_ids(graph, self.dy)

    def reach(self, graph: GraphBuilder) -> Tensor:
        """Squared norms if no row cancelled another, [B]: of the lengths |dy[b, t]| added at ids[b, t]."""
        if self._are_distinct():
            return self.squares(graph)
        squares = graph.op("ReduceSum", graph.op("Mul", self.dy, self.dy), graph.constant([2], np.int64), keepdims=1)
        return self._sum_of_equal_ids(graph, graph.op("Sqrt", squares))

    def weighted_sum(self, graph: GraphBuilder, weights: Tensor) -> Tensor:
        if not self.is_ghost:  # of what the norms are of: another order of summation would round to another norm
            return Materialised(self.per_example(graph)).weighted_sum(graph, weights)
        if len(self.ids.shape) == 1:
            updates = Materialised(self.dy).weighted_sum(graph, weights)
        else:
            updates = graph.op("Mul", self.dy, reshape(graph, weights, (*weights.shape, 1, 1)))
        zeros = graph.op("ConstantOfShape", graph.constant(np.array(self.shape, np.int64)))
        at, updates = reshape(graph, self.ids, (-1, 1)), reshape(graph, updates, (-1, self.shape[1]))
        return reshape(graph, graph.op("ScatterND", zeros, at, updates, reduction="add"), (-1,))

    def joined(self, graph: GraphBuilder, other: "Lookup") -> "Lookup":
        """Both sums' rows as one sum."""
        size = self.dy.shape[0]
        dy = graph.op("Concat", self.dy, other.dy, axis=1)
        if len(self.ids.shape) == len(other.ids.shape) == 1:
            return Lookup(graph.op("Concat", self.ids, other.ids, axis=0), dy, self.num_rows)
        each = [_for_each(graph, value.ids, size) for value in (self, other)]
        return Lookup(graph.op("Concat", *each, axis=1), dy, self.num_rows)

    def times(self, graph: GraphBuilder, other: Outer) -> Tensor:
        """Inner product of each share with the other sum's, [B]: dy[t] times row ids[t] of left^T right."""
        size, num_positions = self.dy.shape[0], other.left.shape[1]
        at = reshape(graph, _for_each(graph, self.ids, size), (size, 1, -1))
        shape = graph.constant(np.array([size, num_positions, self.dy.shape[1]], np.int64))
        picked = graph.op("GatherElements", other.left, graph.op("Expand", at, shape), axis=2)
        return total(graph, graph.op("Mul", graph.op("MatMul", other.right, turned(graph, self.dy)), picked))

    def _sum_of_equal_ids(self, graph: GraphBuilder, each: Tensor) -> Tensor:
        """Inner products of the rows of `each` [B, T, n] that have equal ids, added up, [B]."""
        left, right = (reshape(graph, self.ids, (*self.ids.shape[:-1], *shape)) for shape in ((-1, 1), (1, -1)))
        is_same = graph.op("Cast", graph.op("Equal", left, right), to=TensorProto.FLOAT)
        return total(graph, graph.op("Mul", graph.op("MatMul", each, turned(graph, each)), is_same))

    def _are_distinct(self) -> bool:
        ids = self.ids.constant
        if self.dy.shape[1] == 1:
            return True
        return ids is not None and all(len(np.unique(row)) == len(row) for row in ids.reshape(-1, ids.shape[-1]))

    def _choices(self, graph: GraphBuilder) -> Tensor:
        """1 where a position looks a row up: [B, T, rows] or [T, rows]."""
        at = reshape(graph, self.ids, (*self.ids.shape, 1))
        return graph.op("Cast", graph.op("Equal", at, graph.constant(np.arange(self.num_rows))), to=TensorProto.FLOAT)


@dataclass(frozen=True)
class Tied(ExampleSum):
    """The gradient of a table that is looked up in and is a linear layer's weight as well.

    |lookup + product|^2 = |lookup|^2 + |product|^2 + 2 <lookup, product>.
    """

    lookup: Lookup
    product: Outer

    @property
    def shape(self) -> tuple[int, ...]:
        return self.lookup.shape

    @property
    def form(self) -> str:
        return "ghost norm"

    def per_example(self, graph: GraphBuilder) -> Tensor:
        return graph.op("Add", self.product.per_example(graph), self.lookup.per_example(graph))

    def squared_norms(self, graph: GraphBuilder) -> Tensor:
        two = graph.constant(2.0, np.float32)
        cross = graph.op("Mul", self.lookup.times(graph, self.product), two)
        squares = graph.op("Sum", *(value.squares(graph) for value in (self.lookup, self.product)), cross)
        reach = graph.op("Add", *(value.reach(graph) for value in (self.lookup, self.product)))
        return with_rounding(graph, squares, graph.op("Mul", reach, two))  # (a + b)^2 <= 2 (a^2 + b^2)

    def weighted_sum(self, graph: GraphBuilder, weights: Tensor) -> Tensor:
        return graph.op("Add", *(value.weighted_sum(graph, weights) for value in (self.lookup, self.product)))


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
    if lookup.is_ghost and product.is_ghost:
        return Tied(lookup, product)
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
