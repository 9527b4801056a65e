import numpy as np
import onnxruntime
import pytest

from pipeline.compile.builder import IR_VERSION, OPSET, CompileError, GraphBuilder


def run(graph: GraphBuilder, outputs, inputs):
    model = graph.to_model(outputs, "test")
    return onnxruntime.InferenceSession(model.SerializeToString()).run(list(outputs), inputs)


def test_a_graph_computes_its_named_outputs():
    graph = GraphBuilder()
    x = graph.input("x", (2, 3))
    doubled = graph.op("Mul", x, graph.constant(2.0, np.float32))
    parts = graph.ops("Split", doubled, graph.constant(np.array([1, 2])), num_outputs=2, axis=1)
    assert [part.shape for part in parts] == [(2, 1), (2, 2)]
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    first, whole = run(graph, {"first": parts[0], "whole": doubled}, {"x": values})
    np.testing.assert_array_equal(whole, 2 * values)
    np.testing.assert_array_equal(first, 2 * values[:, :1])


def test_what_depends_on_constants_alone_is_folded():
    graph = GraphBuilder()
    shape = graph.op("Concat", graph.constant(np.array([2])), graph.constant(np.array([3])), axis=0)
    assert shape.constant.tolist() == [2, 3]
    x = graph.input("x", (6,))
    model = graph.to_model({"y": graph.op("Reshape", x, shape)}, "test")
    assert [node.op_type for node in model.graph.node] == ["Reshape", "Identity"]


def test_a_large_constant_is_computed_at_run_time_instead_of_stored():
    graph = GraphBuilder()
    wide = graph.op("Expand", graph.constant(1.0, np.float32), graph.constant(np.array([300, 300])))
    assert wide.constant is None
    assert wide.shape == (300, 300)


def test_the_same_node_asked_for_twice_is_one_node():
    graph = GraphBuilder()
    x = graph.input("x", (2,))
    assert graph.op("Exp", x) is graph.op("Exp", x)
    assert graph.op("Softmax", x, axis=0) is not graph.op("Softmax", x, axis=-1)
    assert graph.constant(1.0, np.float32) is graph.constant(np.float32(1))
    assert graph.constant(1) is not graph.constant(1.0)


def test_nodes_that_no_output_needs_are_left_out():
    graph = GraphBuilder()
    x = graph.input("x", (2,))
    graph.op("Log", x)
    model = graph.to_model({"y": graph.op("Exp", x)}, "test")
    assert [node.op_type for node in model.graph.node] == ["Exp", "Identity"]


def test_names_depend_on_the_order_of_use_alone():
    def model(with_unused: bool):
        graph = GraphBuilder()
        x = graph.input("x", (2,))
        if with_unused:
            graph.op("Log", graph.op("Add", x, graph.constant(7.0, np.float32)))
        y = graph.op("Mul", graph.op("Exp", x), graph.constant(3.0, np.float32))
        return graph.to_model({"y": y}, "test").SerializeToString(deterministic=True)

    assert model(with_unused=True) == model(with_unused=False)


def test_an_input_may_be_an_output():
    graph = GraphBuilder()
    x = graph.input("x", (2,))
    (y,) = run(graph, {"y": x}, {"x": np.ones(2, np.float32)})
    assert y.tolist() == [1, 1]


def test_optional_inputs_stay_empty():
    graph = GraphBuilder()
    x = graph.input("x", (3,))
    clipped = graph.op("Clip", x, None, graph.constant(1.0, np.float32))
    (y,) = run(graph, {"y": clipped}, {"x": np.array([-5, 0, 5], np.float32)})
    assert y.tolist() == [-5, 0, 1]


def test_a_model_says_the_versions_that_old_runtimes_read():
    graph = GraphBuilder()
    model = graph.to_model({"y": graph.op("Exp", graph.input("x", (1,)))}, "test")
    assert (model.opset_import[0].version, model.ir_version) == (OPSET, IR_VERSION) == (17, 8)


def test_a_shape_that_depends_on_values_is_refused():
    graph = GraphBuilder()
    x = graph.input("x", (3,))
    with pytest.raises(CompileError, match="shape of v0 is not fixed once the batch is; use static shapes"):
        graph.op("NonZero", x)


def test_nodes_and_values_are_named_after_their_owners_where_that_is_asked_for():
    graph = GraphBuilder("loss")
    x = graph.input("x", (2, 3))
    with graph.owned_by("stem"):
        first = graph.op("Relu", x)
        with graph.owned_by("inner"):
            second = graph.op("Neg", first)
        again = graph.op("Abs", second)
    last = graph.op("Exp", graph.op("Add", again, graph.op("Relu", x)))  # the relu is there, and stays the stem's
    plain, named = (graph.to_model({"y": last}, "graph", by_owner=by_owner) for by_owner in (False, True))
    assert [node.name for node in named.graph.node] == [
        "stem/Relu_0",
        "inner/Neg_1",
        "stem/Abs_2",
        "loss/Add_3",
        "loss/Exp_4",
        "Identity_5",
    ]
    assert named.graph.node[1].input[0] == named.graph.node[0].output[0] == "stem/t0"
    assert [node.name for node in plain.graph.node] == [
        f"{node.op_type}_{i}" for i, node in enumerate(named.graph.node)
    ]
    assert [node.output[0] for node in plain.graph.node] == ["t0", "t1", "t2", "t3", "t4", "y"]
