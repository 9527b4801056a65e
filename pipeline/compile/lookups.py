"""Sums over examples that embeddings leave: rows added at ids, and such rows on top of a linear layer's products."""

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from pipeline.compile.builder import GraphBuilder, Tensor
from pipeline.compile.values import ExampleSum, Materialised, Outer, reshape, rows, turned


@dataclass(frozen=True)
class Lookup(ExampleSum):
    """Shares have row dy[b, t] added at ids[b, t] and are zero elsewhere: the gradient of a table that is looked up in.

    The rows of equal ids meet, so that |share|^2 = sum over t and s with equal ids of dy[t] dy[s].

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
    def form(self) -> str:
        return "ghost norm"

    def per_example(self, graph: GraphBuilder) -> Tensor:
        return graph.op("MatMul", turned(graph, self._choices(graph)), self.dy)

    def squared_norms(self, graph: GraphBuilder) -> Tensor:
        if self._are_distinct():
            return Materialised(self.dy).squared_norms(graph)
        if self.dy.shape[1] > self.num_rows:
            return Materialised(self.per_example(graph)).squared_norms(graph)
        left, right = (reshape(graph, self.ids, (*self.ids.shape[:-1], *shape)) for shape in ((-1, 1), (1, -1)))
        is_same = graph.op("Cast", graph.op("Equal", left, right), to=TensorProto.FLOAT)
        product = graph.op("Mul", graph.op("MatMul", self.dy, turned(graph, self.dy)), is_same)
        return _total(graph, product)

    def weighted_sum(self, graph: GraphBuilder, weights: Tensor) -> Tensor:
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
        return _total(graph, graph.op("Mul", graph.op("MatMul", other.right, turned(graph, self.dy)), picked))

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
        cross = graph.op("Mul", self.lookup.times(graph, self.product), graph.constant(2.0, np.float32))
        squares = (value.squared_norms(graph) for value in (self.lookup, self.product))
        # Rounding may leave a negative number where the two uses cancel.
        return graph.op("Relu", graph.op("Sum", *squares, cross))

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
    return Tied(lookup, _joined(graph, products)) if products else lookup


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


def _total(graph: GraphBuilder, values: Tensor) -> Tensor:
    return graph.op("ReduceSum", rows(graph, values), graph.constant([1], np.int64), keepdims=0)
