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


def sparse(tensor, part="values"):
    parts = {"values": VALUES, "indices": numpy_helper.from_array(np.arange(300), "i")} | {part: tensor}
    return onnx.SparseTensorProto(**parts, dims=[300])


def graph_of(tensor):
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    return helper.make_graph([constant], "inner", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [300])])


# What an attribute of a node may hold that is a tensor or leads to one.
ATTRIBUTES = {
    "tensor": lambda tensor: tensor,
    "tensors": lambda tensor: [VALUES, tensor],
    "graph": graph_of,
    "graphs": lambda tensor: [graph_of(VALUES), graph_of(tensor)],
    "sparse_tensor": sparse,
    "sparse_tensors": lambda tensor: [sparse(VALUES), sparse(tensor, "indices")],
}


def make_model(tensor, place):
    """A model that holds `tensor` in one of the places where a tensor may lie."""
    nodes, function = [helper.make_node("Relu", ["x"], ["y"])], graph_of(VALUES).node
    if place in ATTRIBUTES:
        nodes[0].attribute.append(helper.make_attribute("a", ATTRIBUTES[place](tensor)))
    graph = helper.make_graph(nodes, "graph", [], [], [tensor] if place == "initializer" else [])
    if place == "sparse initializer":
        graph.sparse_initializer.append(sparse(tensor))
    if place == "function":
        function = graph_of(tensor).node
    own = helper.make_function("own", "f", [], ["c"], function, [helper.make_opsetid("", 17)])
    if place == "default of a function's attribute":
        own.attribute_proto.append(helper.make_attribute("a", tensor))
    return helper.make_model(graph, functions=[own]).SerializeToString()


PLACES = ["initializer", "sparse initializer", "function", "default of a function's attribute", *ATTRIBUTES]


@pytest.mark.parametrize("place", PLACES)
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


def varint(number, high=0, padding=0):
    """A number of seven bits a byte, with bits above the 32nd and with bytes at the end that add nothing."""
    number += high << 32
    data = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)] + [0] * padding
    return bytes(byte | 0x80 for byte in data[:-1]) + bytes(data[-1:])


def encode_external(changes):
    """A model whose initializer lies in another file; `changes` gives high and padding of its tags and lengths."""
    next_changes = iter(changes)

    def field(number, content):
        return varint(number << 3 | 2, *next(next_changes)) + varint(len(content), *next(next_changes)) + content

    tensor, model = (
        TensorProto.FromString(external().SerializeToString()),
        helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "graph", [], [])),
    )
    entry = tensor.external_data[0].SerializeToString()
    graph = model.graph.SerializeToString()
    for name in ("external_data", "data_location"):
        tensor.ClearField(name)
    model.ClearField("graph")
    location = varint(14 << 3, *next(next_changes)) + varint(TensorProto.EXTERNAL, *next(next_changes))
    return model.SerializeToString() + field(
        7, graph + field(5, tensor.SerializeToString() + field(13, entry) + location)
    )


UNCHANGED = [(0, 0)] * 8


def test_tags_that_some_readers_cut_to_32_bits_are_refused():
    assert has_external_data(encode_external(UNCHANGED))
    graph_tag = [*UNCHANGED]
    graph_tag[6] = (1, 0)
    data = encode_external(graph_tag)
    assert bytes([0xBA, 0x80, 0x80, 0x80, 0x10]) in data
    with pytest.raises(ValueError, match=f"no field has the tag {0x3A + 2**32}"):
        has_external_data(data)


@pytest.mark.parametrize("where", [6, 7])
def test_tags_and_lengths_longer_than_need_be_are_refused(where):
    changes = [*UNCHANGED]
    changes[where] = (0, 1)
    with pytest.raises(ValueError, match=r"no protocol buffer: the tag or length at byte .* is longer than it need be"):
        has_external_data(encode_external(changes))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0, 0, 1, 2, 2**20]), st.integers(0, 2)), min_size=8, max_size=8))
def test_no_other_way_to_write_a_reference_hides_it(changes):
    try:
        assert has_external_data(encode_external(changes))
    except ValueError as error:
        assert str(error).startswith("no protocol buffer: ")  # noqa: PT017  (either is fine)


def test_what_the_runtime_would_take_for_its_own_format_is_refused():
    disguised = b"\x09\x00\x00\x00ORTM\x00" + make_model(VALUES, "initializer")
    onnx.ModelProto.FromString(disguised)  # a protocol buffer as well
    with pytest.raises(ValueError, match="the mark of ONNX Runtime's own format"):
        has_external_data(disguised)
