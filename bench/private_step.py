"""What a private gradient costs: ours beside ONNX Runtime Training's ordinary one, PyTorch's, and torch's private ways.

Five networks, three batches, one thread each, in turns. Our figure is `StepSession.gradient`: the graph's runs over the
batch in chunks, and their accumulation. No way draws noise or moves parameters; ours do both on the host, a column of
its own. Times are processor time, which on a machine that does nothing else is the time that passes. Memory is that of
the same steps, each way in a process of its own (`bench/private_memory.py`); ours is judged beside ORT Training's on
the whole batch and on chunks as large as ours. The full run exits with 1 when it misses a bar.

Every row is kept in FILE.rows as soon as it is measured (`-o FILE`): what was stopped goes on from there, unless the
machine, a package, our sources or the number of rounds are others by then.
"""

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from bench.measuring import Bar, Result, new_result, print_result, spread_of, time_interleaved
from bench.private_memory import measure_peak_mib
from bench.private_networks import NETWORKS, BenchNetwork
from bench.private_ways import (
    MAX_GRAD_NORM,
    ORDINARY,
    ORT_TRAINING,
    ORT_TRAINING_CHUNKS,
    OURS,
    PRIVATE,
    WAYS,
    Scene,
    Way,
    ignore_torch_warnings,
    prepare,
)
from device_runtime.lattice_noise import add_lattice_noise
from device_runtime.private_random import PrivateRandom, Purpose

BATCH_SIZES = (1, 8, 32)
ROUNDS, QUICK_ROUNDS = 40, 8
PACKAGES = ("onnxruntime-training-cpu", "onnxruntime", "torch", "opacus", "onnx", "numpy")
SOURCES = ("bench", "device_runtime", "pipeline")
RATIOS = ("vs_ort_training", "vs_ort_training_chunks", "vs_torch")
MEMORY_RATIOS = ("memory_vs_ort_training", "memory_vs_ort_training_chunks")
COLUMNS = ("network", "batch_size", *WAYS, "host", *RATIOS, *MEMORY_RATIOS)
MEMORY_BAR, SPEEDUP_BARS = 1.5, {1: 2.0, 8: 2.0, 32: 1.3}
Row = dict[str, Any]


def measure_row(name: str, network: BenchNetwork, batch_size: int, rounds: int) -> Row:
    """One network and batch; raises RuntimeError when the ways do not do the same work."""
    with tempfile.TemporaryDirectory() as temporary:
        scene = Scene(network, batch_size, Path(temporary))
        prepare(scene)
        memory = {way: measure_peak_mib(name, way, batch_size, scene.folder) for way in WAYS}
        ways = {way: open_(scene) for way, open_ in WAYS.items()}
        check_same_work(ways)
        steps = {**{way: opened.step for way, opened in ways.items()}, "host": _host_step(ways[OURS])}
        times = time_interleaved(steps, rounds, clock=time.process_time, settle=1)
    medians = {way: statistics.median(own) for way, own in times.items()}
    return {
        "network": name,
        "batch_size": batch_size,
        "chunk_size": scene.chunk_size,
        "parameters": len(ways[OURS].gradient()),
        "threads": 1,
        "bar": network.bar,
        **{way: round(median, 4) for way, median in medians.items()},
        **_ratios(medians, memory),
        "peak_mib": memory,
        "spread": {way: spread_of(own) for way, own in times.items()},
        "times_ms": {way: [round(time_ms, 4) for time_ms in own] for way, own in times.items()},
    }


def check_same_work(ways: dict[str, Way]) -> None:
    """The losses agree, and so do the gradients of the private ways and those of the ordinary ones."""
    losses = {way: opened.step() for way, opened in ways.items()}
    if max(losses.values()) - min(losses.values()) > 1e-4:
        raise RuntimeError(f"the ways compute different losses, so they do not do the same work: {losses}")
    for reference, *others in ((OURS, *PRIVATE), ORDINARY):
        truth = ways[reference].gradient()
        for way in others:
            error = np.linalg.norm(ways[way].gradient() - truth) / np.linalg.norm(truth)
            # A ReLU whose input is a rounding error away from 0 may fall on either side.
            if not error < 1e-2:
                raise RuntimeError(f"{way} and {reference} compute different gradients (by {error:.1e} of the norm)")


