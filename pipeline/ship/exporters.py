"""The list of model files in a bundle: who writes each, on what it runs. A new format is one row here."""

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.ship.executorch_export import PTE, write_pte
from pipeline.ship.network import TrainedNetwork
from pipeline.ship.onnx_export import ONNX, OPERATORS, ORT, write_onnx, write_ort
from pipeline.ship.run_files import FileRunner, run_executorch, run_onnxruntime


@dataclass(frozen=True)
class Exporter:
    """One model file.

    Attributes:
        write: Writes the file into a folder that holds what the rows before wrote.
        run: Runs it here, on the runtime that phones have.
        runtime, distribution: The runtime's name, and the Python distribution whose version stands for it.
        batch_size: That the file takes; None for any.
        others: Further files that `write` makes.
    """

    write: Callable[[TrainedNetwork, Path], None]
    run: FileRunner
    runtime: str
    distribution: str
    batch_size: int | None = None
    others: tuple[str, ...] = ()

    def runtime_and_version(self) -> str:
        """As in `ONNX Runtime 1.19.2`."""
        return f"{self.runtime} {importlib.metadata.version(self.distribution)}"


_ONNX_RUNTIME = ("ONNX Runtime", "onnxruntime-training-cpu")

EXPORTERS: dict[str, Exporter] = {
    ONNX: Exporter(write_onnx, run_onnxruntime, *_ONNX_RUNTIME),
    ORT: Exporter(write_ort, run_onnxruntime, *_ONNX_RUNTIME, others=(OPERATORS,)),
    PTE: Exporter(write_pte, run_executorch, "ExecuTorch", "executorch", batch_size=1),
}
