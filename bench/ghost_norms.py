"""Time a linear layer's clipped gradient at several positions, as a ghost norm and with shares written out.

    python -m bench.ghost_norms

One thread, plain ONNX Runtime, median of interleaved runs; docs/decisions/0006 has a table of it.
"""

import argparse
import time
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime

from pipeline.compile.builder import GraphBuilder
from pipeline.compile.values import Outer

SHAPES = [  # batch, positions, rows, columns
    (32, 4, 64, 64),
    (32, 16, 64, 64),
    (32, 32, 64, 64),
    (32, 64, 64, 64),
    (32, 128, 64, 64),
    (32, 64, 192, 64),
    (32, 64, 256, 64),
    (32, 64, 96, 96),
    (32, 64, 384, 96),
    (32, 32, 128, 128),
    (32, 64, 512, 128),
    (32, 256, 32, 32),
    (32, 64, 10, 64),
    (8, 64, 64, 64),
    (8, 64, 256, 64),
    (8, 16, 512, 512),
    (1, 64, 256, 64),
]


def clipped_sum(shape: tuple[int, int, int, int], *, is_ghost: bool) -> onnx.ModelProto:
    """The graph of one layer's norms, factors and clipped sum in one of the forms."""
    batch, positions, rows, columns = shape
    graph = GraphBuilder()
    gradient = Outer(graph.input("left", (batch, positions, rows)), graph.input("right", (batch, positions, columns)))
    with patch.object(Outer, "is_ghost", is_ghost):
        norms = graph.op("Sqrt", gradient.squared_norms(graph))
        factors = graph.op("Min", graph.op("Reciprocal", norms), graph.constant(1.0, np.float32))
        return graph.to_model({"sum": gradient.weighted_sum(graph, factors)}, "clipped_sum")


def measure(shape: tuple[int, int, int, int], num_runs: int) -> tuple[float, float]:
    """Median milliseconds of the ghost form and of the written-out one."""
    batch, positions, rows, columns = shape
    rng = np.random.default_rng(0)
    feeds = {
        "left": rng.standard_normal((batch, positions, rows), dtype=np.float32),
        "right": rng.standard_normal((batch, positions, columns), dtype=np.float32),
    }
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions = [
        onnxruntime.InferenceSession(
            clipped_sum(shape, is_ghost=is_ghost).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for is_ghost in (True, False)
    ]
    times_ms: list[list[float]] = [[], []]
    for _ in range(num_runs):
        for session, taken in zip(sessions, times_ms, strict=True):
            start = time.process_time_ns()
            session.run(None, feeds)
            taken.append((time.process_time_ns() - start) / 1e6)
    ghost, written_out = (float(np.median(taken)) for taken in times_ms)
    return ghost, written_out


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=21)
    num_runs = parser.parse_args().runs
    print("| batch | T | rows | columns | T (rows + columns) / (rows columns) | ghost ms | written out ms | chosen |")
    print("|---|---|---|---|---|---|---|---|")
    for shape in SHAPES:
        _, positions, rows, columns = shape
        ghost, written_out = measure(shape, num_runs)
        ratio = positions * (rows + columns) / (rows * columns)
        chosen = "ghost" if ratio <= 1 else "written out"
        sizes = " | ".join(str(size) for size in shape)
        print(f"| {sizes} | {ratio:.2f} | {ghost:.3f} | {written_out:.3f} | {chosen} |", flush=True)


if __name__ == "__main__":
    main()
