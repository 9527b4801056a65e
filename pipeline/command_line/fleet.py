"""`handheld fleet run`: how fast this machine emulates a fleet."""

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from device_runtime.console import JsonOption, print_result
from pipeline.run_file import read_run_file

if TYPE_CHECKING:
    from pipeline.fleet.load import Load, RoundLoad

EXAMPLE = "handheld fleet run docs/examples/run.toml --phones 200 --rounds 3"


def run(
    run_file: Annotated[
        Path, typer.Argument(help="Whose data, fleet, rounds and training are taken (docs/run-file.md).")
    ],
    phones: Annotated[
        int | None, typer.Option(min=1, help="Phones in place of the file's clients; the cohort grows with them.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to hold.")] = 3,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that compute, in place of the file's workers.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Load a fleet without a search: rounds of the space's smallest network with the first of each hyper-parameter.

    The real server application and the real client on a virtual clock; training is really computed. With more phones
    than the file has clients, several hold the same examples. Nothing is kept.
    """
    request_file = read_run_file(run_file)
    with Console(stderr=True).status("importing torch"):
        from pipeline.fleet.load import LoadRequest, run_load  # noqa: PLC0415  (help must not wait for torch)
    request = LoadRequest(request_file, rounds, phones, workers)
    with tempfile.TemporaryDirectory(prefix="handheld-fleet-") as folder, _progress() as progress:
        task = progress.add_task("compiling", total=rounds, note="")

        def watch(num_rounds: int, num_reports: int) -> None:
            progress.update(task, description="rounds", completed=num_rounds, note=f"{num_reports} reports")

        load = run_load(request, Path(folder), time.perf_counter, watch)
    print_result(load, json, _table(load))


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )


def _table(load: "Load") -> Group:
    phones = ", ".join(f"{count} {name}" for name, count in load.phones.items())
    workers = "this process" if load.num_workers == 1 else f"{load.num_workers} processes"
    table = Table(
        title=f"{sum(load.phones.values())} phones, {load.num_parameters:,} parameters", box=SIMPLE_HEAD, padding=0
    )
    for name in ("round", "reports", "virtual s", "wall s", "updates/s", "device s", "KiB up", "KiB down"):
        table.add_column(name, justify="right")
    for entry in load.rounds:
        table.add_row(*_cells(entry, load.cohort_size))
    return Group(
        table,
        f"phones: {phones}",
        f"compiled in {load.compile_s:.1f} s, then computed in {workers}; virtual s is the fleet's clock, wall s ours",
    )


def _cells(entry: "RoundLoad", cohort_size: int) -> tuple[str, ...]:
    return (
        str(entry.number + 1),
        f"{entry.num_reports} of {cohort_size}" + (f" ({entry.reason})" if entry.reason else ""),
        f"{entry.virtual_s:.1f}",
        f"{entry.wall_s:.2f}",
        f"{entry.updates_per_s:.1f}",
        f"{entry.device_seconds:.2f}",
        f"{entry.bytes_up / 1024:.0f}",
        f"{entry.bytes_down / 1024:.0f}",
    )
