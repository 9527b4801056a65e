"""Which whole numbers an integer input may hold, read from the tables that it looks up, to draw test examples from."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import onnx
import torch
from onnx import helper

from device_runtime.arrays import Inputs
from device_runtime.specs import ExampleSpec, InputSpec
from pipeline.compile.export import Forward

# What moves ids about without changing one.
_MOVING = frozenset(
    {"Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose"}
    | {"Unsqueeze"}
)


def table_sizes(forward: Forward, batch: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Rows of the smallest table that each integer input indexes, by the graph's names; only of those that do."""
    tables = {name: _tables(forward.model.graph, name) for name, value in batch.items() if value.dtype == torch.int64}
    return {name: min(rows) for name, rows in tables.items() if rows}


def id_limits(sizes: Mapping[str, int], batch: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, int]]:
    """Smallest id and the one after the largest of each integer input: of its table, or else what the example holds."""
    return {
        name: (0, sizes[name]) if name in sizes else (int(value.min()), int(value.max()) + 1)
        for name, value in batch.items()
        if value.dtype == torch.int64
    }


def draw_inputs(
    spec: ExampleSpec, limits: Mapping[str, tuple[int, int]], rng: np.random.Generator, num_examples: int
) -> Inputs:
    """Standard normal numbers and uniform ids, as a session takes them: a structured array for several inputs."""
    if not spec.inputs:
        return _draw(InputSpec("x", spec.shape, spec.dtype), limits.get("x"), rng, num_examples)
    x = np.zeros(num_examples, spec.row_dtype())
    for each in spec.inputs:
        x[each.name] = _draw(each, limits.get(f"x.{each.name}"), rng, num_examples)
    return x


def _draw(spec: InputSpec, limits: tuple[int, int] | None, rng: np.random.Generator, num_examples: int) -> Inputs:
    shape = (num_examples, *spec.shape)
    return rng.standard_normal(shape, np.float32) if limits is None else rng.integers(*limits, shape)


def _tables(graph: onnx.GraphProto, name: str) -> list[int]:
    """Rows of each table that is looked up by the input or by a part of it."""
    shapes = {initializer.name: tuple(initializer.dims) for initializer in graph.initializer}
    users = defaultdict(list)
    for node in graph.node:
        for position, used in enumerate(node.input):
            users[used].append((node, position))
    rows, seen, ahead = [], {name}, [name]
    while ahead:
        for node, position in users[ahead.pop()]:
            if node.op_type == "Gather" and position == 1 and node.input[0] in shapes:
                axis = next((helper.get_attribute_value(a) for a in node.attribute if a.name == "axis"), 0)
                rows.append(shapes[node.input[0]][axis])
            elif node.op_type in _MOVING:
                new = [output for output in node.output if output not in seen]
                seen.update(new)
                ahead.extend(new)
    return rows
