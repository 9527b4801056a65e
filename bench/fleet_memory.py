"""`python -m bench.fleet_memory PHONES COHORT ARTIFACT`: what a fleet needs in memory, in a process of its own.

Prints one JSON object: the peak of the resident set after the imports, after making the fleet, after one round.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.fleet_scene import Model, open_fleet, plan_round
from device_runtime.artifact import read_artifact


def main() -> None:
    """Hold one round and tell the peaks."""
    num_phones, cohort_size, artifact = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    peaks = [peak_mib()]
    parameters = np.zeros(read_artifact(artifact).manifest.num_parameters, np.float32)
    with tempfile.TemporaryDirectory() as folder, open_fleet(num_phones, Path(folder)) as rounds:
        peaks.append(peak_mib())
        plan = plan_round(rounds.store, rounds.blobs, 0, cohort_size, Model(artifact, parameters))
        began = time.perf_counter()
        result = rounds.hold(plan)
        seconds = time.perf_counter() - began
        peaks.append(peak_mib())
    told = dict(zip(("imports_mib", "made_mib", "memory_mib"), peaks, strict=True))
    print(json.dumps({"updates": result.num_reports, "seconds": seconds, **told}))


def peak_mib() -> float:
    """Peak of the resident set, MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # the other figure begins with that of the process which started this one
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


if __name__ == "__main__":
    main()
