import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from pipeline.compile.builder import CompileError, GraphBuilder
from pipeline.compile.lower import layer_name, lower
from pipeline.compile.rules_elementwise import RULES
from pipeline.compile.rules_products import RULES as PRODUCTS
from pipeline.compile.values import Plain


def model(nodes: list[onnx.NodeProto], initializers=()) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph(nodes, "test", [], [], list(initializers)))


def known(graph: GraphBuilder) -> dict[str, Plain]:
    return {"x": Plain(graph.input("x", (2, 3)), is_batched=True)}


@pytest.mark.parametrize(
    ("node_name", "layer"),
    [
        ("/stages/0/depthwise/Conv", "stages.0.depthwise"),
        ("/stages/0/depthwise/Conv_Grad/ConvGrad_0", "stages.0.depthwise"),
        ("/norm/Add_Grad/Shape_/norm/Constant_6_output_0_rhs", "norm"),
        ("AccumulateGrad_/norm/Sub_output_0_grad", "norm"),
        ("/Add_1", "Add_1"),
        ("loss_Grad/SoftmaxCrossEntropyLossGrad_0", "loss"),
        ("loss", "loss"),
    ],
)
def test_a_layer_is_named_by_the_path_of_its_node(node_name, layer):
    assert layer_name(node_name) == layer


def test_nodes_in_any_order_give_the_same_graph():
    nodes = [helper.make_node("Exp", ["x"], ["e"]), helper.make_node("Abs", ["x"], ["a"])]
    nodes.append(helper.make_node("Mul", ["e", "a"], ["y"]))
    written = set()
    for order in (nodes, nodes[::-1], [nodes[1], nodes[2], nodes[0]]):
        graph = GraphBuilder()
        (y,) = lower(model(order), RULES, graph, known(graph), ["y"])
        written.add(graph.to_model({"y": y.tensor}, "test").SerializeToString(deterministic=True))
    assert len(written) == 1


def test_values_come_in_the_order_that_was_asked_for():
    graph = GraphBuilder()
    nodes = [helper.make_node("Exp", ["x"], ["e"]), helper.make_node("Neg", ["e"], ["n"])]
    found = lower(model(nodes), RULES, graph, known(graph), ["n", "x", "e"])
    assert [value.tensor.name for value in found] == ["v1", "x", "v0"]


def test_what_nobody_needs_needs_no_rule():
    graph = GraphBuilder()
    nodes = [helper.make_node("Exp", ["x"], ["e"]), helper.make_node("Mystery", ["e"], ["m"])]
    assert len(lower(model(nodes), RULES, graph, known(graph), ["e"])) == 1


def test_an_operator_without_a_rule_is_refused_with_its_layer_and_the_known_ones():
    graph = GraphBuilder()
    nodes = [helper.make_node("Mystery", ["x"], ["m"], name="/block/riddle/Mystery")]
    with pytest.raises(CompileError, match=r"layer 'block.riddle' needs operator Mystery, .* operators Abs, Add, "):
        lower(model(nodes), RULES, graph, known(graph), ["m"])


def test_a_value_that_the_graph_does_not_compute_is_named():
    graph = GraphBuilder()
    with pytest.raises(CompileError, match="does not compute w_grad: nothing differentiable leads there"):
        lower(model([]), RULES, graph, known(graph), ["w_grad"])


def test_initializers_are_constants_unless_they_are_known():
    graph = GraphBuilder()
    nodes = [helper.make_node("Add", ["x", "c"], ["y"])]
    constant = onnx.numpy_helper.from_array(np.float32(2), "c")
    (y,) = lower(model(nodes, [constant]), RULES, graph, known(graph), ["y"])
    assert len(graph.to_model({"y": y.tensor}, "test").graph.initializer) == 1
    graph = GraphBuilder()
    parameter = Plain(graph.input("c", ()), is_batched=False)
    (y,) = lower(model(nodes, [constant]), RULES, graph, {**known(graph), "c": parameter}, ["y"])
    assert len(graph.to_model({"y": y.tensor}, "test").graph.initializer) == 0


@pytest.mark.parametrize(
    ("node", "known_by"),
    [
        (helper.make_node("Add", ["x", "p"], ["y"], "/head/Add"), "numpy"),
        (helper.make_node("Gemm", ["x", "p"], ["y"], "/head/Gemm"), "shape inference"),
        (helper.make_node("CumSum", ["p", "p"], ["y"], "/head/CumSum"), "the reference"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.op_type,
)
def test_what_a_library_says_of_wrong_shapes_is_told_with_the_layer(node, known_by):
    graph = GraphBuilder()
    initializers = [numpy_helper.from_array(np.ones((4, 5), np.float32), "p")]
    with pytest.raises(CompileError, match=rf"layer 'head' \({node.op_type}\) .+; replace that layer") as caught:
        lower(model([node], initializers), {**RULES, **PRODUCTS}, graph, known(graph), ["y"])
    assert caught.value.__cause__ is not None, known_by
