from itertools import pairwise

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from bench.resident_memory import measure_resident_mib
from pipeline.compile.builder import CompileError
from pipeline.compile.export import export_forward
from pipeline.compile.graphs import gradient_model
from pipeline.compile.losses import Loss
from pipeline.compile.process_memory import predict_inference_memory, predict_memory, predict_step_memory
from pipeline.compile.segments import layout_of
from pipeline.network import build_module
from search.architecture import Architecture, Stage, Stem
from search.layers import layers_of

SIDE = 512
BYTES = 4 * SIDE * SIDE
LARGE = Architecture((3, 48, 48), 10, Stem(32), (Stage("depthwise", 48),), normalization="group")
SMALL = Architecture((1, 8, 8), 10, Stem(8), (Stage("depthwise", 16), Stage("inverted", 16, 2, 3, 1, 2)))


def graph_of(operator, batch=SIDE, num_constants=0):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, SIDE]) for name in "xy")
    names = [f"w{i}" for i in range(num_constants)]
    values = ["x", *(f"v{i}" for i in range(1, num_constants)), "y"]
    pairs = pairwise(values)
    nodes = [
        helper.make_node(operator, [x, *([w] if w else [])], [y])
        for w, (x, y) in zip(names or [""], pairs, strict=True)
    ]
    weights = [numpy_helper.from_array(np.full((SIDE, SIDE), i, np.float32), name) for i, name in enumerate(names)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], weights), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    return model.SerializeToString()


def gradient_graph(architecture, batch_size):
    forward = export_forward(
        build_module(layers_of(architecture)), {"x": torch.zeros(batch_size, *architecture.input_shape)}
    )
    model = gradient_model(forward, layout_of(forward, {}), Loss()).model
    return model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("predict", [predict_memory, predict_inference_memory])
def test_a_shape_that_is_not_fixed_and_what_is_no_graph_are_refused(predict):
    with pytest.raises(CompileError, match="the shape of 'y' is not fixed; export the graph with a fixed batch"):
        predict(graph_of("Neg", batch="n"))
    with pytest.raises(CompileError, match="ONNX Runtime does not open the graph"):
        predict(b"no graph")


@pytest.mark.parametrize(
    "memory",
    [
        lambda: predict_memory(graph_of("Neg")),
        lambda: predict_inference_memory(graph_of("Neg")),
        lambda: predict_step_memory(SMALL, 16),
    ],
)
def test_a_prediction_holds_more_than_its_values_and_lies_in_its_intervals(memory):
    found = memory()
    assert found.resident > found.peak.written >= found.peak.live > 0
    (low80, high80), (low95, high95) = found.interval80, found.interval95
    assert 0 <= low95 < low80 < found.resident < high80 < high95


def test_an_inference_needs_its_constants_more_than_once_and_those_of_products_most():
    plain, added, multiplied = (
        predict_inference_memory(graph_of(*what)) for what in (("Neg",), ("Sub", SIDE, 1), ("MatMul", SIDE, 1))
    )
    assert (plain.constants, added.constants, multiplied.constants) == (0, BYTES, BYTES)
    assert added.resident - plain.resident > 1.2 * BYTES
    assert multiplied.resident - added.resident > BYTES


def test_opening_a_file_of_many_constants_takes_more_than_running_it():
    rest = [
        memory.resident - 4 * memory.constants
        for memory in (predict_inference_memory(graph_of("MatMul", 1, n)) for n in (4, 8))
    ]
    assert rest[0] == pytest.approx(rest[1], abs=0.1 * 2**20)


def test_an_architectures_step_is_predicted_like_its_compiled_graphs():
    assert predict_step_memory(SMALL, 16).resident == pytest.approx(
        predict_memory(gradient_graph(SMALL, 16)).resident, rel=0.15
    )
    assert predict_step_memory(SMALL, 32).resident > predict_step_memory(SMALL, 16).resident


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "low", "high"), [(LARGE, 0.95, 1.1), (SMALL, 0.9, 1.25)])
def test_a_process_grows_by_what_was_predicted(tmp_path, architecture, low, high):
    graph = gradient_graph(architecture, 16)
    (tmp_path / "gradient.onnx").write_bytes(graph)
    measured = max(measure_resident_mib(tmp_path / "gradient.onnx")["runs_mib"])
    for memory in (predict_memory(graph), predict_step_memory(architecture, 16)):
        assert low < memory.resident / 2**20 / measured < high
