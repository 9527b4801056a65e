"""The classic ONNX Runtime Training files, for apps that stay on its last release (1.19.2)."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from onnxruntime.training import artifacts

from pipeline.compile.export import TRAINING_IR_VERSION, Forward, export_plain
from pipeline.compile.losses import Loss
from pipeline.compile.quiet import quiet_native_log

WRITTEN = "written"
_LOSSES = {
    "cross_entropy": artifacts.LossType.CrossEntropyLoss,
    "bce_with_logits": artifacts.LossType.BCEWithLogitsLoss,
    "mse": artifacts.LossType.MSELoss,
}


def write_ort_training(module: torch.nn.Module, examples: Mapping[str, torch.Tensor], loss: Loss, folder: Path) -> str:
    """Write training, evaluation and optimizer models and the `checkpoint`: the mean loss, plain SGD.

    The batch is fixed, as in the graphs of the artifact. The step clips no example: it is the ordinary one, not the
    private one.

    Args:
        examples: [B, ...] by input name, in the order that `forward` takes them.

    Returns:
        `written`, or `left out: REASON` where ORT Training cannot do it by itself; there is no folder then.
    """
    if loss.label_smoothing:
        return "left out: ORT Training's cross-entropy has no label smoothing"
    try:
        _generate(export_plain(module, examples), loss, folder)
    except (RuntimeError, TypeError, ValueError) as error:  # torch's exporter stumbles over sizes it does not know
        shutil.rmtree(folder, ignore_errors=True)  # the exporter fails before there is one
        return f"left out: {str(error).rpartition('was false. ')[2].strip()}"  # after the source file and signature
    return WRITTEN


def _generate(forward: Forward, loss: Loss, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    held = [initializer.name for initializer in forward.model.graph.initializer]
    with quiet_native_log():
        artifacts.generate_artifacts(
            forward.model,
            requires_grad=[name for name in forward.parameters if name in held],  # the others reach no loss
            frozen_params=[name for name in held if name not in forward.parameters],
            loss=_LOSSES[loss.name],
            optimizer=artifacts.OptimType.SGD,
            artifact_directory=str(folder),
        )
    for path in folder.glob("*.onnx"):
        # onnx writes the newest IR version it knows, which ORT Training 1.19.2 refuses.
        model = onnx.load(path)
        model.ir_version = min(model.ir_version, TRAINING_IR_VERSION)
        onnx.save(model, path)
