"""From a torch module to ONNX: the forward graph, and ORT Training's gradient graph of its summed loss."""

import io
import warnings
from dataclasses import dataclass

import onnx
import torch
from onnx import TensorProto, helper
from onnxruntime.capi import _pybind_state

from pipeline.compile.builder import CompileError
from pipeline.compile.quiet import quiet_native_log

EXPORT_OPSET = 15  # the last whose operators ORT Training 1.19.2 differentiates throughout
TRAINING_IR_VERSION = 8
LOGITS, LABELS, LOSS, LOG_PROB = "logits", "y", "loss", "log_prob"


@dataclass(frozen=True)
class Forward:
    """A forward graph with a fixed batch.

    Attributes:
        model: Inputs `x` and the parameters as initializers under the module's own names; output `logits`.
        parameters: Names and shapes in layout order (the module's).
    """

    model: onnx.ModelProto
    parameters: dict[str, tuple[int, ...]]


def export_forward(module: torch.nn.Module, example: torch.Tensor) -> Forward:
    """Trace `module` on a batch [B, ...] with the TorchScript exporter, which keeps parameter names."""
    buffer = io.BytesIO()
    module = module.train()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter that keeps names is deprecated, and says so by the page
        torch.onnx.export(
            module,
            (example,),
            buffer,  # type: ignore[arg-type]  # the stub leaves out file objects, which this exporter takes
            dynamo=False,
            opset_version=EXPORT_OPSET,
            do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            input_names=["x"],
            output_names=[LOGITS],
        )
    model = onnx.load_from_string(buffer.getvalue())
    model.ir_version = TRAINING_IR_VERSION
    parameters = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    found = {initializer.name for initializer in model.graph.initializer}
    if missing := [name for name in parameters if name not in found]:
        raise CompileError(f"parameters {missing} do not reach the output; remove them or use them in forward")
    return Forward(model, parameters)


def gradient_graph(forward: Forward) -> onnx.ModelProto:
    """ORT Training's graph of the cross-entropy summed over the batch and of its gradients `NAME_grad`."""
    model = onnx.ModelProto()
    model.CopyFrom(forward.model)
    graph = model.graph
    batch = graph.input[0].type.tensor_type.shape.dim[0].dim_value
    trained = [initializer for initializer in graph.initializer if initializer.name in forward.parameters]
    for initializer in trained:
        # The builder differentiates by graph inputs; the values are no business of the graph.
        graph.input.append(helper.make_tensor_value_info(initializer.name, initializer.data_type, initializer.dims))
        graph.initializer.remove(initializer)
    graph.input.append(helper.make_tensor_value_info(LABELS, TensorProto.INT64, [batch]))
    graph.node.append(
        helper.make_node("SoftmaxCrossEntropyLoss", [LOGITS, LABELS], [LOSS, LOG_PROB], reduction="sum", name="loss")
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(LOSS, TensorProto.FLOAT, []))
    try:
        with quiet_native_log():
            builder = _pybind_state.GradientGraphBuilder(
                model.SerializeToString(), {LOSS}, set(forward.parameters), LOSS, None
            )
            builder.build()
    except RuntimeError as error:
        reason = str(error).rpartition("was false. ")[2].strip()  # after the source file and signature
        raise CompileError(f"ORT Training cannot differentiate the network: {reason}; replace that layer") from error
    return onnx.load_from_string(builder.get_model())
