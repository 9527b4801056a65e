"""From a torch module to ONNX: the forward graph, and ORT Training's graph of the gradients by its parameters."""

import io
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from onnxruntime.capi import _pybind_state
from torch.onnx import OnnxExporterError

from device_runtime.arrays import Vector
from pipeline.compile import symbolics_primitive
from pipeline.compile.builder import CompileError
from pipeline.compile.constant_folding import fold_constants
from pipeline.compile.lower import layer_name
from pipeline.compile.quiet import quiet_native_log
from pipeline.compile.rewrite import carry, read_back, write_pads, write_slices
from pipeline.compile.symbolic import exporting
from pipeline.compile.symbolics import layers_as_operators

EXPORT_OPSET = 15  # the last whose operators ORT Training 1.19.2 differentiates throughout
TRAINING_IR_VERSION = 8
LOGITS = "logits"
FROZEN_LIMIT = 4096  # elements; a larger tensor that is not trained is an input, so that artifacts can share its values


@dataclass(frozen=True)
class Forward:
    """A forward graph with a fixed batch.

    Attributes:
        model: Its inputs are `x`, or `x.NAME` where there are several; parameters, frozen ones and buffers are
            initializers under the module's own names; output `logits`.
        parameters: Names and shapes of what is trained, in layout order (the module's); a shared tensor once, under
            its first name.
    """

    model: onnx.ModelProto
    parameters: dict[str, tuple[int, ...]]

    @cached_property
    def frozen_inputs(self) -> dict[str, Vector]:
        """What is not trained and too large to be a constant of the graphs, by name; the inputs `frozen.NAME`."""
        found = {}
        for initializer in self.model.graph.initializer:
            is_float = initializer.data_type == onnx.TensorProto.FLOAT
            if initializer.name not in self.parameters and is_float and prod(initializer.dims) > FROZEN_LIMIT:
                array = numpy_helper.to_array(initializer)
                if np.isfinite(array).all():  # a mask of -inf is no weight: the file holds numbers
                    found[initializer.name] = array
        return dict(sorted(found.items()))


def export_forward(module: torch.nn.Module, examples: Mapping[str, torch.Tensor]) -> Forward:
    """Trace `module` on a batch with the TorchScript exporter, which keeps parameter names and modes.

    Args:
        examples: [B, ...] by input name, in the order that `forward` takes them.

    Raises:
        CompileError: An operator cannot be written, or a parameter has the name of another value of the graphs.
    """
    _check_names(module, examples)
    with layers_as_operators(EXPORT_OPSET), _by_layer(module, examples):
        model = fold_constants(write_pads(_trace(module, examples)))
    return _forward_of(model, module)


def export_plain(module: torch.nn.Module, examples: Mapping[str, torch.Tensor]) -> Forward:
    """Like `export_forward`, in operators of ONNX alone: what ORT Training's own tools read."""
    with exporting(symbolics_primitive.SYMBOLICS, EXPORT_OPSET):
        return _forward_of(_trace(module, examples), module)


def _trace(module: torch.nn.Module, examples: Mapping[str, torch.Tensor]) -> onnx.ModelProto:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad(), quiet_native_log(), layer_by_layer(), _given_alone(module):
        warnings.simplefilter("ignore")  # the exporter that keeps names is deprecated, and says so by the page
        torch.onnx.export(
            module,
            tuple(examples.values()),
            buffer,  # type: ignore[arg-type]  # the stub leaves out file objects, which this exporter takes
            dynamo=False,
            opset_version=EXPORT_OPSET,
            do_constant_folding=False,
            # Otherwise a module in evaluation mode has one tensor for all parameters of equal values.
            keep_initializers_as_inputs=True,
            training=torch.onnx.TrainingMode.PRESERVE,
            input_names=list(examples),
            output_names=[LOGITS],
        )
    model = onnx.load_from_string(buffer.getvalue())
    used = [value for value in model.graph.input if value.name in examples]
    del model.graph.input[:]
    model.graph.input.extend(used)
    if unused := examples.keys() - {value.name for value in used}:
        raise CompileError(f"forward does not use its input {min(unused).removeprefix('x.')!r}; leave it out")
    return write_slices(model)


