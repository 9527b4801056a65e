"""The classic ONNX Runtime Training files, for apps that stay on its last release (1.19.2)."""

from pathlib import Path

import onnx
from onnxruntime.training import artifacts

from pipeline.compile.export import TRAINING_IR_VERSION, Forward
from pipeline.compile.quiet import quiet_native_log


def write_ort_training(forward: Forward, folder: Path) -> None:
    """Write training, evaluation and optimizer models and the `checkpoint`: mean cross-entropy, plain SGD.

    The batch is fixed, as in the graphs of the artifact. The step clips no example: it is the ordinary one, not the
    private one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with quiet_native_log():
        artifacts.generate_artifacts(
            forward.model,
            requires_grad=list(forward.parameters),
            frozen_params=[],
            loss=artifacts.LossType.CrossEntropyLoss,
            optimizer=artifacts.OptimType.SGD,
            artifact_directory=str(folder),
        )
    for path in folder.glob("*.onnx"):
        # onnx writes the newest IR version it knows, which ORT Training 1.19.2 refuses.
        model = onnx.load(path)
        model.ir_version = min(model.ir_version, TRAINING_IR_VERSION)
        onnx.save(model, path)
