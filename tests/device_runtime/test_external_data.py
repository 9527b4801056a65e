import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from device_runtime.external_data import has_external_data

VALUES = numpy_helper.from_array(np.arange(300, dtype=np.float32), "w")


def external() -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[300], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="secret.bin")
    return tensor


def make_model(tensor, place):
    """A model that holds `tensor` in one of the places where a tensor may lie."""
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    inner = helper.make_graph([constant], "inner", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [300])])
    branch = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    sparse = onnx.SparseTensorProto(values=tensor, indices=numpy_helper.from_array(np.arange(300), "i"), dims=[300])
    nodes = {"attribute": [constant], "subgraph": [branch]}.get(place, [helper.make_node("Relu", ["x"], ["y"])])
    graph = helper.make_graph(nodes, "graph", [], [], [tensor] if place == "initializer" else [])
    if place == "sparse":
        graph.sparse_initializer.append(sparse)
    function = helper.make_function("own", "f", [], ["c"], [constant], [helper.make_opsetid("", 17)])
    return helper.make_model(graph, functions=[function] if place == "function" else []).SerializeToString()


@pytest.mark.parametrize("place", ["initializer", "sparse", "attribute", "subgraph", "function"])
def test_a_tensor_in_another_file_is_found_wherever_it_is_named(place):
    assert has_external_data(make_model(external(), place))
    assert not has_external_data(make_model(VALUES, place))


@pytest.mark.parametrize("without", ["data_location", "external_data"])
def test_half_a_reference_is_one(without):
    tensor = external()
    tensor.ClearField(without)
    assert has_external_data(make_model(tensor, "initializer"))


def test_the_graphs_of_an_artifact_hold_all_they_need(artifact_files, towers_files):
    for files in (artifact_files, towers_files("mse")):
        assert not has_external_data(files["gradient.onnx"])
        assert not has_external_data(files["evaluate.onnx"])


@pytest.mark.parametrize("data", [b"no graph", b"\x08" + b"\xff" * 20, b"\x3a\x7f\x00", b"\x08", b"\x0d\x00"])
def test_what_is_no_protocol_buffer_is_refused(data):
    with pytest.raises(ValueError, match="no protocol buffer: "):
        has_external_data(data)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_a_cut_off_file_never_passes_for_a_graph_without_being_one(where):
    data = make_model(external(), "initializer")
    cut = data[: where % len(data)]
    try:
        found = has_external_data(cut)
    except ValueError:
        return
    whole = onnx.ModelProto.FromString(cut)  # what passes is whole, field by field
    assert found == any(tensor.external_data for tensor in whole.graph.initializer)
