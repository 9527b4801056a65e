"""Which whole numbers an integer input may hold, read from the tables that it looks up, to draw test examples from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from device_runtime.arrays import Inputs
from device_runtime.specs import ExampleSpec, InputSpec
from pipeline.compile.export import EXPORT_OPSET, Forward

# What moves ids about without changing one; what takes a part of them only.
_MOVING = frozenset({"Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Tile", "Transpose"})
_MOVING |= {"Unsqueeze"}
_TAKING = frozenset({"Gather", "Slice", "Split"})

_NONE = np.iinfo(np.int64).max
Limits = tuple[int, int | NDArray[np.int64]]


@dataclass(frozen=True)
class Table:
    """A table that an integer input looks up in.

    Attributes:
        places: Which of a batch's numbers look up in it, as positions among all; None for every one.
    """

    places: NDArray[np.int64] | None
    num_rows: int


def find_tables(forward: Forward, batch: Mapping[str, torch.Tensor]) -> dict[str, tuple[Table, ...]]:
    """The tables that each integer input looks up in, by the graph's names; none for one that is a number."""
    return {
        name: tuple(_lookups(forward.model.graph, name, np.arange(value.numel()).reshape(value.shape)))
        for name, value in batch.items()
        if value.dtype == torch.int64
    }


def table_sizes(tables: Mapping[str, Sequence[Table]]) -> dict[str, int]:
    """Rows of the smallest table that the whole of an input indexes, by the graph's names.

    An input with a table for each column is in none: another column may hold more.
    """
    whole = {name: [table.num_rows for table in found if table.places is None] for name, found in tables.items()}
    return {name: min(num_rows) for name, num_rows in whole.items() if num_rows}


def id_limits(tables: Mapping[str, Sequence[Table]], batch: Mapping[str, torch.Tensor]) -> dict[str, Limits]:
    """Smallest id and the one after the largest of each integer input: of its tables, or else what the example holds.

    Where parts of an input index tables of several sizes, the second is int64 [...], of each number of an example.
    """
    limits: dict[str, Limits] = {}
    for name, found in tables.items():
        value = batch[name]
        rows = np.full(value.numel(), _NONE)
        for table in found:
            part = slice(None) if table.places is None else table.places.ravel()
            rows[part] = np.minimum(rows[part], table.num_rows)
        each = rows.reshape(len(value), -1).min(axis=0).reshape(value.shape[1:])
        if (each == _NONE).all():
            limits[name] = (int(value.min()), int(value.max()) + 1)
            continue
        each[each == _NONE] = max(int(value.max()) + 1, 1)
        limits[name] = (0, int(each.min()) if (each == each.min()).all() else each)
    return limits


def draw_inputs(spec: ExampleSpec, limits: Mapping[str, Limits], rng: np.random.Generator, num_examples: int) -> Inputs:
    """Standard normal numbers and uniform ids, as a session takes them: a structured array for several inputs."""
    if not spec.inputs:
        return _draw(InputSpec("x", spec.shape, spec.dtype), limits.get("x"), rng, num_examples)
    x = np.zeros(num_examples, spec.row_dtype())
    for each in spec.inputs:
        x[each.name] = _draw(each, limits.get(f"x.{each.name}"), rng, num_examples)
    return x


def _draw(spec: InputSpec, limits: Limits | None, rng: np.random.Generator, num_examples: int) -> Inputs:
    shape = (num_examples, *spec.shape)
    return rng.standard_normal(shape, np.float32) if limits is None else rng.integers(*limits, shape)


def _lookups(graph: onnx.GraphProto, name: str, places: NDArray[np.int64]) -> Iterator[Table]:
    """The table of each lookup by the input; its rows are along axis 0, or the lookup has no rule."""
    constants = {initializer.name: initializer for initializer in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    moved = {name: places}
    parts: set[str] = set()
    for node in graph.node:
        is_table = node.op_type == "Gather" and node.input[0] in constants
        if is_table and node.input[1] in moved:
            used = node.input[1]
            yield Table(moved[used] if used in parts else None, constants[node.input[0]].dims[0])
        elif node.op_type in _MOVING | _TAKING and not is_table:
            outputs = _moved(node, moved, constants)
            moved |= outputs
            if node.op_type in _TAKING or parts & set(node.input):
                parts |= outputs.keys()


def _moved(
    node: onnx.NodeProto, moved: Mapping[str, NDArray[np.int64]], constants: Mapping[str, onnx.TensorProto]
) -> dict[str, NDArray[np.int64]]:
    """Where each place goes; nothing where something else decides it."""
    names = [used for used in node.input if used]
    if not any(used in moved for used in names) or any(used not in moved and used not in constants for used in names):
        return {}
    if node.op_type == "Gather" and node.input[0] not in moved:
        return {}
    given = {used: moved[used] if used in moved else numpy_helper.to_array(constants[used]) for used in names}
    outputs = ReferenceEvaluator(_as_int64(node), opsets={"": EXPORT_OPSET}).run(None, given)
    return {output: np.asarray(found) for output, found in zip(node.output, outputs, strict=True)}


def _as_int64(node: onnx.NodeProto) -> onnx.NodeProto:
    """A cast would round places."""
    return helper.make_node("Identity", node.input, node.output) if node.op_type == "Cast" else node
