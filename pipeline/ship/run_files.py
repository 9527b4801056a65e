"""Run a bundle's model files on the runtimes that phones use."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from device_runtime.arrays import Inputs
from pipeline.compile.quiet import quiet_native_log
from pipeline.ship.network import INPUT, OUTPUTS, Outputs
from pipeline.ship.quiet import quiet_exporters

FileRunner = Callable[[Path, Inputs], Outputs]


def run_onnxruntime(path: Path, x: Inputs) -> Outputs:
    """Outputs of a `.onnx` or `.ort` file for x f32[n, *shape], all in one batch."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Outputs(*session.run(OUTPUTS, {INPUT: x}))


def run_executorch(path: Path, x: Inputs) -> Outputs:
    """Outputs of a `.pte` file for x f32[n, *shape], one example after the other."""
    # Its native part looks for an Arm processor and tells on descriptor 2 what it does not find.
    with quiet_exporters(), quiet_native_log():
        from executorch.runtime import Runtime  # noqa: PLC0415  (seconds)

        # The program must stay in a variable: a method whose program is gone reads freed memory.
        program = Runtime.get().load_program(path.read_bytes())
        method = program.load_method("forward")
        rows = [method.execute([torch.tensor(example[None])]) for example in x]
    logits, probabilities = (np.concatenate([row[i].numpy() for row in rows]) for i in range(len(OUTPUTS)))
    return Outputs(logits, probabilities)
