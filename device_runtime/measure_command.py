"""`handheld-device measure` and `handheld profile measure`: time a measurement pack here and write the profile."""

import os
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from device_runtime.console import JsonOption, print_result
from device_runtime.output_files import check_record_output, write_record
from profiles.schema import DeviceClass, DeviceProfile, Figure, Link


def measure(  # noqa: PLR0913  (the command's own options)
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Profile to write, JSON.")],
    pack: Annotated[
        Path | None, typer.Option(help="Folder of a measurement pack; left out, the one that comes along.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the profile; left out, the output's name.")] = None,
    device_class: Annotated[DeviceClass, typer.Option(help="Which budgets of a run file hold for it.")] = "desktop",
    threads: Annotated[int, typer.Option(min=1, help="Threads inside one operator; training uses one.")] = 1,
    link: Annotated[
        str | None, typer.Option(help="Its link as DOWN,UP,LATENCY in Mbit/s and ms; an emulated fleet needs one.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Two minutes at most instead of ten: fewer rounds.")] = False,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Another budget of time.")] = None,
    json: JsonOption = False,
) -> None:
    """Measure what this device can do, networks whole and kernel by kernel, and write its profile.

    Nothing else should run meanwhile: what disturbs the times is told in the profile's warnings.
    """
    check_record_output(output, DeviceProfile)
    _check_threads(threads)
    # ONNX Runtime and numpy: help must not wait for them.
    from device_runtime.measure import FULL, QUICK, Measurement, measure_device  # noqa: PLC0415
    from device_runtime.measurement_pack import default_pack, read_pack  # noqa: PLC0415
    from device_runtime.probe import probe_host  # noqa: PLC0415

    plan = QUICK if quick else FULL
    measurement = Measurement(
        pack=read_pack(pack) if pack else default_pack(),
        host=probe_host(),
        name=name or output.stem,
        device_class=device_class,
        plan=plan if minutes is None else replace(plan, budget_s=60 * minutes),
        threads=threads,
        link=None if link is None else read_link(link),
        measured_on=datetime.now(UTC).date().isoformat(),
    )
    output.parent.mkdir(parents=True, exist_ok=True)  # before the work: a folder that cannot be made is told at once
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("measuring networks", total=1.0)
        profile = measure_device(measurement, time.perf_counter, lambda share: progress.update(bar, completed=share))
    write_record(output, profile)
    print_result(profile, json, _view(profile, output))


def _check_threads(threads: int) -> None:
    """Refuse more than can run at once: they wait for each other busily, and no measurement ends."""
    # An affinity may leave fewer cores than there are; not every system tells it.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads > cores:
        raise ValueError(f"--threads must be <= {cores}, the cores that this process may use, got {threads}")


def read_link(text: str) -> Link:
    """Read DOWN,UP,LATENCY; raises ValueError for anything else."""
    try:
        download, upload, latency = map(float, text.split(","))
    except ValueError as error:
        raise ValueError(f"link must be DOWN,UP,LATENCY as 50,20,30 (Mbit/s, Mbit/s, ms), got {text!r}") from error
    if min(download, upload) <= 0:
        raise ValueError(f"link must have speeds > 0, got {text!r}")
    values = ((download, "Mbit/s"), (upload, "Mbit/s"), (latency, "ms"))
    return Link(*(Figure(value, unit, "estimated", "given to --link by whoever measured") for value, unit in values))


def _view(profile: DeviceProfile, output: Path) -> Table:
    table = Table(title=f"profile {profile.name} in {output}", show_header=False, title_justify="left")
    table.add_row(
        "CPU", f"{profile.soc}, {sum(cluster.num_cores for cluster in profile.clusters)} cores, {profile.abi}"
    )
    table.add_row("memory", f"{profile.ram_mib.value:,.0f} MiB")
    table.add_row("system", profile.os)
    table.add_row("runtime", f"{profile.runtime.name} {profile.runtime.version}, {profile.threads} thread(s)")
    call_ms, (session,) = profile.throughput.call_overhead_ms.value, profile.sessions
    table.add_row("kernels", f"{len(profile.kernels)} in {len(profile.networks)} graphs; a call takes {call_ms:.4f} ms")
    table.add_row("stability", f"grade {session.grade}: rounds differ by {session.drift:.1%}")
    table.add_row("took", f"{session.seconds:.0f} s, {session.rounds} rounds")
    for warning in profile.warnings:
        table.add_row("warning", warning)
    return table
