"""Peak memory of the gradient step: predicted from the graph, predicted from the architecture, measured.

Nets are drawn at random from the space of blocks and from that of cells, supernets included, for 8, 16 or 32 examples
at a time, so that the sum of their layers' outputs is between 40 and 130 MiB; of each eighth one anything from 2 MiB,
to be told beside. Draws of group 1 fit what the predictions add to bookkeeping (`pipeline.compile.process_memory`),
those of group 4 judge it; groups 2 and 3 were looked at while it was written. Each graph is compiled (without a
certificate, which checks other things) and measured in a fresh process (`bench/resident_memory.py`).

Graphs and measurements are kept in --work: what was stopped goes on from there, and predictions are computed anew.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from bench.measuring import Bar, Result, new_result, print_result
from bench.resident_memory import measure_resident_mib
from device_runtime.terms import ARCHITECTURE
from pipeline.compile.export import export_forward
from pipeline.compile.graphs import gradient_model
from pipeline.compile.losses import Loss
from pipeline.compile.process_memory import predict_memory, predict_step_memory
from pipeline.compile.segments import layout_of
from pipeline.compile.writing import one_thread
from pipeline.network import build_module
from profiles.records import from_plain, to_plain
from search.architecture import Architecture
from search.cell_space import CellSpace
from search.layers import layers_of
from search.options import HyperParameterOptions, StageOptions, StemOptions
from search.space import SearchSpace

PACKAGES = ("onnxruntime-training-cpu", "onnx", "torch", "numpy")
CALIBRATING, JUDGING = 36, 72  # nets
LEAST_ARENA_MIB = 50.0
SUM_MIB, SMALL_MIB = (40, 130), 2  # of the outputs of all layers
SHAPES = ((1, 28, 28), (3, 32, 32), (3, 48, 48), (3, 64, 64))
HEADS, NORMALIZATIONS, ACTIVATIONS = ("flatten", "global_average"), ("none", "group"), ("relu", "hard_swish")
OPERATIONS = ("none", "skip", "average_pool", "max_pool", "conv_1", "conv_3", "separable_3", "separable_5", "dilated_3")
BATCHES = (8, 16, 32)
TRAINING = HyperParameterOptions((0.1,), local_steps=(1,), architecture_learning_rate=(0.1,))
STAGES = StageOptions(
    ("depthwise", "inverted"), (16, 24, 32, 48, 64, 96, 128), (1, 2, 3), (3, 5), (1, 2), (1, 2, 3, 4, 6)
)
STEM = StemOptions((16, 24, 32, 48), (3, 5), (1, 2))
COLUMNS = ("net", "arena_mib", "measured_mib", "predicted_mib", "ratio", "architecture_mib", "architecture_ratio")
Row = dict[str, Any]


def draw_net(group: int, index: int) -> tuple[Architecture, int]:
    """An architecture and a batch size."""
    rng = np.random.default_rng((group, index))
    low, high = (SMALL_MIB if index % 8 == 7 else SUM_MIB[0]), SUM_MIB[1]
    while True:
        architecture, batch_size = _draw(rng), int(rng.choice(BATCHES))
        values = sum(prod(layer.output_shape) for layer in layers_of(architecture))
        if low <= 4 * batch_size * values / 2**20 <= high:
            return architecture, batch_size


def _draw(rng: np.random.Generator) -> Architecture:
    shape = SHAPES[rng.integers(len(SHAPES))]
    if rng.random() < 0.75:
        return (
            SearchSpace(shape, 10, STEM, STAGES, TRAINING, 4, 1, HEADS, NORMALIZATIONS, ACTIVATIONS)
            .sample(rng)
            .architecture
        )
    fields = {"head": HEADS, "normalization": NORMALIZATIONS, "activation": ACTIVATIONS, "strides": ((1, 2), (1, 2, 2))}
    chosen = {name: options[rng.integers(2)] for name, options in fields.items()}
    cells = CellSpace(shape, 10, OPERATIONS, 2, int(rng.choice((8, 12, 16, 24))), hyper_parameters=TRAINING, **chosen)
    return cells.supernet() if rng.random() < 0.25 else cells.sample(rng).architecture


def gradient_graph(architecture: Architecture, batch_size: int) -> bytes:
    """Bytes of gradient.onnx."""
    with one_thread():
        batch = {"x": torch.zeros(batch_size, *architecture.input_shape)}
        forward = export_forward(build_module(layers_of(architecture)), batch)
        segments = {ARCHITECTURE: "stages.*.choices.*"} if architecture.is_supernet else {}
        model = gradient_model(forward, layout_of(forward, segments), Loss()).model
    return model.SerializeToString(deterministic=True)


def measure_net(group: int, index: int, work: Path) -> Row:
    """A net and what was measured, plain; its graph stays in `work`."""
    architecture, batch_size = draw_net(group, index)
    path = graph_file(work, group, index)
    if not path.exists():
        path.write_bytes(gradient_graph(architecture, batch_size))
    drawn = {"architecture": to_plain(architecture), "batch_size": batch_size}
    return {"group": group, "index": index, **drawn, **measure_resident_mib(path)}


def graph_file(work: Path, group: int, index: int) -> Path:
    """Where a net's graph is kept."""
    return work / f"{group}-{index}.onnx"


