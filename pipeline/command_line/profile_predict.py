"""`handheld profile predict`: what a network costs on phones, and how sure that is."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.table import Table

from device_runtime.console import JsonOption, print_result
from device_runtime.external_data import fault_of
from pipeline.command_line.compile import read_record
from pipeline.command_line.profile_memory import Graphs, PeakMemories, PeakMemory, memory_table, predict_memories
from profiles.catalogue import catalogue_names, load_profile
from profiles.checking import OLD_LABELS, find_faults
from profiles.energy import big_core_curve, energy_mj
from profiles.kernel import Kernel
from profiles.predict import Method, Prediction, predict_kernels
from profiles.records import RecordError, from_plain
from profiles.schema import DeviceProfile
from search.architecture import Architecture
from search.cost import Cost, cost_of, kernels_of, training_kernels_of

if TYPE_CHECKING:
    from device_runtime.artifact import Artifact

EXAMPLE = "handheld profile predict docs/examples/architecture.json --profile pixel-4"
BATCH_SIZE = 16  # of the pack that ships with the client
MAX_BATCH_SIZE = 2**16  # what is reckoned by example grows with it, at 10**9 to 20 GB
Interval = tuple[float, float]


@dataclass(frozen=True)
class Network:
    """What is asked for.

    Attributes:
        architecture: None for a graph that is of no space of ours.
        graphs: What peak memory is counted on.
        warnings: What could not be read off it.
    """

    architecture: Architecture | None
    inference: tuple[Kernel, ...]
    training: tuple[Kernel, ...]
    graphs: Graphs
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Work:
    """What one piece of work takes.

    Attributes:
        p90_ms: Nine of ten runs take less; None for work of many runs.
        interval80_ms, interval95_ms: Where the median of four of five, and of 19 of 20, such networks lies.
        method: How the least sure of its kernels is known.
        energy_mj: Above idle, on the fastest core; None where no power is published.
    """

    median_ms: float
    p90_ms: float | None
    interval80_ms: Interval
    interval95_ms: Interval
    method: Method
    energy_mj: float | None


@dataclass(frozen=True)
class PredictedCost:
    """What a network costs on one device, as `handheld profile predict` gives it.

    Attributes:
        batch_size: Examples of one gradient step.
        num_steps: Gradient steps of a local round.
        inference_memory, training_step_memory: None where nothing tells it; a warning says why.
        cost: What a search reckons with; None for a graph of no space of ours.
    """

    profile: str
    device_class: str
    batch_size: int
    latency: Work
    training_step: Work
    num_steps: int
    local_round: Work
    inference_memory: PeakMemory | None
    training_step_memory: PeakMemory | None
    cost: Cost | None
    warnings: tuple[str, ...]


def predict(  # noqa: PLR0913  (the command's own options)
    what: Annotated[
        Path,
        typer.Argument(help="JSON of an Architecture, a folder with an artifact, or any ONNX file.", metavar="WHAT"),
    ],
    *,
    profile: Annotated[
        list[str] | None,
        typer.Option(help="Name in the catalogue, or a profile's file; left out, all of the catalogue."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_BATCH_SIZE, help="B, the examples of one gradient step; left out, the artifact's, or 16."
        ),
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="On the device, for the time of a local round.")] = 100,
    epochs: Annotated[int, typer.Option(min=1, help="Of a local round.")] = 1,
    json: JsonOption = False,
) -> None:
    """Predict latency, training, memory and energy of a network on phones, with the intervals they lie in."""
    network = read_network(what)
    size = batch_size or network.graphs.batch_size or BATCH_SIZE
    num_steps = epochs * ceil(examples / size)
    profiles = [load_profile(name) for name in profile or catalogue_names()]
    memories = predict_memories(network.architecture, network.graphs, size)
    costs = [predict_cost(network, one, size, num_steps, memories) for one in profiles]
    print_result(costs, json, _view(costs, memories))


def read_network(what: Path) -> Network:
    """Read what is to be predicted.

    Raises:
        RecordError: A file that is none of those.
        ValueError: A graph that cannot be followed.
    """
    if what.is_dir():
        # ONNX Runtime and ONNX: help must not wait for them.
        from device_runtime.artifact import read_artifact  # noqa: PLC0415

        return _network_of_artifact(read_artifact(what))
    if what.suffix == ".onnx":
        return _network_of_graph(what.read_bytes(), str(what))
    return _network_of(read_record(Architecture, what), Graphs())


def predict_cost(
    network: Network, profile: DeviceProfile, batch_size: int, num_steps: int, memories: PeakMemories
) -> PredictedCost:
    """One network on one device; a local round has `num_steps` gradient steps of `batch_size` examples."""
    latency = predict_kernels(profile, network.inference, 1, "forward")
    step = predict_kernels(profile, network.training, batch_size, "gradient")
    unstable = (
        () if profile.is_stable else (f"profile {profile.name!r} is unstable, measure again: {profile.warnings[0]}",)
    )
    cost = cost_of(network.architecture, profile, batch_size) if network.architecture else None
    old = (f"profile {profile.name!r} was {OLD_LABELS}",) if OLD_LABELS in find_faults(profile) else ()
    warnings = (*unstable, *old, *network.warnings, *latency.warnings, *step.warnings, *memories.warnings)
    return PredictedCost(
        profile=profile.name,
        device_class=profile.device_class,
        batch_size=batch_size,
        latency=_work(latency, profile),
        training_step=_work(step, profile),
        num_steps=num_steps,
        local_round=_work(step, profile, num_steps),
        inference_memory=memories.inference,
        training_step_memory=memories.training_step,
        cost=cost,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _network_of(architecture: Architecture, graphs: Graphs) -> Network:
    return Network(architecture, kernels_of(architecture), training_kernels_of(architecture), graphs)


def _network_of_artifact(artifact: "Artifact") -> Network:
    graphs = Graphs(gradient=artifact.gradient, batch_size=artifact.manifest.batch_size)
    try:
        return _network_of(from_plain(Architecture, artifact.manifest.architecture), graphs)
    except RecordError:  # a user's module
        return replace(_network_of_graph(artifact.evaluate, "evaluate.onnx"), graphs=graphs)


def _network_of_graph(data: bytes, name: str) -> Network:
    # ONNX: help must not wait for it.
    import onnx  # noqa: PLC0415

    from pipeline.onnx_kernels import kernels_of_onnx  # noqa: PLC0415

    if fault := fault_of(data):
        raise ValueError(f"{name} {fault}; export it as one ONNX file")
    found = kernels_of_onnx(onnx.load_from_string(data))
    warnings = ["the layers were read off the graph: training is predicted as if it were compiled from these"]
    if found.unknown_operators:
        operators = ", ".join(found.unknown_operators)
        warnings.append(f"operators that are not known: {operators}; measure the model itself where they matter")
    return Network(None, found.kernels, found.kernels, Graphs(shipped=data), tuple(warnings))


def _work(found: Prediction, profile: DeviceProfile, times: int = 1) -> Work:
    curve = big_core_curve(profile)
    scaled: Callable[[Interval], Interval] = lambda ends: (times * ends[0], times * ends[1])  # noqa: E731
    return Work(
        median_ms=times * found.median_ms,
        p90_ms=found.p90_ms if times == 1 else None,
        interval80_ms=scaled(found.interval80_ms),
        interval95_ms=scaled(found.interval95_ms),
        method=found.method,
        energy_mj=None if curve is None else energy_mj(curve, times * found.median_ms),
    )


def _view(costs: list[PredictedCost], memories: PeakMemories) -> Group:
    first = costs[0]
    title = f"chunks of {first.batch_size} examples, {first.num_steps} of them a round"
    if first.cost:
        macs, parameters = f"{first.cost.macs:,} multiply-accumulates", f"{first.cost.parameters:,} parameters"
        title = f"{macs}, {parameters}, {first.cost.size_kib:.1f} KiB; {title}"
    table = Table(title=title, title_justify="left", caption="below: the interval of 80%", caption_justify="left")
    for column in ("profile", "latency ms", "step ms", "round s", "known by"):
        table.add_column(column, justify="left" if column in ("profile", "known by") else "right", no_wrap=True)
    for one in costs:
        table.add_row(*_cells(one))
    warnings = dict.fromkeys(f"warning: {warning}" for one in costs for warning in one.warnings)
    return Group(table, memory_table(memories), *warnings)


def _cells(one: PredictedCost) -> tuple[str, ...]:
    low, high = (end / 1e3 for end in one.local_round.interval80_ms)
    methods = dict.fromkeys((one.latency.method, one.training_step.method))
    return (
        f"{one.profile}\n[dim]{one.device_class}[/dim]",
        _with_ends(one.latency.median_ms, one.latency.interval80_ms),
        _with_ends(one.training_step.median_ms, one.training_step.interval80_ms),
        _with_ends(one.local_round.median_ms / 1e3, (low, high)),
        "\n".join(methods),
    )


def _with_ends(value: float, ends: Interval) -> str:
    return f"{value:.3g}\n[dim]{ends[0]:.3g} - {ends[1]:.3g}[/dim]"
