"""The graphs of one kernel: what one layer adds to a shipped model, to evaluate.onnx and to gradient.onnx.

A gradient graph gets the layer's input and the gradient of its output, and gives everything that the layer adds to the
step: its output, the gradient of its input, the examples' squared norms and the clipped sum of its parameters. What is
read n times gets n gradients, whose sum counts with the addition or the mix of what was made of it.
"""

from collections.abc import Callable
from functools import reduce
from math import prod
from typing import cast

import numpy as np
import onnx
import torch
from onnx import helper
from torch import nn

from pipeline.compile.builder import CompileError, GraphBuilder, Tensor
from pipeline.compile.export import LOGITS, Forward, export_forward, gradient_graph
from pipeline.compile.graphs import RULES
from pipeline.compile.losses import LossTerms, cross_entropy
from pipeline.compile.lower import Node, lower
from pipeline.compile.rules_elementwise import plain
from pipeline.compile.values import ExampleSum, Plain, Value, reshape
from pipeline.network import Choice, Concatenate, Mix, build_module
from profiles.schema import JOINING, Direction, Kernel
from search.layers import INPUT, Layer, LayerKind

CALL = Kernel("call", (1,), (1,))  # nothing but a run of a graph
_NODE = Node("Identity", "kernel", ("output",), {})
_WEIGHT = 0.01  # of constant weights: no time depends on it, and the graph stays small
_KINDS: dict[str, LayerKind] = {
    "conv": "conv",
    "first_conv": "conv",
    "group_norm": "group_norm",
    "relu": "relu",
    "hard_swish": "hard_swish",
    "max_pool": "max_pool",
    "average_pool": "average_pool",
    "mix": "mix",
    "concat": "concat",
    "global_average": "global_average",
    "linear": "linear",
}


def kernel_graph(kernel: Kernel, batch_size: int, direction: Direction) -> onnx.ModelProto:
    """One kernel for a batch as a plain graph; its inputs may hold any values.

    Raises:
        CompileError: For a kind of kernel that is not known.
    """
    graphs: dict[tuple[str, Direction], Callable[[Kernel, int], onnx.ModelProto]] = {
        ("call", "forward"): _call,
        ("average_pool", "forward"): _average_pool_forward,
        ("add", "forward"): _add_forward,
        ("add", "evaluate"): _add_forward,
        ("add", "gradient"): _add_gradient,
        ("cross_entropy", "evaluate"): _loss_evaluate,
        ("cross_entropy", "gradient"): _loss_gradient,
    }
    if kernel.kind in _KINDS:
        layers = {"forward": _layer_forward, "evaluate": _layer_evaluate, "gradient": _layer_gradient}
        return graphs.get((kernel.kind, direction), layers[direction])(kernel, batch_size)
    if (kernel.kind, direction) not in graphs:
        known = ", ".join(sorted({*_KINDS, *(kind for kind, _ in graphs)}))
        raise CompileError(f"kernel kind must be one of {known}, got {kernel.kind!r} ({direction})")
    return graphs[kernel.kind, direction](kernel, batch_size)


def _layer_forward(kernel: Kernel, batch_size: int) -> onnx.ModelProto:
    """As in a shipped model: the parameters are constants."""
    graph, forward = GraphBuilder(), _export(kernel, batch_size)
    parameters: dict[str, Value] = {
        name: Plain(graph.input(name, shape), is_batched=False) for name, shape in forward.parameters.items()
    }
    (y,) = lower(forward.model, RULES, graph, parameters | _inputs(graph, kernel, batch_size), [LOGITS])
    model = graph.to_model({"y": _tensor(y)}, "forward")
    _fix_inputs(model, set(parameters))
    return model


def _layer_evaluate(kernel: Kernel, batch_size: int) -> onnx.ModelProto:
    """As in evaluate.onnx: the parameters are cut from a vector."""
    graph, forward = GraphBuilder(), _export(kernel, batch_size)
    known = _inputs(graph, kernel, batch_size) | _split_parameters(graph, forward)
    (y,) = lower(forward.model, RULES, graph, known, [LOGITS])
    return graph.to_model({"y": _tensor(y)}, "evaluate")


