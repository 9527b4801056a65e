"""From a torch module to ONNX: the forward graph, and ORT Training's graph of the gradients by its parameters."""

import io
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import onnx
import torch
from onnx import helper
from onnxruntime.capi import _pybind_state
from torch.onnx import OnnxExporterError

from pipeline.compile import symbolics_primitive
from pipeline.compile.builder import CompileError
from pipeline.compile.constant_folding import fold_constants
from pipeline.compile.lower import layer_name
from pipeline.compile.quiet import quiet_native_log
from pipeline.compile.rewrite import carry, read_back, write_pads
from pipeline.compile.symbolic import exporting
from pipeline.compile.symbolics import layers_as_operators

EXPORT_OPSET = 15  # the last whose operators ORT Training 1.19.2 differentiates throughout
TRAINING_IR_VERSION = 8
LOGITS = "logits"


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


def export_forward(module: torch.nn.Module, examples: Mapping[str, torch.Tensor]) -> Forward:
    """Trace `module` on a batch with the TorchScript exporter, which keeps parameter names and modes.

    Args:
        examples: [B, ...] by input name, in the order that `forward` takes them.
    """
    with layers_as_operators(EXPORT_OPSET), _by_layer(module, examples):
        model = fold_constants(write_pads(_trace(module, examples)))
    return _forward_of(model, module)


def export_plain(module: torch.nn.Module, examples: Mapping[str, torch.Tensor]) -> Forward:
    """Like `export_forward`, in operators of ONNX alone: what ORT Training's own tools read."""
    with exporting(symbolics_primitive.SYMBOLICS, EXPORT_OPSET):
        return _forward_of(_trace(module, examples), module)


def _trace(module: torch.nn.Module, examples: Mapping[str, torch.Tensor]) -> onnx.ModelProto:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad(), quiet_native_log(), layer_by_layer():
        warnings.simplefilter("ignore")  # the exporter that keeps names is deprecated, and says so by the page
        torch.onnx.export(
            module,
            tuple(examples.values()),
            buffer,  # type: ignore[arg-type]  # the stub leaves out file objects, which this exporter takes
            dynamo=False,
            opset_version=EXPORT_OPSET,
            do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            input_names=list(examples),
            output_names=[LOGITS],
        )
    return onnx.load_from_string(buffer.getvalue())


def _forward_of(model: onnx.ModelProto, module: torch.nn.Module) -> Forward:
    model.ir_version = TRAINING_IR_VERSION
    if len(model.graph.output) != 1:
        raise CompileError(f"forward must return one tensor, the logits; it returns {len(model.graph.output)}")
    trained = {name: tuple(value.shape) for name, value in module.named_parameters() if value.requires_grad}
    return Forward(model, trained)


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
