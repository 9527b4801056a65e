"""Peak memory of a gradient graph, in a process of its own (argument: the graph's file).

The graph is opened as a device opens it, then runs three times, since a later run may take more than the first one; the
outputs of a run are gone when the next one begins, as they are in local training by steps of one chunk. The figure is
the growth of the peak of resident memory over what was resident before, without the program's own pages, which are read
from disk as they are first run.
"""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx

_STATUS = Path("/proc/self/status")
_RESET_PEAK = "5"  # proc(5), clear_refs
_RUNS = 3


def measure_resident_mib(graph: Path) -> dict[str, Any]:
    """MiB that a new process grows by: `opened_mib`, and `runs_mib`, the peak after each one.

    Raises:
        RuntimeError: When that process fails, with what it said, or the system does not tell (no /proc).
    """
    if not _STATUS.exists():
        raise RuntimeError("resident memory is read from /proc: run this on Linux")
    command = [sys.executable, "-m", "bench.resident_memory", str(graph)]
    told = subprocess.run(command, check=False, capture_output=True, text=True)
    if told.returncode:
        raise RuntimeError(f"the memory of {graph} cannot be measured: {told.stderr.strip()}")
    measured: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    return measured


def _open(graph: bytes) -> Any:
    """As `device_runtime.session` does."""
    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_mem_pattern = False
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _feeds(graph: bytes) -> dict[str, Any]:
    """Small values, so that nothing overflows; the first class for every example, and every example counts."""
    rng = np.random.default_rng(0)
    feeds = {}
    for value in onnx.load_model_from_string(graph).graph.input:
        kind = value.type.tensor_type
        shape = [dim.dim_value for dim in kind.shape.dim]
        is_given = value.name in {"mask", "max_grad_norm", "segment_weight"}
        values = np.ones(shape) if is_given else 0.05 * rng.standard_normal(shape)
        feeds[value.name] = values.astype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))  # labels become 0
    return feeds


def _resident() -> dict[str, int]:
    """KiB by the names of proc(5)."""
    lines = (line.partition(":") for line in _STATUS.read_text(encoding="ascii").splitlines())
    return {name: int(rest.split()[0]) for name, _, rest in lines if name in {"VmHWM", "VmRSS", "RssFile"}}


def main() -> None:
    """Measure in this process, without torch, which ONNX Runtime's training package would import and no phone has."""
    sys.modules["torch"] = None  # type: ignore[assignment]
    importlib.import_module("onnxruntime")
    graph = Path(sys.argv[1]).read_bytes()
    feeds = _feeds(graph)
    before = _resident()
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")

    def growth() -> float:
        now = _resident()
        program = now["RssFile"] - before["RssFile"]
        return round((now["VmHWM"] - before["VmRSS"] - program) / 1024, 3)

    session = _open(graph)
    opened, runs = growth(), []
    for _ in range(_RUNS):
        session.run(None, feeds)
        runs.append(growth())
    sys.stdout.write(json.dumps({"opened_mib": opened, "runs_mib": runs}) + "\n")


if __name__ == "__main__":
    main()