def rows_of(work: Path, wanted: Sequence[tuple[int, int]]) -> Iterator[Row]:
    """Rows of all nets; those whose line is there are not measured again."""
    work.mkdir(parents=True, exist_ok=True)
    lines = work / "rows.jsonl"
    found = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()] if lines.exists() else []
    kept = {(row["group"], row["index"]): row for row in found}
    for group, index in wanted:
        if (group, index) not in kept:
            row = measure_net(group, index, work)
            with lines.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            kept[group, index] = row
        yield judged(kept[group, index], graph_file(work, group, index).read_bytes())


def judged(row: Row, graph: bytes) -> Row:
    """A row with its predictions and what they were counted from."""
    memory, measured = predict_memory(graph), max(row["runs_mib"])
    peak = memory.peak
    own = predict_step_memory(from_plain(Architecture, row["architecture"]), row["batch_size"]).resident
    return {
        "net": f"{row['group']}-{row['index']}",
        "arena_mib": _mib(peak.written),
        "measured_mib": measured,
        "predicted_mib": _mib(memory.resident),
        "interval80_mib": [_mib(end) for end in memory.interval80],
        "interval95_mib": [_mib(end) for end in memory.interval95],
        "ratio": round(memory.resident / 2**20 / measured, 4),
        "architecture_mib": _mib(own),
        "architecture_ratio": round(own / 2**20 / measured, 4),
        "counted": to_plain(peak),
        "num_nodes": memory.num_nodes,
        "constants": memory.constants,
        **row,
    }


def calibration(rows: Sequence[Row]) -> Row:
    """What the nets set apart say of a session's own memory, by least squares, and of the errors that are left."""
    terms = np.array([[1.0, row["num_nodes"], row["constants"] / 2**20] for row in rows])
    rest = [row["measured_mib"] - (row["counted"]["written"] + row["counted"]["reserved"] / 32) / 2**20 for row in rows]
    session, node, constant = np.linalg.lstsq(terms, np.array(rest))[0].tolist()
    ends = np.quantile([1 / row["ratio"] for row in rows], (0.025, 0.1, 0.5, 0.9, 0.975)).round(4).tolist()
    told = {"session_mib": session, "node_kib": node * 1024, "of constants": constant, "measured over predicted": ends}
    return {**dict.fromkeys(COLUMNS), "net": f"calibration, {len(rows)} nets", **told}


def summary(name: str, rows: Sequence[Row]) -> Row:
    """Shares and extremes over nets."""
    told = {"nets": len(rows)}
    for of, key in (("graph", "ratio"), ("architecture", "architecture_ratio")):
        ratios = [row[key] for row in rows]
        told |= {f"{of} within 10%": _share(abs(one - 1) <= 0.1 for one in ratios)}
        told |= {f"{of} most under": min(ratios) - 1, f"{of} most over": max(ratios) - 1}
    for level in ("80", "95"):
        ends = [(*row[f"interval{level}_mib"], row["measured_mib"]) for row in rows]
        told[f"covered {level}"] = _share(low <= measured <= high for low, high, measured in ends)
    return {**dict.fromkeys(COLUMNS), "net": name, **told}


def bars_of(rows: Sequence[Row]) -> Iterator[Bar]:
    """What nets with a large arena must show."""
    large = [row for row in rows if row["arena_mib"] >= LEAST_ARENA_MIB]
    yield Bar("nets with an arena of 50 MiB and more", len(large), 60, len(large) >= 60)
    told = summary("", large)
    for of in ("graph", "architecture"):
        share, under = told[f"{of} within 10%"], told[f"{of} most under"]
        yield Bar(f"from the {of}: share within 10% of the measured increase", share, 0.95, share >= 0.95)
        yield Bar(f"from the {of}: most under the measured increase", under, -0.05, under >= -0.05)


def main() -> None:
    """Run the bench; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of rows and of the graph under way")
    parser.add_argument("--quick", action="store_true", help="a sixth of the nets")
    parser.add_argument("-o", "--output", type=Path, help="write the JSON object to this file as well")
    arguments = parser.parse_args()
    onnxruntime.set_default_logger_severity(3)
    print_result(measure(arguments.work, 6 if arguments.quick else 1), COLUMNS, arguments.output)


def measure(work: Path, divisor: int = 1) -> Result:
    """All rows and bars."""
    result = new_result("predict_memory", PACKAGES)
    apart, rows = (
        [*rows_of(work, [(group, index) for index in range(count // divisor)])]
        for group, count in ((1, CALIBRATING), (4, JUDGING))
    )
    large = [row for row in rows if row["arena_mib"] >= LEAST_ARENA_MIB]
    small = [row for row in rows if row["arena_mib"] < LEAST_ARENA_MIB]
    result.rows.extend([*rows, *apart, calibration(apart)])
    result.rows.extend(summary(name, own) for name, own in (("50 MiB and more", large), ("smaller", small)) if own)
    return replace(result, bars=[*bars_of(rows)])


def _mib(num_bytes: float) -> float:
    return round(num_bytes / 2**20, 3)


def _share(flags: Any) -> float:
    return float(np.mean([*flags]))


if __name__ == "__main__":
    main()