def bars_of(rows: Sequence[Row]) -> list[Bar]:
    """The claims that these rows can judge, and that they can judge all of them."""
    whole = {
        (row["network"], row["batch_size"]) for row in rows if all(row[name] is not None for name in MEMORY_RATIOS)
    }
    bars = [_at_least("rows measured, memory included", len(whole), len(NETWORKS) * len(BATCH_SIZES))]
    for row in rows:
        where = f"{row['network']}, batch {row['batch_size']}"
        if row["batch_size"] == max(BATCH_SIZES):
            bars.append(_at_most(f"{where}: time over ORT Training's, whole batch", row["vs_ort_training"], row["bar"]))
        for name, work in zip(MEMORY_RATIOS, ("whole batch", "equal chunks"), strict=True):
            if row[name] is not None:
                bars.append(_at_most(f"{where}: memory over ORT Training's, {work}", row[name], MEMORY_BAR))
        bars.append(_at_least(f"{where}: faster than torch's fastest private way", row["vs_torch"], 1.0))
    for batch_size, bar in SPEEDUP_BARS.items():
        own = [row["vs_torch"] for row in rows if row["batch_size"] == batch_size]
        if len(own) == len(NETWORKS):
            bars.append(
                _at_least(f"batch {batch_size}: geometric mean of the same", statistics.geometric_mean(own), bar)
            )
    return bars


def _ratios(medians: dict[str, float], memory: dict[str, float | None]) -> Row:
    mib = memory[OURS]
    ratios: Row = {"vs_torch": min(medians[way] for way in PRIVATE) / medians[OURS]}
    for way in (ORT_TRAINING, ORT_TRAINING_CHUNKS):
        ordinary = memory[way]
        ratios[f"vs_{way}"] = medians[OURS] / medians[way]
        ratios[f"memory_vs_{way}"] = mib / ordinary if mib and ordinary else None
    return ratios


def _host_step(way: Way) -> Any:
    """Noise and update of a private step of ours, from a gradient sum."""
    gradient_sum = way.gradient()
    parameters, private_random = np.zeros_like(gradient_sum), PrivateRandom(bytes(32))

    def step() -> None:
        normals = private_random.normals(Purpose.NOISE, 0, len(gradient_sum))
        noised = add_lattice_noise(gradient_sum, MAX_GRAD_NORM, 1.0, normals)
        np.subtract(parameters, (0.01 * noised).astype(np.float32), out=parameters)

    return step


def _at_most(name: str, value: float, bar: float) -> Bar:
    return Bar(name, value, bar, value <= bar)


def _at_least(name: str, value: float, bar: float) -> Bar:
    return Bar(name, value, bar, value >= bar)


def run_of(result: Result, rounds: int) -> Row:
    """What rows of one run have in common: rounds, packages, the processor and a hash of our sources."""
    root, sources = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(path for folder in SOURCES for path in (root / folder).rglob("*.py")):
        sources.update(str(path.relative_to(root)).encode() + path.read_bytes())
    machine = {name: result.machine[name] for name in ("processor", "system", "python")}
    return {"rounds": rounds, "versions": result.versions, **machine, "sources": sources.hexdigest()}


def kept_rows(path: Path, run: Row) -> list[Row]:
    """The rows of `run` that an earlier start left; the others are taken out of the file, with a message."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            sys.stderr.write(f"{path}: dropped a row that was not written to its end\n")
            continue
        old = row.get("run", {})
        if changed := [name for name in run if old.get(name) != run[name]]:
            where = f"{row['network']}, batch {row['batch_size']}"
            sys.stderr.write(f"{path}: dropped {where}: measured with other {', '.join(changed)}\n")
            continue
        rows.append(row)
    if len(rows) < len(lines):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return rows


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(prog="python -m bench.private_step", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds a row instead of {ROUNDS}")
    parser.add_argument("--net", choices=NETWORKS, action="append", help="only this network (repeatable)")
    parser.add_argument("--batch", choices=BATCH_SIZES, type=int, action="append", help="only this batch (repeatable)")
    parser.add_argument("-o", "--output", type=Path, help="write the JSON object to this file too")
    arguments = parser.parse_args()
    ignore_torch_warnings()
    onnxruntime.set_default_logger_severity(3)
    torch.set_num_threads(1)
    result = new_result("private_step", PACKAGES)
    rounds = QUICK_ROUNDS if arguments.quick else ROUNDS
    run = run_of(result, rounds)
    path = arguments.output and arguments.output.with_suffix(".rows")
    rows = kept_rows(path, run) if path else []
    done = {(row["network"], row["batch_size"]) for row in rows}
    wanted = [(net, size) for net in arguments.net or NETWORKS for size in arguments.batch or BATCH_SIZES]
    for name, batch_size in wanted:
        if (name, batch_size) in done:
            continue
        rows.append({**measure_row(name, NETWORKS[name], batch_size, rounds), "run": run})
        if path:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    result = replace(result, rows=rows, bars=bars_of(rows))
    print_result(result, COLUMNS, arguments.output)
    if path:
        path.unlink(missing_ok=True)
    is_full = not (arguments.quick or arguments.net or arguments.batch)
    if is_full and not all(bar.met for bar in result.bars):
        sys.exit(1)  # which ones is printed


if __name__ == "__main__":
    main()
