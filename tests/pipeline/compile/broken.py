"""Compiled steps with a defect."""

from dataclasses import replace

import numpy as np

from device_runtime.specs import ExampleSpec
from pipeline.compile import graphs
from pipeline.compile.artifact import CompileRequest, compile_architecture
from pipeline.compile.values import ExampleSum, Materialised, Plain
from search.architecture import Architecture, Stage, Stem

SMALL = Architecture((1, 6, 6), 3, Stem(3), (Stage("depthwise", 4),), activation="hard_swish")
REQUEST = CompileRequest(SMALL, ExampleSpec(SMALL.input_shape, ("a", "b", "c")), 4)


def compile_broken(tmp_path) -> None:
    compile_architecture(REQUEST, tmp_path / "artifact")


def scaled(graph, tensor, factor):
    return graph.op("Mul", tensor, graph.constant(factor, np.float32))


def break_rule(monkeypatch, op_type: str, output: int, change) -> list:
    """Change one output of a rule, where it has one: change(graph, node, tensor); the list fills with what was."""
    right, changed = graphs.RULES[op_type], []

    def wrong(graph, node, inputs):
        values = list(right(graph, node, inputs))
        value = values[output] if output < len(values) else None
        if isinstance(value, ExampleSum):
            values[output] = Materialised(change(graph, node, value.per_example(graph)))
            changed.append(node.layer)
        elif isinstance(value, Plain) and value.tensor.dtype == np.float32 and value.tensor.constant is None:
            values[output] = replace(value, tensor=change(graph, node, value.tensor))
            changed.append(node.layer)
        return tuple(values)

    monkeypatch.setitem(graphs.RULES, op_type, wrong)
    return changed
