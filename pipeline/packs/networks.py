"""The graphs of one network, as it is shipped, in evaluate.onnx and in gradient.onnx, with nodes named by kernel.

They are the graphs of `handheld ship` and of an artifact, from the same functions, but for names and for parameters:
those of the shipped model are filled in when the graph is loaded, or a pack would be large with all their values.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from device_runtime.measurement_pack import CALL_KIND
from pipeline.compile.builder import GraphBuilder
from pipeline.compile.export import export_forward
from pipeline.compile.graphs import evaluate_model, gradient_model
from pipeline.compile.losses import Loss
from pipeline.compile.segments import layout_of
from pipeline.compile.writing import one_thread
from pipeline.network import build_module
from pipeline.ship.network import TrainedNetwork
from pipeline.ship.onnx_export import model_of
from profiles.kernel import Kernel
from profiles.schema import Direction
from search.architecture import Architecture
from search.cost import WITHOUT_WORK
from search.layers import Layer, layers_of

CALL = Kernel(CALL_KIND, (1,), (1,))  # nothing but a run of a graph
_WEIGHT = 0.01  # of the shipped model's parameters: no time depends on it
_SMALL = 64  # values that stay in the file


def network_graphs(architecture: Architecture, batch_size: int) -> dict[Direction, onnx.ModelProto]:
    """A network's graphs: `forward` for one example, the others for `batch_size`; inputs may hold any values.

    Raises:
        CompileError: The network cannot be compiled.
    """
    module = build_module(_named_by_kernel(layers_of(architecture)))
    with one_thread():
        forward = export_forward(module, {"x": torch.zeros(batch_size, *architecture.input_shape)})
        layout = layout_of(forward, {})
    return {
        "forward": _shipped(module, architecture),
        "evaluate": evaluate_model(forward, layout, Loss(), by_layer=True),
        "gradient": gradient_model(forward, layout, Loss(), by_layer=True).model,
    }


def call_graph() -> onnx.ModelProto:
    """A graph in which nothing happens."""
    graph = GraphBuilder("k0")
    return graph.to_model({"y": graph.input("x", (1, *CALL.input_shape))}, CALL_KIND)


def _shipped(module: torch.nn.Module, architecture: Architecture) -> onnx.ModelProto:
    with one_thread():
        shipped = model_of(TrainedNetwork(module, architecture.input_shape).eval())
    _empty(shipped)
    _write_out_hard_swish(shipped.graph)
    _name_fused_values(shipped.graph)
    return shipped


def _named_by_kernel(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The layers under names that tell the places of their kernels in the lists of `search.cost`.

    What is no kernel counts with those that read it.
    """
    places = iter(range(len(layers)))
    owners = {layer.name: f"k{next(places)}" for layer in layers if layer.kind not in WITHOUT_WORK}
    names = dict(owners)
    for i, layer in reversed(list(enumerate(layers))):
        if layer.name not in owners:
            owners[layer.name] = "".join(_unique(owners[one.name] for one in layers if layer.name in one.inputs))
            names[layer.name] = f"{owners[layer.name]}_{i}"
    return tuple(
        replace(layer, name=names[layer.name], inputs=tuple(names.get(name, name) for name in layer.inputs))
        for layer in layers
    )


def _unique(names: Iterable[str]) -> list[str]:
    return [*dict.fromkeys(names)]


def _empty(model: onnx.ModelProto) -> None:
    """Put nodes that make a tensor of its shape in the place of all large parameters."""
    graph, fills = model.graph, []
    for tensor in [one for one in graph.initializer if _is_large(one)]:
        shape = numpy_helper.from_array(np.array(tensor.dims, np.int64), f"{tensor.name}.shape")
        fill = helper.make_tensor("value", onnx.TensorProto.FLOAT, [1], [_WEIGHT])
        fills.append(helper.make_node("ConstantOfShape", [shape.name], [tensor.name], value=fill))
        graph.initializer.remove(tensor)
        graph.initializer.append(shape)
    nodes = [*fills, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _write_out_hard_swish(graph: onnx.GraphProto) -> None:
    """As ONNX Runtime does when it opens the graph, which leaves what it makes without a name."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "HardSwish":
            nodes.append(node)
            continue
        (x,), (y,), gate = node.input, node.output, f"{node.name}/HardSigmoid"
        nodes.append(helper.make_node("HardSigmoid", [x], [gate], gate, alpha=1 / 6, beta=0.5))
        nodes.append(helper.make_node("Mul", [x, gate], [y], f"{node.name}/Mul"))
    del graph.node[:]
    graph.node.extend(nodes)


def _name_fused_values(graph: onnx.GraphProto) -> None:
    """Name a relu's output after the convolution before it: the runtime names what it fuses after what it gives."""
    convolutions = {node.output[0] for node in graph.node if node.op_type == "Conv"}
    pairs = [(node.output[0], node.input[0]) for node in graph.node if node.op_type == "Relu"]
    renamed = {y: f"{x}_relu" for y, x in pairs if x in convolutions}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]


def _is_large(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == onnx.TensorProto.FLOAT and int(np.prod(tensor.dims)) > _SMALL