def _layer_gradient(kernel: Kernel, batch_size: int) -> onnx.ModelProto:
    graph, forward = GraphBuilder(), _export(kernel, batch_size)
    known = _inputs(graph, kernel, batch_size)
    inputs = [] if kernel.kind == "first_conv" else list(known)
    known[f"{LOGITS}_grad"] = _examples(graph, "dy", kernel.output_shape, batch_size)
    known |= _split_parameters(graph, forward)
    wanted = [LOGITS, *(f"{name}_grad" for name in (*inputs, *forward.parameters))]
    y, *found = lower(gradient_graph(forward, by=inputs), RULES, graph, known, wanted)
    gradients = {f"d{name}": _tensor(value) for name, value in zip(inputs, found, strict=False)}
    if kernel.kind == "mix":
        gradients = {"dx": graph.op("Sum", *gradients.values())}
    shares = [_share(value) for value in found[len(inputs) :]]
    return graph.to_model({"y": _tensor(y), **gradients, **_clip_and_sum(graph, shares, batch_size)}, "gradient")


def _clip_and_sum(graph: GraphBuilder, shares: list[ExampleSum], batch_size: int) -> dict[str, Tensor]:
    """What a step does with the parameters' gradients once they are there."""
    if not shares:
        return {}
    factors, segment = graph.input("factors", (batch_size,)), graph.input("segment_weight", (1,))
    sums = [graph.op("Mul", share.weighted_sum(graph, factors), segment) for share in shares]
    return {
        "squared_norms": graph.op("Sum", *(share.squared_norms(graph) for share in shares)),
        "gradient_sum": graph.op("Concat", *sums, axis=0),
    }


def _call(kernel: Kernel, batch_size: int) -> onnx.ModelProto:
    graph = GraphBuilder()
    return graph.to_model({"y": graph.input("x", (batch_size, *kernel.input_shape))}, "call")


