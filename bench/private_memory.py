"""Peak memory of one step of one way, in a process of its own (arguments: NETWORK WAY BATCH FOLDER).

The way is opened, examples and parameters included, and steps once. The figure is the growth of the peak of resident
memory over what was resident before, without the program's own pages, which are read from disk as they are first run.
"""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import onnxruntime
import torch

from bench.private_networks import NETWORKS
from bench.private_ways import WAYS, Scene

_STATUS = Path("/proc/self/status")
_RESET_PEAK = "5"  # proc(5), clear_refs


def measure_peak_mib(network: str, way: str, batch_size: int, folder: Path) -> float | None:
    """Run this file in a new process; None where the system does not tell (no /proc)."""
    if not _STATUS.exists():
        return None
    command = [sys.executable, "-m", "bench.private_memory", network, way, str(batch_size), str(folder)]
    told = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(told.stdout.splitlines()[-1]))


def peak_of_one_step(scene: Scene, way: str) -> float:
    """MiB of this process."""
    opened = WAYS[way](scene)
    before = _resident()
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")
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
    warnings.simplefilter("ignore")
    onnxruntime.set_default_logger_severity(3)
    peak_mib = peak_of_one_step(Scene(NETWORKS[network], int(batch_size), Path(folder)), way)
    sys.stdout.write(json.dumps(round(peak_mib, 2)) + "\n")


if __name__ == "__main__":
    main()
