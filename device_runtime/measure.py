"""Time the graphs of a measurement pack on plain ONNX Runtime, in rounds, and write what was found as a profile."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from device_runtime.measurement_pack import Pack, PackEntry
from device_runtime.probe import Host
from device_runtime.timing import MAX_SPREAD, find_instability, summarize
from profiles.rates import fit_throughput
from profiles.schema import DeviceClass, DeviceProfile, Figure, KernelTime, Link, Runtime

Clock = Callable[[], float]  # seconds, from any start
Array = NDArray[np.float32] | NDArray[np.int64]
Samples = list[list[float]]  # milliseconds of one entry, by round
CALL_KIND = "call"


@dataclass(frozen=True)
class MeasurePlan:
    """How long to measure.

    Attributes:
        num_rounds: How often every graph is visited, all in turns.
        extra_rounds: How often at most a graph whose times spread widely is visited on top.
        visit_ms: Time for the samples of one visit.
        num_warm_up, min_samples, max_samples: Runs of one visit, untimed and timed.
    """

    num_rounds: int
    extra_rounds: int
    visit_ms: float
    num_warm_up: int = 3
    min_samples: int = 5
    max_samples: int = 200


FULL = MeasurePlan(num_rounds=7, extra_rounds=8, visit_ms=15)
QUICK = MeasurePlan(num_rounds=3, extra_rounds=0, visit_ms=3)


@dataclass(frozen=True)
class Measurement:
    """What to measure and on what.

    Attributes:
        name: Of the profile.
        plan: `FULL` or `QUICK`.
        threads: Threads inside one operator.
        link: Of the device, where its owner knows it: nothing is sent to find out.
    """

    pack: Pack
    host: Host
    name: str
    device_class: DeviceClass
    plan: MeasurePlan = FULL
    threads: int = 1
    link: Link | None = None

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads must be >= 1, got {self.threads}")


def measure_device(measurement: Measurement, clock: Clock, advance: Callable[[], None]) -> DeviceProfile:
    """Run the pack and write the profile.

    Args:
        clock: The process's, e.g. `time.perf_counter`.
        advance: Called after each of `num_visits` visits, for a progress bar.
    """
    samples: list[Samples] = [[] for _ in measurement.pack.manifest.entries]
    for _ in range(measurement.plan.num_rounds):
        # In turns, never one graph to its end: heat and other programs then show as a slow round, not a slow kernel.
        for entry, rounds in zip(measurement.pack.manifest.entries, samples, strict=True):
            rounds.append(visit(measurement, entry, clock))
            advance()
    warnings = find_instability(samples)
    _visit_again(measurement, samples, clock)
    return _profile(measurement, samples, warnings)


def num_visits(measurement: Measurement) -> int:
    """How often `measure_device` advances."""
    return measurement.plan.num_rounds * len(measurement.pack.manifest.entries)


def visit(measurement: Measurement, entry: PackEntry, clock: Clock) -> list[float]:
    """Open one graph, warm it up and time runs: milliseconds each."""
    plan = measurement.plan
    run = _open(measurement.pack.graphs[entry.sha256], measurement.threads)
    for _ in range(plan.num_warm_up):
        run()
    samples: list[float] = []
    while len(samples) < plan.min_samples or (sum(samples) < plan.visit_ms and len(samples) < plan.max_samples):
        start = clock()
        run()
        samples.append((clock() - start) * 1e3)
    return samples


def _visit_again(measurement: Measurement, samples: list[Samples], clock: Clock) -> None:
    for _ in range(measurement.plan.extra_rounds):
        for entry, rounds in zip(measurement.pack.manifest.entries, samples, strict=True):
            if summarize(rounds).spread > MAX_SPREAD:
                rounds.append(visit(measurement, entry, clock))


def _open(graph: bytes, threads: int) -> Callable[[], None]:
    """A run of the graph over fixed inputs into outputs that stay where they are: nothing but the graph is timed."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    # One layer alone would be brought into the CPU's own layout and back, which a network does once.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    inputs = {value.name: onnxruntime.OrtValue.ortvalue_from_numpy(_fill(value)) for value in session.get_inputs()}
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, value)
    for value in session.get_outputs():
        binding.bind_output(value.name)
    session.run_with_iobinding(binding)
    outputs = binding.get_outputs()
    for value, output in zip(session.get_outputs(), outputs, strict=True):
        binding.bind_ortvalue_output(value.name, output)

    def run(_alive: object = inputs) -> None:  # the binding keeps addresses, not the arrays behind them
        session.run_with_iobinding(binding)

    return run


def _fill(value: onnxruntime.NodeArg) -> Array:
    """Values for an input: normal ones, label 0."""
    if value.type == "tensor(int64)":
        return np.zeros(value.shape, np.int64)
    normal: Array = np.random.default_rng(0).standard_normal(value.shape).astype(np.float32)
    return normal


def _profile(measurement: Measurement, samples: list[Samples], warnings: tuple[str, ...]) -> DeviceProfile:
    host, pack = measurement.host, measurement.pack
    times = tuple(
        KernelTime(entry.kernel, entry.batch_size, entry.direction, **asdict(summarize(rounds)))
        for entry, rounds in zip(pack.manifest.entries, samples, strict=True)
    )
    call_ms = min((time.median_ms for time in times if time.kernel.kind == CALL_KIND), default=0.0)
    source = f"measured by Handheld on the device: measurement pack {pack.pack_id[:12]}"
    return DeviceProfile(
        name=measurement.name,
        device_class=measurement.device_class,
        soc=host.cpu,
        clusters=host.clusters,
        ram_mib=host.ram_mib,
        battery_mah=host.battery_mah,
        abi=host.abi,
        os=host.os,
        runtime=Runtime("onnxruntime", onnxruntime.__version__),
        threads=measurement.threads,
        link=measurement.link,
        throughput=fit_throughput(times, Figure(call_ms, "ms", "measured", source)),
        kernels=times,
        is_stable=not warnings,
        warnings=(*warnings, *host.warnings),
    )
