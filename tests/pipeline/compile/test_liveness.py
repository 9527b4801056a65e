import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from pipeline.compile.export import export_forward
from pipeline.compile.graphs import gradient_model
from pipeline.compile.liveness import read_program
from pipeline.compile.losses import Loss
from pipeline.compile.segments import layout_of
from pipeline.network import build_module
from search.architecture import Architecture, Cell, Edge, Stage, Stem
from search.layers import layers_of
from search.liveness import peak_of
from search.training_graph import training_program

SIDE = 128
BYTES = 4 * SIDE * SIDE
PLAIN = Architecture((1, 8, 8), 10, Stem(8), (Stage("depthwise", 16), Stage("inverted", 16, 2, 3, 1, 2)))
GROUPED = Architecture(
    (3, 16, 16), 10, Stem(8, 5, 2), (Stage("inverted", 24, 2, 5, 1, 3),), "global_average", "group", "hard_swish"
)
CELLS = Architecture(
    (1, 16, 16),
    10,
    Stem(8),
    (Stage("cell", 8, cell=Cell(((Edge(0, ("conv_3", "max_pool")), Edge(1, ("average_pool",))),))),),
    normalization="group",
)


def gradient_graph(architecture, batch_size):
    forward = export_forward(
        build_module(layers_of(architecture)), {"x": torch.zeros(batch_size, *architecture.input_shape)}
    )
    segments = {"architecture": "stages.*.choices.*"} if architecture.is_supernet else {}
    model = gradient_model(forward, layout_of(forward, segments), Loss()).model
    return model.SerializeToString(deterministic=True)


def graph_of(nodes, batch=SIDE, constants=()):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, SIDE]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def test_operators_are_read_with_what_their_kernels_do():
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["a"]),
        helper.make_node("Sigmoid", ["a"], ["b"]),
        helper.make_node("Transpose", ["b"], ["c"], perm=[1, 0]),
        helper.make_node("Sum", ["c", "c", "x", "x"], ["d"]),
        helper.make_node("Neg", ["d"], ["y"]),
    ]
    program = read_program(graph_of(nodes))
    assert [len(step.temporaries) for step in program.steps] == [0, 0, 0, 2, 0]
    assert [step.in_place for step in program.steps] == [None, 0, None, None, None]
    assert program.outputs == {"y"}
    # The sigmoid is written over its input; in the sum, its result, that of the transposition and two sums so far.
    assert peak_of(program).live == 4 * BYTES


def test_constants_stay_in_memory():
    weight = onnx.numpy_helper.from_array(np.ones((SIDE, SIDE), np.float32), "w")
    program = read_program(graph_of([helper.make_node("Sub", ["x", "w"], ["y"])], constants=[weight]))
    assert list(program.constants) == [BYTES]
    assert peak_of(program).live == 2 * BYTES


def test_constants_of_matrix_products_are_packed_each_once():
    weight = onnx.numpy_helper.from_array(np.ones((SIDE, SIDE), np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["b"])]
    program = read_program(graph_of([*nodes, helper.make_node("Sub", ["b", "w"], ["y"])], constants=[weight]))
    assert (list(program.constants), program.packed) == ([BYTES], BYTES)
    assert read_program(graph_of([helper.make_node("Sub", ["x", "w"], ["y"])], constants=[weight])).packed == 0


@pytest.mark.parametrize(
    "architecture",
    [PLAIN, pytest.param(GROUPED, marks=pytest.mark.slow), pytest.param(CELLS, marks=pytest.mark.slow)],
)
def test_an_architectures_steps_need_what_its_compiled_graph_needs(architecture):
    compiled = peak_of(read_program(gradient_graph(architecture, 16)))
    simulated = peak_of(training_program(layers_of(architecture), 16))
    assert simulated.live == pytest.approx(compiled.live, rel=0.05)
    assert simulated.written == pytest.approx(compiled.written, rel=0.1)
