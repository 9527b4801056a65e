import onnx
import pytest

from pipeline.ship.onnx_export import write_onnx, write_ort
from search.architecture import Architecture, Stage, Stem

NORMALIZED = Architecture((1, 8, 8), 10, Stem(4), (Stage("inverted", 4, 1, 3, 1, 2),), "flatten", "group", "hard_swish")


@pytest.fixture(scope="module")
def folder(untrained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    network = untrained(NORMALIZED)
    write_onnx(network, folder)
    write_ort(network, folder)
    return folder


def test_the_graph_has_standard_operators_of_opset_17_and_any_batch(folder):
    model = onnx.load(folder / "model.onnx")
    assert model.ir_version == 8
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    values = {value.name: value.type.tensor_type.shape.dim for value in (*model.graph.input, *model.graph.output)}
    assert {name: [dim.dim_param or dim.dim_value for dim in dims] for name, dims in values.items()} == {
        "x": ["batch", 1, 8, 8],
        "logits": ["batch", 10],
        "probabilities": ["batch", 10],
    }


def test_no_shape_is_computed_at_run_time(folder):
    operators = {node.op_type for node in onnx.load(folder / "model.onnx").graph.node}
    assert "Reshape" in operators
    assert not operators & {"Shape", "Gather", "Concat", "Unsqueeze"}


def test_the_required_operators_name_what_is_needed_and_no_folder(folder):
    lines = (folder / "model.required_operators.config").read_text().splitlines()
    assert lines[:2] == ["# Generated from model/s:", "# - model.ort"]
    operators = {name for line in lines if line.startswith("ai.onnx;") for name in line.split(";")[2].split(",")}
    assert {"Conv", "Gemm", "Reshape", "Softmax"} <= operators


def test_writing_says_nothing(untrained, tmp_path, capfd, recwarn):
    network = untrained(NORMALIZED)
    write_onnx(network, tmp_path)
    write_ort(network, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []
