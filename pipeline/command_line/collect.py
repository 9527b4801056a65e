"""`handheld profile collect`: profiles of the devices that a running server knows."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from device_runtime.console import JsonOption, print_result

if TYPE_CHECKING:
    from pipeline.collecting import Collected

EXAMPLE = "handheld profile collect --state runs/server --quick -o runs/profiles"
POLL_S = 0.2


def collect(  # noqa: PLR0913  (the command's own options)
    *,
    state: Annotated[Path, typer.Option(help="State folder of a running `handheld serve`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write one profile for each device to.")],
    pack: Annotated[
        Path | None, typer.Option(help="Folder of a measurement pack; left out, the one that comes along.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds: seconds instead of half a minute.")] = False,
    min_reports: Annotated[int, typer.Option(min=1, help="Fewer profiles at the deadline are an error.")] = 1,
    deadline: Annotated[float, typer.Option(min=1.0, help="Seconds to wait for devices that are not there.")] = 600.0,
    json: JsonOption = False,
) -> None:
    """Ask the devices of a running server to measure themselves, and write their profiles.

    Waits until every device that is enrolled has reported, or for the deadline. Their examples are not touched, and no
    privacy budget is charged.
    """
    from device_runtime.measurement_pack import DEFAULT_PACK  # noqa: PLC0415
    from pipeline.collecting import CollectRequest, collect_profiles  # noqa: PLC0415  (imports the database)

    request = CollectRequest(state, pack or DEFAULT_PACK, quick, min_reports, deadline)
    columns = TextColumn("waiting for profiles"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=None)

        def wait(num_reported: int, num_wanted: int) -> None:
            progress.update(bar, completed=num_reported, total=num_wanted)
            time.sleep(POLL_S)

        collected = collect_profiles(request, output, time.time, wait)
    print_result(collected, json, _table(collected, output))


def _table(collected: "tuple[Collected, ...]", folder: Path) -> Table:
    table = Table(title=f"profiles in {folder}, each in DEVICE.json", title_justify="left")
    for column in ("device", "class", "SoC", "cores", "memory MiB", "kernels", "stable"):
        table.add_column(column, justify="right" if column in {"cores", "memory MiB", "kernels"} else "left")
    for one in collected:
        numbers = (str(one.num_cores), f"{one.ram_mib:,.0f}", str(one.num_kernels))
        # Text: what a device says of itself is no markup.
        cells = (Path(one.file).stem, one.device_class, one.soc, *numbers, "yes" if one.is_stable else "no")
        table.add_row(*(Text(cell) for cell in cells))
    return table
