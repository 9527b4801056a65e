"""Run artifacts through the device's own session, on the ONNX Runtime of the environment that runs this file.

    PYTHONPATH=REPOSITORY python run_session.py ARTIFACTS RESULTS

ARTIFACTS/CASE is an artifact and steps/STEP.safetensors the inputs of its graphs; the outputs go to
RESULTS/CASE/STEP.safetensors. Prints one line of JSON: the runtime's version and the median time of each case's step.
"""

import json
import platform
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
from safetensors.numpy import load_file, save_file

from device_runtime.artifact import read_artifact
from device_runtime.session import StepSession

REPEATS = 20


def run_case(folder: Path, results: Path) -> float:
    """Write the outputs of every step; the median time of the first one's gradient in ms."""
    session = StepSession(read_artifact(folder))
    results.mkdir(parents=True)
    times = []
    for path in sorted((folder / "steps").iterdir()):
        inputs = load_file(path)
        examples = example_rows(session, inputs), inputs["y"], inputs["mask"]
        terms = float(inputs["max_grad_norm"]), inputs["segment_weight"]
        step = partial(session.gradient, inputs["parameters"], *examples, *terms)
        gradient_sum, loss_sum, norms = step()
        losses, metrics = session.evaluate(inputs["parameters"], *examples)
        outputs = {"gradient_sum": gradient_sum, "norms": norms, "losses": losses, "metrics": metrics}
        save_file({**outputs, "loss_sum": np.array(loss_sum, np.float32)}, results / path.name)
        times.append(median_ms(step))
    return times[0]


def example_rows(session: StepSession, inputs: dict) -> np.ndarray:
    """x as the session takes it: one array, or rows with a field an input."""
    if "x" in inputs:
        return inputs["x"]
    rows = np.zeros(len(inputs["y"]), session.manifest.spec.row_dtype())
    for name in rows.dtype.names:
        rows[name] = inputs[f"x.{name}"]
    return rows


def median_ms(step: partial) -> float:
    """Median time of a call."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


if __name__ == "__main__":
    artifacts, found = Path(sys.argv[1]), Path(sys.argv[2])
    times = {folder.name: run_case(folder, found / folder.name) for folder in sorted(artifacts.iterdir())}
    runtime = f"onnxruntime {onnxruntime.__version__} in the device's session, Python {platform.python_version()}"
    sys.stdout.write(json.dumps({"runtime": runtime, "median_ms": times}) + "\n")
