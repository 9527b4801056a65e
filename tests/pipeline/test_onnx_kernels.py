import io
import warnings

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from pipeline.onnx_kernels import kernels_of_onnx
from pipeline.packs.networks import network_graphs
from profiles.kernel import Kernel
from search.architecture import Architecture, Stage, Stem
from search.cost import kernels_of


def export(module: nn.Module, *shape: int) -> onnx.ModelProto:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is deprecated, and says so
        torch.onnx.export(module.eval(), torch.zeros(1, *shape), buffer, dynamo=False, opset_version=17)
    return onnx.load_from_string(buffer.getvalue())


def test_a_convolutional_network_has_the_kernels_of_its_layers():
    depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, stride=2)
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), depthwise, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 5)
    )
    found = kernels_of_onnx(export(module, 3, 8, 8))
    assert found.unknown_operators == ()
    assert found.kernels == (
        Kernel("conv", (3, 8, 8), (16, 8, 8), kernel=3, beside="after"),
        Kernel("fused_relu", (16, 8, 8), (16, 8, 8)),
        Kernel("conv", (16, 8, 8), (16, 4, 4), kernel=3, stride=2, groups=16, beside="both"),
        Kernel("max_pool", (16, 4, 4), (16, 2, 2), kernel=2, stride=2, beside="before"),
        Kernel("linear", (64,), (5,)),
    )


def test_a_shipped_model_has_the_kernels_of_its_architecture():
    network = Architecture((3, 8, 8), 5, Stem(8), (Stage("inverted", 8, 2, 3, 1, 2), Stage("depthwise", 12)))
    *found, softmax = kernels_of_onnx(network_graphs(network, 2)["forward"]).kernels
    assert (tuple(found), softmax.kind) == (kernels_of(network), "hard_swish")


def test_products_norms_and_curves_of_a_transformer_count_as_what_does_as_much():
    module = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 12), nn.Tanh())
    kinds = [(one.kind, one.output_shape) for one in kernels_of_onnx(export(module, 7, 6)).kernels]
    assert ("conv", (12, 7, 1)) in kinds
    assert kinds[-1] == ("hard_swish", (7, 12))
    assert "group_norm" in [kind for kind, _ in kinds]


def test_an_operator_that_is_not_known_is_named_and_keeps_its_shapes():
    model = graph([helper.make_node("Det", ["x"], ["y"])], ["batch", 4, 4], ["batch"])
    found = kernels_of_onnx(model)
    assert found.unknown_operators == ("Det",)
    assert found.kernels == (Kernel("Det", (4, 4), (1,)),)


def test_what_does_not_hang_on_the_input_is_left_out_and_so_are_views():
    constant = helper.make_tensor("c", TensorProto.FLOAT, [4], [1.0] * 4)
    nodes = [
        helper.make_node("Constant", [], ["c"], value=constant),
        helper.make_node("Exp", ["c"], ["e"]),
        helper.make_node("Identity", ["x"], ["z"]),
        helper.make_node("Add", ["z", "e"], ["y"]),
    ]
    assert kernels_of_onnx(graph(nodes, [1, 4], [1, 4])).kernels == (Kernel("relu", (4,), (4,)),)


def test_a_size_that_is_not_known_is_told_by_the_inputs_name():
    model = graph([helper.make_node("Relu", ["x"], ["y"])], ["batch", "height"], ["batch", "height"])
    with pytest.raises(ValueError, match="all sizes but the first must be known, 'x'"):
        kernels_of_onnx(model)


def graph(nodes: list[onnx.NodeProto], given: list[int | str], made: list[int | str]) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, made)]
    model = helper.make_model(helper.make_graph(nodes, "a test", inputs, outputs))
    model.opset_import[0].version = 17
    return model


def pooling(**attributes) -> onnx.NodeProto:
    return helper.make_node("AveragePool", ["x"], ["y"], "pool", **attributes)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([pooling(kernel_shape=[2, 2], strides=[0, 0])], r"AveragePool 'pool' has strides \[0, 0\], all must be >= 1"),
        ([pooling(kernel_shape=[0, 2])], r"has kernel_shape \[0, 2\]"),
        ([helper.make_node("Conv", ["x", "x"], ["y"], "split", group=0)], r"Conv 'split' has group 0, must be >= 1"),
        ([helper.make_node("Relu", ["y"], ["y"], "circle")], "Relu 'circle' reads 'y', which nothing before it gives"),
        ([], "must have an input and a node"),
    ],
    ids=["stride", "window", "group", "circle", "nothing"],
)
def test_a_graph_that_cannot_run_is_refused_by_what_is_wrong(nodes, message):
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, 4, 4]) for name in "xy")
    with pytest.raises(ValueError, match=message):
        kernels_of_onnx(helper.make_model(helper.make_graph(nodes, "graph", [x], [y])))


def test_a_graph_without_an_input_is_refused():
    node = helper.make_node("Constant", [], ["y"], value_float=1.0)
    graph = helper.make_graph([node], "graph", [], [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [])])
    with pytest.raises(ValueError, match="must have an input and a node"):
        kernels_of_onnx(helper.make_model(graph))


def test_views_that_read_a_value_twice_do_not_add_up():
    nodes = [helper.make_node("Relu", ["x"], ["v0"])]
    for i in range(40):
        nodes.append(helper.make_node("Shape", [f"v{i}"], [f"s{i}"]))
        nodes.append(helper.make_node("Reshape", [f"v{i}", f"s{i}"], [f"v{i + 1}" if i < 39 else "y"]))
    assert [one.kind for one in kernels_of_onnx(graph(nodes, [1, 4], [1, 4])).kernels] == ["relu"]
