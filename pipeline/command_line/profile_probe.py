"""`handheld profile probe`: what the files of a Linux or Android system tell of it."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from device_runtime.console import JsonOption, print_result
from device_runtime.probe import DevicePart, describe_device
from device_runtime.system_files import read_dump, read_root
from profiles.schema import Cluster, Figure

EXAMPLE = "handheld profile probe --dump phone.txt"


def probe(
    root: Annotated[
        Path, typer.Option(help="Folder with the system's /proc and /sys; this machine's own if left out.")
    ] = Path("/"),
    dump: Annotated[
        Path | None, typer.Option(help='Instead: one file, JSON of texts by path or what `grep -sH ""` printed.')
    ] = None,
    json: JsonOption = False,
) -> None:
    """Tell what CPU, memory and battery a device has, from files of its system; nothing is measured."""
    found = describe_device(read_dump(dump) if dump else read_root(root))
    print_result(found, json, _table(found))


def _table(found: DevicePart) -> Table:
    table = Table(show_header=False)
    table.add_row("SoC", found.soc)
    for cluster in found.clusters:
        table.add_row("cores", _cluster(cluster))
    table.add_row("ABI", found.abi or "not told")
    table.add_row("memory", _figure(found.ram_mib))
    table.add_row("battery", _figure(found.battery_mah))
    table.add_row("system", found.os or "not told")
    table.add_row("governors", ", ".join(found.governors) or "not told")
    for warning in found.warnings:
        table.add_row("warning", warning)
    return table


def _cluster(cluster: Cluster) -> str:
    mhz = f"up to {cluster.max_mhz.value:,.0f} MHz" if cluster.max_mhz else "no frequency told"
    return f"{cluster.num_cores} x {cluster.core}, {mhz}"


def _figure(figure: Figure | None) -> str:
    return f"{figure.value:,.0f} {figure.unit}" if figure else "not told"
