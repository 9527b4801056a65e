import pytest
from onnx import helper
from torch import nn

from pipeline.compile.builder import CompileError, GraphBuilder
from pipeline.compile.graphs import RULES
from pipeline.compile.lower import lower
from pipeline.compile.rules_refused import REASONS
from pipeline.compile.values import CouplingError, Plain


def refused(op_type: str) -> CompileError:
    graph = GraphBuilder()
    node = helper.make_node(op_type, ["x"], ["y"], name=f"/block/odd/{op_type}")
    model = helper.make_model(helper.make_graph([node], "test", [], []))
    with pytest.raises(CompileError) as caught:
        lower(model, RULES, graph, {"x": Plain(graph.input("x", (2, 3)), is_batched=True)}, ["y"])
    return caught.value


@pytest.mark.parametrize("name", REASONS)
def test_a_refusal_names_the_layer_the_reason_and_the_cure(name):
    reason, cure = REASONS[name]
    error = refused(name)
    assert str(error) == f"layer 'block.odd' ({name}) {reason}; {cure}"
    assert isinstance(error, CouplingError) == ("mixes its examples" in reason)


def test_batch_normalisation_is_refused_by_its_layers_name(compile_module, sandwich):
    with pytest.raises(CouplingError, match=r"layer 'middle' .BatchNormalization. normalises with .*; use GroupNorm"):
        compile_module(sandwich(nn.BatchNorm2d(4)), (4, 1, 4, 4))


def test_operators_that_are_refused_are_not_among_those_to_use_instead():
    names = str(refused("Atan")).partition("operators ")[2].split(", ")
    assert {"Conv", "Gemm", "Relu"} <= set(names)
    assert not REASONS.keys() & set(names)
