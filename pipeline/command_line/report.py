"""`handheld report`: what a finished run found and what it cost, as one page."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from device_runtime.console import JsonOption, print_result

EXAMPLE = "handheld report runs/digits"


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run, as `handheld search` made it.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; left out, RUN/report.html.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Folder that `handheld ship` wrote; left out, RUN/bundle where it is there.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write a run's report: one HTML file that opens offline.

    It shows the winner, the Pareto fronts, learning curves, what the clients paid, what was spent of their privacy, the
    network, and what was shipped. The same run gives the same bytes.
    """
    with Console(stderr=True).status("drawing"):
        from pipeline.report.page import ReportRequest, write_report  # noqa: PLC0415  (matplotlib)

        written = write_report(ReportRequest(run, output, bundle))
    told = "" if written.has_bundle else "; nothing was shipped yet, or --bundle does not say where"
    print_result(written, json, f"report: {written.file} ({written.size_bytes / 1024:.0f} KiB){told}")
