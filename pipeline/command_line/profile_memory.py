"""Peak memory of a network's inference and gradient step, for `handheld profile predict`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.table import Table

from search.architecture import Architecture

if TYPE_CHECKING:
    from pipeline.compile.process_memory import ProcessMemory

Interval = tuple[float, float]


@dataclass(frozen=True)
class PeakMemory:
    """How much a process grows, the same on every device.

    Attributes:
        interval80_mib, interval95_mib: Where four of five, and 19 of 20, measured networks lie.
        method: Whether it was counted on the compiled graph, or on the architecture without compiling it.
    """

    peak_mib: float
    interval80_mib: Interval
    interval95_mib: Interval
    method: Literal["graph", "architecture"]


@dataclass(frozen=True)
class PeakMemories:
    """Of both kinds of work; None where nothing tells, then a warning says why."""

    inference: PeakMemory | None
    training_step: PeakMemory | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Graphs:
    """What there is of a network as ONNX.

    Attributes:
        shipped: A model with its parameters.
        gradient: `gradient.onnx`, for `batch_size` examples.
    """

    shipped: bytes | None = None
    gradient: bytes | None = None
    batch_size: int | None = None


def predict_memories(architecture: Architecture | None, graphs: Graphs, batch_size: int) -> PeakMemories:
    """Of one inference, and of a gradient step of `batch_size` examples; from graphs where they are there."""
    # torch, ONNX and ONNX Runtime: help must not wait for them.
    from pipeline.compile.process_memory import (  # noqa: PLC0415
        predict_inference_memory,
        predict_memory,
        predict_step_memory,
    )

    inference, training_step, warnings = None, None, []
    if architecture is not None:
        inference = _told(predict_inference_memory(_exported(architecture)), "graph")
    elif graphs.shipped is not None:
        shipped = graphs.shipped
        inference, told = _tried(lambda: predict_inference_memory(_of_one_example(shipped)))
        warnings += [f"the peak memory of an inference is not predicted: {one}" for one in told]
    else:
        warnings.append(
            "the peak memory of an inference is not predicted: an artifact of a module of your own does not hold the "
            "model as it is shipped; predict its ONNX file"
        )
    if graphs.gradient is not None and graphs.batch_size == batch_size:
        training_step = _told(predict_memory(graphs.gradient), "graph")
    elif architecture is not None:
        training_step = _told(predict_step_memory(architecture, batch_size), "architecture")
    else:
        cure = "compile the module and predict its artifact"
        if graphs.gradient is not None:
            cure = f"the artifact's steps are of {graphs.batch_size} examples; compile it for {batch_size}"
        warnings.append(f"the peak memory of a gradient step is not predicted: {cure}")
    return PeakMemories(inference, training_step, tuple(warnings))


def memory_table(memories: PeakMemories) -> Table:
    """Both, with their intervals."""
    table = Table()
    for column in ("peak memory", "MiB", "80%", "95%", "known by"):
        table.add_column(column, justify="left" if column in {"peak memory", "known by"} else "right", no_wrap=True)
    for name, one in (("inference", memories.inference), ("gradient step", memories.training_step)):
        if one is None:
            table.add_row(name, "", "", "", "")
        else:
            ends = (f"{low:.3g} - {high:.3g}" for low, high in (one.interval80_mib, one.interval95_mib))
            table.add_row(name, f"{one.peak_mib:.3g}", *ends, one.method)
    return table


def _told(found: "ProcessMemory", method: Literal["graph", "architecture"]) -> PeakMemory:
    def mib(ends: Interval) -> Interval:
        return ends[0] / 2**20, ends[1] / 2**20

    return PeakMemory(found.resident / 2**20, mib(found.interval80), mib(found.interval95), method)


def _tried(predict: Callable[[], "ProcessMemory"]) -> tuple[PeakMemory | None, list[str]]:
    """Of a file that anybody wrote: what cannot be followed is told, and the rest is still predicted."""
    from pipeline.compile.builder import CompileError  # noqa: PLC0415

    try:
        return _told(predict(), "graph"), []
    except CompileError as error:
        return None, [str(error)]


def _exported(architecture: Architecture) -> bytes:
    """The shipped model for one example; its parameters' values do not matter."""
    from pipeline.network import build_module  # noqa: PLC0415
    from pipeline.ship.network import TrainedNetwork  # noqa: PLC0415
    from pipeline.ship.onnx_export import model_of  # noqa: PLC0415
    from search.layers import layers_of  # noqa: PLC0415

    network = TrainedNetwork(build_module(layers_of(architecture)), architecture.input_shape).eval()
    return _of_one_example(model_of(network).SerializeToString())


def _of_one_example(graph: bytes) -> bytes:
    import onnx  # noqa: PLC0415

    from pipeline.onnx_kernels import of_one_example  # noqa: PLC0415

    return bytes(of_one_example(onnx.load_from_string(graph)).SerializeToString())
