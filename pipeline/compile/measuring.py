"""Measure a step on this machine: median time here, peak memory in a process of its own.

Run as a script, this file is that process: it imports nothing of the project, so that only the step is measured.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

_NUM_TIMES = 5


def median_ms(work: Callable[[], object]) -> float:
    """Median wall-clock time of five runs."""
    times = []
    for _ in range(_NUM_TIMES):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1e3)
    return round(statistics.median(times), 4)


@contextmanager
def measured_memory(graph: bytes, inputs: dict[str, np.ndarray[Any, Any]]) -> Iterator[Callable[[], float]]:
    """Start the process that measures; the function given waits for it and returns MiB.

    It goes on beside the block's own work: starting an interpreter and ONNX Runtime takes a quarter of a second.
    """
    with tempfile.TemporaryDirectory(prefix="handheld-step-") as name:
        folder = Path(name)
        (folder / "graph.onnx").write_bytes(graph)
        np.savez(folder / "inputs.npz", allow_pickle=False, **inputs)
        # -P: without it the folder of this file would come first where modules are looked for.
        command = [sys.executable, "-P", str(Path(__file__).resolve()), name]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603
            try:
                yield lambda: _read_memory(process)
            finally:
                process.kill()


def _read_memory(process: "subprocess.Popen[str]") -> float:
    told, complaint = process.communicate()
    if process.returncode:
        raise RuntimeError(f"measuring the step's memory failed: {complaint.strip().splitlines()[-1]}")
    return float(told)


def _run(folder: Path) -> float:
    """Peak memory in MiB of opening the graph and running it twice, above what ONNX Runtime takes without a graph."""
    sys.modules["torch"] = None  # type: ignore[assignment]  # ORT Training's package imports it where it can: 2 s
    import onnxruntime  # noqa: PLC0415

    with np.load(folder / "inputs.npz") as stored:
        inputs = dict(stored)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    before = _peak_mib()
    session = onnxruntime.InferenceSession(folder / "graph.onnx", options, providers=["CPUExecutionProvider"])
    for _ in range(2):
        session.run(None, inputs)
    return _peak_mib() - before


def _peak_mib() -> float:
    """Most memory that this process has had."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the parent had before it started this program
        (line,) = (line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    import resource  # noqa: PLC0415  (not on every platform)

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes where there is no /proc


if __name__ == "__main__":
    sys.stdout.write(f"{_run(Path(sys.argv[1])):.2f}")