def _average_pool_forward(kernel: Kernel, batch_size: int) -> onnx.ModelProto:
    """As the shipped model has it; a step multiplies by matrices."""
    graph = GraphBuilder()
    x = graph.input("x", (batch_size, *kernel.input_shape))
    window = {"kernel_shape": [kernel.kernel] * 2, "strides": [kernel.stride] * 2, "pads": [kernel.kernel // 2] * 4}
    return graph.to_model({"y": graph.op("AveragePool", x, **window, count_include_pad=0)}, "forward")


def _add_forward(kernel: Kernel, batch_size: int) -> onnx.ModelProto:
    graph = GraphBuilder()
    return graph.to_model({"y": _added(graph, kernel, batch_size, ("x", "other"))}, "forward")


def _add_gradient(kernel: Kernel, batch_size: int) -> onnx.ModelProto:
    """The addition, and behind it the sum of the gradients of what was used as often."""
    graph = GraphBuilder()
    y = _added(graph, kernel, batch_size, ("x", "other"))
    return graph.to_model({"y": y, "dx": _added(graph, kernel, batch_size, ("dy", "dy_other"))}, "gradient")


def _added(graph: GraphBuilder, kernel: Kernel, batch_size: int, names: tuple[str, str]) -> Tensor:
    """The sum of the first, the other, and so on."""
    first, other = names
    more = [f"{other}_{i}" for i in range(2, kernel.num_inputs)]
    return reduce(
        lambda left, right: graph.op("Add", left, right),
        [graph.input(name, (batch_size, *kernel.input_shape)) for name in (first, other, *more)],
    )


def _loss_evaluate(kernel: Kernel, batch_size: int) -> onnx.ModelProto:
    graph = GraphBuilder()
    terms = _loss(graph, kernel, batch_size)
    return graph.to_model({"losses": terms.losses, "metrics": terms.metric}, "evaluate")


def _loss_gradient(kernel: Kernel, batch_size: int) -> onnx.ModelProto:
    """Loss and its gradient, then norms and clip factors from the sum of the layers' squared norms."""
    graph = GraphBuilder()
    terms = _loss(graph, kernel, batch_size)
    mask, squares = graph.input("mask", (batch_size,)), graph.input("squared_norms", (batch_size,))
    norms, clip = graph.op("Sqrt", graph.op("Abs", squares)), graph.input("max_grad_norm", ())
    zero, one = graph.constant(0.0, np.float32), graph.constant(1.0, np.float32)
    is_counted = graph.op("Greater", mask, zero)
    factors = graph.op("Min", graph.op("Div", clip, norms), one)
    loss_sum = graph.op("ReduceSum", graph.op("Where", is_counted, terms.losses, zero), keepdims=0)
    outputs = {"dlogits": terms.gradient, "loss_sum": loss_sum, "norms": graph.op("Where", is_counted, norms, zero)}
    return graph.to_model({**outputs, "factors": graph.op("Where", is_counted, factors, zero)}, "gradient")


def _loss(graph: GraphBuilder, kernel: Kernel, batch_size: int) -> LossTerms:
    """Of logits and labels that are inputs."""
    logits = graph.input("logits", (batch_size, *kernel.input_shape))
    return cross_entropy(graph, logits, graph.input("y", (batch_size,), np.int64))


class _Joined(nn.Module):
    """A layer of several inputs, and of a mix the choice."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        is_mix = kernel.kind == "mix"
        self.layer = Mix(tuple(range(kernel.num_inputs))) if is_mix else Concatenate()
        self.choice = Choice(kernel.num_inputs) if is_mix else None

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """[batch, channels, height, width] each."""
        shares = [] if self.choice is None else [self.choice()]
        return cast(torch.Tensor, self.layer(*inputs, *shares))


def _export(kernel: Kernel, batch_size: int) -> Forward:
    """The kernel as a network of one layer; its parameters are called `layer.weight` and `layer.bias`."""
    examples = dict.fromkeys(_input_names(kernel), torch.zeros((batch_size, *kernel.input_shape)))
    if kernel.kind in JOINING:
        return export_forward(_Joined(kernel), examples)
    has_bias = kernel.kind in {"conv", "first_conv", "linear", "group_norm"}
    shapes = kernel.input_shape, kernel.output_shape
    window = kernel.kernel, kernel.stride, kernel.groups
    layer = Layer("layer", _KINDS[kernel.kind], (INPUT,), *shapes, *window, has_bias, kernel.dilation)
    return export_forward(build_module((layer,)), examples)


def _input_names(kernel: Kernel) -> tuple[str, ...]:
    return tuple(f"x{i}" for i in range(kernel.num_inputs)) if kernel.kind in JOINING else ("x",)


def _inputs(graph: GraphBuilder, kernel: Kernel, batch_size: int) -> dict[str, Value]:
    return {name: _examples(graph, name, kernel.input_shape, batch_size) for name in _input_names(kernel)}


def _fix_inputs(model: onnx.ModelProto, names: set[str]) -> None:
    """Make inputs constants that are filled when the graph is loaded: a pack would be large with all their values."""
    fills: list[onnx.NodeProto] = []
    for value in [value for value in model.graph.input if value.name in names]:
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        shape = helper.make_tensor(f"{value.name}.shape", onnx.TensorProto.INT64, [len(sizes)], sizes)
        model.graph.input.remove(value)
        model.graph.initializer.append(shape)
        fill = helper.make_tensor("value", onnx.TensorProto.FLOAT, [1], [_WEIGHT])
        fills.append(helper.make_node("ConstantOfShape", [shape.name], [value.name], value=fill))
    nodes = [*fills, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _examples(graph: GraphBuilder, name: str, shape: tuple[int, ...], batch_size: int) -> Plain:
    return Plain(graph.input(name, (batch_size, *shape)), is_batched=True)


def _split_parameters(graph: GraphBuilder, forward: Forward) -> dict[str, Value]:
    if not forward.parameters:
        return {}
    sizes = np.array([prod(shape) for shape in forward.parameters.values()], np.int64)
    flat = graph.input("parameters", (int(sizes.sum()),))
    parts = graph.ops("Split", flat, graph.constant(sizes), num_outputs=len(sizes), axis=0)
    named = zip(forward.parameters.items(), parts, strict=True)
    return {name: Plain(reshape(graph, part, shape), is_batched=False) for (name, shape), part in named}


def _tensor(value: Value) -> Tensor:
    return plain(_NODE, value).tensor


def _share(value: Value) -> ExampleSum:
    if not isinstance(value, ExampleSum):
        raise TypeError("a parameter's gradient must be a sum over examples")
    return value
