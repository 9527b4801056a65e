import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pipeline.compile.builder import CompileError
from pipeline.compile.constant_folding import fold_constants


def model(nodes: list[onnx.NodeProto], initializers: list[onnx.TensorProto] = ()) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "test", [x], [y], list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])


def number(name: str, value) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(np.array(value)))


def test_a_shape_computed_from_the_examples_is_known_when_compiling():
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        number("zero", [0]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        number("rest", [-1]),
        helper.make_node("Concat", ["batch", "rest"], ["flat"], axis=0),
        helper.make_node("Reshape", ["x", "flat"], ["rows"]),
        helper.make_node("Shape", ["rows"], ["again"]),
        helper.make_node("Reshape", ["x", "again"], ["y"], "last"),
    ]
    folded = fold_constants(model(nodes))
    assert {node.op_type for node in folded.graph.node} == {"Constant", "Reshape"}
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in folded.graph.value_info}
    assert shapes["rows"] == [2, 12]
    assert folded.graph.node[-1].name == "last"


@pytest.mark.parametrize("operator", ["RandomNormal", "RandomUniform"])
def test_random_numbers_are_never_folded(operator):
    nodes = [helper.make_node(operator, [], ["r"], shape=[4]), helper.make_node("Add", ["x", "r"], ["y"])]
    assert [node.op_type for node in fold_constants(model(nodes)).graph.node] == [operator, "Add"]


def test_parameters_and_what_is_computed_from_them_stay():
    weight = onnx.numpy_helper.from_array(np.ones(4, np.float32), "weight")
    nodes = [helper.make_node("Neg", ["weight"], ["n"]), helper.make_node("Add", ["x", "n"], ["y"])]
    assert [node.op_type for node in fold_constants(model(nodes, [weight])).graph.node] == ["Neg", "Add"]


def test_what_would_fill_the_file_stays():
    nodes = [
        number("shape", [1000, 1000]),
        helper.make_node("ConstantOfShape", ["shape"], ["large"]),
        number("axes", [0, 1]),
        helper.make_node("ReduceSum", ["large", "axes"], ["total"]),
        helper.make_node("Add", ["x", "total"], ["y"]),
    ]
    folded = fold_constants(model(nodes))
    assert [node.op_type for node in folded.graph.node] == [
        "Constant",
        "ConstantOfShape",
        "Constant",
        "ReduceSum",
        "Add",
    ]


def test_what_cannot_be_computed_is_told_with_its_layer():
    nodes = [
        number("values", [1.0, 2.0]),
        number("axis", [0]),
        helper.make_node("CumSum", ["values", "axis"], ["sums"], "/head/CumSum"),
        helper.make_node("Identity", ["sums"], ["y"]),
    ]
    with pytest.raises(CompileError, match=r"layer 'head' \(CumSum\) .*rank-0.*; replace that layer"):
        fold_constants(model(nodes))
