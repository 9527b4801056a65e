"""From a torch module to ONNX: the forward graph, and ORT Training's graph of the gradients by its parameters."""

import io
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx
import torch
from onnx import helper
from onnxruntime.capi import _pybind_state

from pipeline.compile.builder import CompileError
from pipeline.compile.quiet import quiet_native_log

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
    """Trace `module` on a batch with the TorchScript exporter, which keeps parameter names.

    Args:
        examples: [B, ...] by input name, in the order that `forward` takes them.
    """
    buffer = io.BytesIO()
    module = module.train()
    with warnings.catch_warnings(), torch.no_grad():
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
    model = onnx.load_from_string(buffer.getvalue())
    model.ir_version = TRAINING_IR_VERSION
    if len(model.graph.output) != 1:
        raise CompileError(f"forward must return one tensor, the logits; it returns {len(model.graph.output)}")
    trained = {name: tuple(value.shape) for name, value in module.named_parameters() if value.requires_grad}
    return Forward(model, trained)


def gradient_graph(forward: Forward, by: Collection[str] = ()) -> onnx.ModelProto:
    """ORT Training's graph of `NAME_grad` for each parameter (and input named in `by`), from a given `logits_grad`.

    A parameter that does not reach the logits has no gradient in it.
    """
    model = onnx.ModelProto()
    model.CopyFrom(forward.model)
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
        reason = str(error).rpartition("was false. ")[2].strip()  # after the source file and signature
        raise CompileError(f"ORT Training cannot differentiate the network: {reason}; replace that layer") from error
    return onnx.load_from_string(builder.get_model())
