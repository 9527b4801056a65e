"""Peak memory of one way, in a process of its own (arguments: NETWORK WAY BATCH FOLDER).

The way is opened, its parameters and gradients included, which ours makes when it steps and ORT Training when it opens,
and steps three times, since a later step may take more than the first one. The figure is the growth of the peak of
resident memory over what was resident before, without the program's own pages, which are read from disk as they are
first run.
"""

import json
import subprocess
import sys
from pathlib import Path

import onnxruntime
import torch

from bench.private_networks import NETWORKS
from bench.private_ways import WAYS, Scene, ignore_torch_warnings

_STATUS = Path("/proc/self/status")
_RESET_PEAK = "5"  # proc(5), clear_refs
_STEPS = 3


def measure_peak_mib(network: str, way: str, batch_size: int, folder: Path) -> float | None:
    """MiB of a new process that runs this file; None where the system does not tell (no /proc).

    Raises:
        RuntimeError: When that process fails, with what it said.
    """
    if not _STATUS.exists():
        return None
    command = [sys.executable, "-m", "bench.private_memory", network, way, str(batch_size), str(folder)]
    told = subprocess.run(command, check=False, capture_output=True, text=True)
    if told.returncode:
        raise RuntimeError(f"the memory of {way} on {network} cannot be measured: {told.stderr.strip()}")
    return float(json.loads(told.stdout.splitlines()[-1]))


def peak_of_steps(scene: Scene, way: str) -> float:
    """MiB of this process."""
    scene.module(), scene.tensors()  # what torch keeps from its first use is no way's
    before = _resident()
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")
    opened = WAYS[way](scene)
    for _ in range(_STEPS):
        opened.step()
    after = _resident()
    program = after["RssFile"] - before["RssFile"]
    return (after["VmHWM"] - before["VmRSS"] - program) / 1024


def _resident() -> dict[str, int]:
    """KiB by the names of proc(5)."""
    lines = (line.partition(":") for line in _STATUS.read_text(encoding="ascii").splitlines())
    return {name: int(rest.split()[0]) for name, _, rest in lines if name in {"VmHWM", "VmRSS", "RssFile"}}


def main() -> None:
    """Measure in this process."""
    network, way, batch_size, folder = sys.argv[1:]
    torch.set_num_threads(1)
    ignore_torch_warnings()
    onnxruntime.set_default_logger_severity(3)
    peak_mib = peak_of_steps(Scene(NETWORKS[network], int(batch_size), Path(folder)), way)
    sys.stdout.write(json.dumps(round(peak_mib, 2)) + "\n")


if __name__ == "__main__":
    main()
