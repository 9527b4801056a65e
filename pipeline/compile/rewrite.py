"""Carry operators that ORT Training cannot differentiate through its compiler, and read them back.

Every operator of the domain `handheld` becomes an `ATen` node, which ORT Training takes for any operator of torch and
whose gradient anybody may register: here an `ATen` node again, of the gradient of the output and all inputs. In its
graph both are given back their names: X and XGrad, with the attributes of X.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from itertools import accumulate

import onnx
from onnx import helper, numpy_helper
from onnxruntime.capi import _pybind_state

from pipeline.compile.symbolic import DOMAIN

_ATEN = "org.pytorch.aten"
_OF_INPUT = {"MaxPoolGrad", "AveragePoolGrad"}  # need the input's shape, which ORT Training's runtime knows otherwise


def write_pads(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give every convolution its padding in numbers, where torch has `same` and `valid`; changed in place."""
    for node in model.graph.node:
        attributes = {a.name: a for a in node.attribute}
        if node.op_type == "Conv" and "auto_pad" in attributes:
            spans = [
                d * (k - 1) for d, k in zip(attributes["dilations"].ints, attributes["kernel_shape"].ints, strict=True)
            ]
            spans = spans if attributes["auto_pad"].s.startswith(b"SAME") else [0 for _ in spans]
            pads = [*(span // 2 for span in spans), *(span - span // 2 for span in spans)]
            node.attribute.remove(attributes["auto_pad"])
            node.attribute.append(helper.make_attribute("pads", pads))
    return model


def write_slices(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put a Slice for each part that is used in the place of every Split that has sizes; changed in place.

    ORT Training joins the gradients of those parts that have one, and takes the others for nothing instead of zeros;
    its own tools make a Split again of Slices that give all parts. A Split without sizes is GLU's, which uses both.
    """
    known = {initializer.name: initializer for initializer in model.graph.initializer}
    known |= {node.output[0]: node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"}
    used = {*_taken(model.graph), *(value.name for value in model.graph.output)}
    nodes = [written for node in model.graph.node for written in _sliced(node, known, used)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for unused in used & known.keys() - {*_taken(model.graph)}:  # sizes of a Split
        if known[unused] in model.graph.initializer:
            model.graph.initializer.remove(known[unused])
    return model


def carry(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the forward graph with `ATen` nodes for the operators of the domain `handheld`."""
    carried = onnx.ModelProto()
    carried.CopyFrom(model)
    for node in carried.graph.node:
        if node.domain == DOMAIN:
            carrier = f"{node.op_type}.{len(node.input)}"
            _register_gradient(carrier, len(node.input))
            node.domain, node.op_type = _ATEN, "ATen"
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("operator", carrier))
    _name_each_use(carried.graph)
    kept = [opset for opset in model.opset_import if opset.domain != DOMAIN]
    del carried.opset_import[:]
    carried.opset_import.extend([*kept, helper.make_opsetid(_ATEN, 1)])
    return carried


def read_back(gradient: onnx.ModelProto, forward: onnx.ModelProto) -> onnx.ModelProto:
    """The gradient graph with the operators of `forward` in place of their carriers, changed in place."""
    originals = {node.name: node for node in forward.graph.node}
    for node in gradient.graph.node:
        original = originals.get(node.name.partition("_Grad/")[0])
        if original is None:
            continue
        if node.domain == _ATEN:
            node.domain = DOMAIN
            node.op_type = original.op_type if node.name == original.name else f"{original.op_type}Grad"
            del node.attribute[:]
            node.attribute.extend(original.attribute)
        elif node.op_type in _OF_INPUT:
            node.input.append(original.input[0])
    return gradient


def _taken(graph: onnx.GraphProto) -> Iterator[str]:
    """What the nodes take, those of branches too."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            yield from _taken(attribute.g)


def _sliced(
    node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto], used: Collection[str]
) -> Iterator[onnx.NodeProto]:
    """The Slices that stand for a Split with sizes; any other node itself."""
    if node.op_type != "Split" or len(node.input) == 1:
        yield node
        return
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    sizes = numpy_helper.to_array(known[node.input[1]]).tolist()
    for part, size, end in zip(node.output, sizes, accumulate(sizes), strict=True):
        if part not in used:
            continue
        bounds = {f"{part}/{what}": at for what, at in (("start", end - size), ("end", end), ("axis", axis))}
        for name, at in bounds.items():
            value = helper.make_tensor(name, onnx.TensorProto.INT64, [1], [at])
            yield helper.make_node("Constant", [], [name], name, value=value)
        yield helper.make_node("Slice", [node.input[0], *bounds], [part], f"{node.name}.{part.rpartition('/')[2]}")


def _name_each_use(graph: onnx.GraphProto) -> None:
    """Name anew what a node takes twice, if no node made it: its gradient would be written twice under one name."""
    made = {name for node in graph.node for name in node.output}
    copies = []
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name and name not in made and name in node.input[:i]:
                node.input[i] = f"{node.name}/{i}/{name}"
                copies.append(helper.make_node("Identity", [name], [node.input[i]], f"{node.name}/Identity_{i}"))
    for copy in copies:
        graph.node.insert(0, copy)


@cache
def _register_gradient(carrier: str, num_inputs: int) -> None:
    definition = _pybind_state.GradientNodeDefinition()
    definition.op_type, definition.domain = "ATen", _ATEN
    definition.inputs = ["GO(0)", *(f"I({i})" for i in range(num_inputs))]
    definition.outputs = [f"GI({i})" for i in range(num_inputs)]
    operator = _pybind_state.GradientNodeAttributeDefinition()
    operator.name, operator.dtype, operator.is_tensor = "operator", "string", False
    operator.value_json = json.dumps(f"{carrier}Grad")
    definition.attributes = [operator]
    _pybind_state.register_gradient_definition(f"{_ATEN}::ATen::{carrier}::", [definition])
