"""Write `model.onnx` in standard operators, and `model.ort` from it, for ONNX Runtime."""

import io
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from pipeline.compile.builder import IR_VERSION, OPSET
from pipeline.compile.constant_folding import fold_constants
from pipeline.ship.network import INPUT, OUTPUTS, TrainedNetwork
from pipeline.ship.quiet import quiet_exporters

ONNX, ORT, OPERATORS = "model.onnx", "model.ort", "model.required_operators.config"
BATCH = "batch"


def write_onnx(network: TrainedNetwork, folder: Path) -> None:
    """Write `model.onnx` for batches of any size (the dimension `batch`)."""
    (folder / ONNX).write_bytes(model_of(network).SerializeToString(deterministic=True))


def model_of(network: TrainedNetwork) -> onnx.ModelProto:
    """What `model.onnx` holds."""
    model = _trace(network)
    _free_batch(model.graph)
    model.ir_version = IR_VERSION
    model.graph.name = "model"
    onnx.checker.check_model(model, full_check=True)
    return model


def write_ort(_network: TrainedNetwork, folder: Path) -> None:
    """Write `model.ort` and the operators that a runtime built for it alone needs, from `model.onnx` beside it.

    Optimised for any processor: the layout that suits x86 alone is left out. ONNX Runtime 1.19.2 writes its tables in
    another order each time, so this file's bytes are not reproducible.
    """
    with quiet_exporters(), redirect_stdout(io.StringIO()):
        # Its import sets up logging, so it comes late.
        from onnxruntime.tools import convert_onnx_models_to_ort as tool  # noqa: PLC0415

        tool.convert_onnx_models_to_ort(folder / ONNX, optimization_styles=[tool.OptimizationStyle.Fixed])
    operators = folder / OPERATORS
    # The tool notes the path of the folder it worked in.
    operators.write_text(operators.read_text(encoding="utf-8").replace(f"{folder.resolve()}/", ""), encoding="utf-8")


def _trace(network: TrainedNetwork) -> onnx.ModelProto:
    buffer = io.BytesIO()
    with quiet_exporters(), torch.no_grad():
        torch.onnx.export(
            network,
            (network.one_example(),),
            buffer,  # type: ignore[arg-type]  # the stub leaves out file objects, which this exporter takes
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
        )
    return fold_constants(onnx.load_from_string(buffer.getvalue()))


def _free_batch(graph: onnx.GraphProto) -> None:
    """Let a graph traced with one example take any number.

    Traced with a free batch, each reshape computes its shape at run time, which makes a small network with group
    normalisation 1.5 times as slow. Of one example, all that fixes the batch is the 1 in front of each constant shape
    (parameters are folded by then); a 0 there means "as it comes".
    """
    constants = {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    for node in graph.node:
        if node.op_type == "Reshape" and node.input[1] in constants:
            tensor = constants[node.input[1]]
            shape = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.concatenate([[0], shape[1:]]).astype(np.int64), tensor.name))
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    del graph.value_info[:]
