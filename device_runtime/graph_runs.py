"""Run one graph of a measurement pack on plain ONNX Runtime: timed as it is, or watched node by node."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from device_runtime.node_times import find_shares, kernel_times, node_counts, read_nodes, read_runs
from profiles.kernel import Kernel
from profiles.schema import Direction

Clock = Callable[[], float]  # seconds, from any start
Values = NDArray[np.float32] | NDArray[np.int64]
_LONG = 20  # visits' time, after which no run is repeated: one network shall not take the others' time
_SCALE = np.float32(0.1)  # of inputs: a deep network of normal parameters would leave float32's range


@dataclass(frozen=True)
class VisitPlan:
    """How long one visit to a graph is.

    Attributes:
        visit_ms: Time for the samples, once as they are and once watched.
        num_warm_up, min_samples, max_samples: Runs, not counted and counted; fewer of graphs that take long.
        max_watched: Timed runs under the profiler, which writes a line a node.
    """

    visit_ms: float
    num_warm_up: int = 3
    min_samples: int = 5
    max_samples: int = 100
    max_watched: int = 16


@dataclass(frozen=True, eq=False)
class Watched:
    """Runs under the node profiler.

    Attributes:
        kernels_ms: Of each kernel in each run, [runs, kernels], with what the profiler adds to each node.
        num_nodes: Of each kernel, [kernels]; 0 where the runtime left nothing of its own of it.
    """

    kernels_ms: NDArray[np.float64]
    num_nodes: NDArray[np.float64]


@dataclass(frozen=True)
class GraphRun:
    """A graph that is to be run.

    Attributes:
        threads: Threads inside one operator.
    """

    graph: bytes
    direction: Direction
    kernels: tuple[Kernel, ...]
    threads: int

    def open(self, watched_in: Path | None = None) -> "OpenGraph":
        """Open it, under the profiler where a folder for what it writes is given."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 3
        # As `device_runtime.session` has it for an artifact's graphs; apps keep the default for shipped models.
        options.enable_mem_pattern = self.direction == "forward"
        if watched_in is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(watched_in / "profile")
            options.optimized_model_filepath = str(watched_in / "optimised.onnx")
        return OpenGraph(onnxruntime.InferenceSession(self.graph, options, providers=["CPUExecutionProvider"]))


class OpenGraph:
    """A session with fixed inputs, and outputs that stay where they are: nothing but the graph is timed."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        self._binding = session.io_binding()
        # The binding keeps addresses, not the arrays behind them.
        self._alive = [onnxruntime.OrtValue.ortvalue_from_numpy(_fill(value)) for value in session.get_inputs()]
        for value, held in zip(session.get_inputs(), self._alive, strict=True):
            self._binding.bind_ortvalue_input(value.name, held)
        for value in session.get_outputs():
            self._binding.bind_output(value.name)
        self.run()
        for value, output in zip(session.get_outputs(), self._binding.get_outputs(), strict=True):
            self._alive.append(output)
            self._binding.bind_ortvalue_output(value.name, output)

    def run(self) -> None:
        """Run the graph once."""
        self.session.run_with_iobinding(self._binding)


def time_graph(run: GraphRun, plan: VisitPlan, clock: Clock) -> list[float]:
    """Open a graph, warm it up and time runs: milliseconds each."""
    return _time_runs(run.open(), plan, plan.max_samples, clock)


def watch_graph(run: GraphRun, plan: VisitPlan, clock: Clock) -> Watched:
    """Open a graph under the node profiler and run it.

    Raises:
        AttributionError: The time of a node is of no kernel.
    """
    with tempfile.TemporaryDirectory(prefix="handheld-profile-") as name:
        folder = Path(name)
        opened = run.open(folder)
        num_runs = len(_time_runs(opened, plan, plan.max_watched, clock))
        profile = Path(opened.session.end_profiling()).read_text(encoding="utf-8")
        nodes = read_nodes((folder / "optimised.onnx").read_bytes())
    shares = find_shares(nodes, run.kernels)
    runs = read_runs(profile, num_runs)
    num_nodes = node_counts(shares, [*runs[-1]], len(run.kernels))
    return Watched(kernel_times(runs, shares, len(run.kernels)), num_nodes)


def _time_runs(opened: OpenGraph, plan: VisitPlan, most: int, clock: Clock) -> list[float]:
    long_ms = _LONG * plan.visit_ms
    warm_up: list[float] = []
    while len(warm_up) < plan.num_warm_up and sum(warm_up) < long_ms:
        warm_up.append(_time_run(opened, clock))
    samples = [_time_run(opened, clock)]
    while len(samples) < most and (
        sum(samples) < plan.visit_ms or (len(samples) < plan.min_samples and sum(samples) < long_ms)
    ):
        samples.append(_time_run(opened, clock))
    return samples


def _time_run(opened: OpenGraph, clock: Clock) -> float:
    start = clock()
    opened.run()
    return (clock() - start) * 1e3


def _fill(value: onnxruntime.NodeArg) -> Values:
    """Values for an input: normal ones, label 0; one example where the batch is free."""
    shape: Sequence[int] = [1 if isinstance(size, str) else size for size in value.shape]
    if value.type == "tensor(int64)":
        return np.zeros(shape, np.int64)
    return np.asarray(_SCALE * np.random.default_rng(0).standard_normal(shape, np.float32))