def _forward_of(model: onnx.ModelProto, module: torch.nn.Module) -> Forward:
    model.ir_version = TRAINING_IR_VERSION
    if len(model.graph.output) != 1:
        raise CompileError(f"forward must return one tensor, the logits; it returns {len(model.graph.output)}")
    trained = {name: tuple(value.shape) for name, value in module.named_parameters() if value.requires_grad}
    return Forward(model, trained)


def _check_names(module: torch.nn.Module, examples: Mapping[str, torch.Tensor]) -> None:
    """Refuse what the exporter or the gradient builder would rename or mix up."""
    trained = {name for name, value in module.named_parameters() if value.requires_grad}
    others = {name for name, _ in [*module.named_parameters(), *module.named_buffers()]}
    gradients = {f"{name}_grad" for name in (*trained, LOGITS)}
    if taken := sorted(trained & {*examples, LOGITS} | others & gradients):
        raise CompileError(f"{taken[0]!r} is the name of another value of the graphs; name that parameter otherwise")


@contextmanager
def _given_alone(module: torch.nn.Module) -> Iterator[None]:
    """Without the arguments that have defaults: the exporter passes them too, by position and as examples."""
    forward, own = module.forward, vars(module).get("forward")

    def given_alone(*inputs: torch.Tensor) -> Any:
        return forward(*inputs)

    module.forward = given_alone
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


@contextmanager
def layer_by_layer() -> Iterator[None]:
    """Without the fused operators of attention in evaluation mode, which have no gradient."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _by_layer(module: torch.nn.Module, examples: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Name the layer whose operator the exporter does not know."""
    try:
        yield
    except OnnxExporterError as error:
        found = re.search(r"aten::(\w+)|operator (\w+)", str(error))
        operator = next(filter(None, found.groups())) if found else "an operator"
        trace = torch.jit.trace(module, tuple(examples.values()), check_trace=False)  # type: ignore[no-untyped-call]
        scopes = [node.scopeName() for node in trace.inlined_graph.nodes() if node.kind() == f"aten::{operator}"]
        layer = scopes[0].rpartition("__module.")[2].removeprefix("__module") if scopes else ""
        raise CompileError(
            f"layer {layer or 'forward'!r} ({operator}) cannot be written as ONNX; replace that layer"
        ) from error


def gradient_graph(forward: Forward, by: Collection[str] = ()) -> onnx.ModelProto:
    """ORT Training's graph of `NAME_grad` for each parameter (and input named in `by`), from a given `logits_grad`.

    A parameter that does not reach the logits has no gradient in it.
    """
    model = carry(forward.model)
    graph = model.graph
    trained = [initializer for initializer in graph.initializer if initializer.name in forward.parameters]
    for initializer in trained:
        # The builder differentiates by graph inputs; the values are no business of the graph.
        graph.input.append(helper.make_tensor_value_info(initializer.name, initializer.data_type, initializer.dims))
        graph.initializer.remove(initializer)
    names = {*by, *(initializer.name for initializer in trained)}
    try:
        with quiet_native_log():
            builder = _pybind_state.GradientGraphBuilder(model.SerializeToString(), {LOGITS}, names, "", None)
            builder.build()
    except RuntimeError as error:
        reason, _, node = str(error).rpartition("was false. ")[2].strip().partition(" for node ")
        layer = layer_name(node) if node else "the network"
        raise CompileError(
            f"layer {layer!r}: ORT Training cannot differentiate it: {reason}; replace that layer"
        ) from error
    return read_back(onnx.load_from_string(builder.get_model()), forward.model)
