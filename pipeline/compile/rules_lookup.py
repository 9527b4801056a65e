"""Lowering rules for lookups: of rows of a table by each example's ids, and of constant positions in any value."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from onnx import TensorProto

from pipeline.compile.builder import GraphBuilder, Tensor
from pipeline.compile.lookups import Lookup
from pipeline.compile.lower import Node, Rule
from pipeline.compile.placement import (
    along,
    axes_in,
    has_example,
    is_batched,
    off_axes,
    reshaped,
    structured,
    with_axis,
)
from pipeline.compile.rules_elementwise import apply, plain, scale, to_shape, unsummed
from pipeline.compile.values import ExampleSum, Materialised, Moved, Plain, Value, reshape, summed


def gather(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Gather: a shared table by the examples' ids, or any value at shared positions within an example."""
    data, ids = (unsummed(node, value) for value in inputs)
    axis = int(node.attributes.get("axis", 0)) % len(data.shape)
    if is_batched(ids):
        if is_batched(data) or axis:
            raise node.refused("looks up in something else than the rows of a table that all examples share")
        within = _within(graph, plain(node, ids), data.shape[0])
        return (Plain(graph.op("Gather", data.tensor, within.tensor, axis=0), is_batched=True),)
    data = off_axes(data, [axis])
    if has_example(data, axis):
        raise node.coupled("picks examples by their place in the batch")
    return (along(graph, data, "Gather", ids.tensor, axis=axis),)


def gather_grad(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """com.microsoft GatherGrad(shape, ids, dY): dY's rows, added up at the ids."""
    shape = tuple(int(size) for size in _constant(node, inputs[0]))
    axis = int(node.attributes.get("axis", 0)) % len(shape)
    if is_batched(unsummed(node, inputs[1])):
        ids, dy = (plain(node, value) for value in inputs[1:])
        if axis or not dy.is_batched:
            raise node.refused("looks up in something else than the rows of a table that all examples share")
        ids, rows = _within(graph, ids, shape[0]), reshape(graph, dy.tensor, (dy.shape[0], -1, prod(shape[1:])))
        return (to_shape(graph, node, Lookup(reshape(graph, ids.tensor, rows.shape[:2]), rows, shape[0]), shape),)
    at = _constant(node, inputs[1]).reshape(-1) % shape[axis]
    picked = (*shape[:axis], len(at), *shape[axis + 1 :])
    if not isinstance(inputs[2], ExampleSum):
        dy_of_values = off_axes(reshaped(graph, node, unsummed(node, inputs[2]), picked), [axis])
        return (_put_back(graph, dy_of_values, at, axis, shape[axis]),)
    shares = inputs[2].per_example(graph)
    if axis == 0:
        rows = reshape(graph, shares, (shares.shape[0], len(at), prod(shape[1:])))
        return (to_shape(graph, node, Lookup(graph.constant(at), rows, shape[0]), shape),)
    every = Plain(reshape(graph, shares, (shares.shape[0], *picked)), is_batched=True)
    return (Materialised(_put_back(graph, every, at, axis + 1, shape[axis]).tensor),)


def padded_gather_grad(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Gradient of a lookup whose row `padding_idx` is not trained: dY counts where another row was looked up."""
    dy, table, ids = inputs
    padding = Plain(graph.constant(node.attributes["padding_idx"], np.int64), is_batched=False)
    looked_up = unsummed(node, ids)
    is_padding = apply(graph, node, "Equal", looked_up, padding)
    kept = apply(graph, node, "Cast", apply(graph, node, "Not", is_padding), to=TensorProto.FLOAT)
    (trained,) = scale(
        graph, replace(node, op_type="Mul", attributes={}), [dy, reshaped(graph, node, kept, (*kept.shape, 1))]
    )
    shape = Plain(graph.constant(np.array(unsummed(node, table).shape, np.int64)), is_batched=False)
    return gather_grad(graph, replace(node, attributes={"axis": 0}), [shape, ids, trained])


def _within(graph: GraphBuilder, ids: Plain, num_rows: int) -> Plain:
    """Ids in [0, num_rows): one beyond the table must not stop a step that its example is in, where torch stops too.

    Ids that count from the end become those that they stand for, so that equal rows have equal ids.
    """
    return Plain(graph.op("Mod", ids.tensor, graph.constant(num_rows, ids.tensor.dtype)), ids.is_batched)


def _put_back(
    graph: GraphBuilder, value: Plain | Moved, at: np.ndarray[Any, Any], axis: int, size: int
) -> Plain | Moved:
    """The parts of `value` along an axis added up at the positions `at` of an axis of `size`."""
    (inner,) = axes_in(value, [axis])
    data = structured(graph, value)
    before, after = (np.zeros(len(data.shape), np.int64) for _ in range(2))
    if np.array_equal(at, np.arange(at[0], at[0] + len(at))):
        before[inner], after[inner] = at[0], size - at[-1] - 1
        result = _padded(graph, data, before, after)
    else:
        # Each position takes the part that went there, or one of zeros; a part that meets others is added to them.
        after[inner] = 1
        with_zeros = _padded(graph, data, before, after)
        sources = [graph.constant(source) for source in _sources(at, size)]
        terms = [graph.op("Gather", with_zeros, source, axis=inner) for source in sources]
        result = summed(graph, terms)
    return with_axis(graph, value, result, axis, (size,))


def _sources(at: np.ndarray[Any, Any], size: int) -> list[np.ndarray[Any, Any]]:
    """For each position the part that goes there, len(at) where none does; again for those that meet others."""
    rest = list(enumerate(at))
    found = []
    while rest:
        source = np.full(size, len(at), np.int64)
        later = []
        for part, position in rest:
            if source[position] == len(at):
                source[position] = part
            else:
                later.append((part, position))
        rest = later
        found.append(source)
    return found


def _padded(graph: GraphBuilder, data: Tensor, before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]) -> Tensor:
    return graph.op("Pad", data, graph.constant(np.concatenate([before, after])))


def _constant(node: Node, value: Value | None) -> np.ndarray[Any, Any]:
    known = plain(node, value).tensor.constant
    if known is None:
        raise node.refused("picks positions that are not known when compiling")
    return known


RULES: dict[str, Rule] = {
    "Gather": gather,
    "GatherGrad": gather_grad,
    "PaddedGather": gather,
    "PaddedGatherGrad": padded_gather_grad,
}
