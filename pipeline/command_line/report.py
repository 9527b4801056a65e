"""`handheld report`: what a finished run found and what it cost, as one page; or the cost alone, with a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.table import Table

from device_runtime.console import JsonOption, print_result

if TYPE_CHECKING:
    from pipeline.report.costs import CostRow, Costs
    from pipeline.report.savings import Saving
    from pipeline.run_result import RunResult

EXAMPLE = "handheld report runs/digits"
PICTURES = (".svg", ".png")


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run, as `handheld search` made it.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File to write; left out, RUN/report.html. With --cost, a picture: .svg or .png."
        ),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Folder that `handheld ship` wrote; left out, RUN/bundle where it is there.")
    ] = None,
    cost: Annotated[
        bool, typer.Option("--cost", help="Tell what the clients paid, by phase and optimisation, and write no page.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Write a run's report: one HTML file that opens offline.

    It shows the winner, the Pareto fronts, learning curves, what the clients paid, what was spent of their privacy, the
    network, and what was shipped. The same run gives the same bytes.

    With --cost there are tables of what the clients paid and no page; with a file, also their picture: handheld report
    runs/digits --cost -o cost.svg
    """
    if cost:
        if bundle is not None:
            raise typer.BadParameter("--cost writes no page: leave --bundle out")
        if output is not None and output.suffix not in PICTURES:
            raise typer.BadParameter(f"--cost draws a picture: -o must end in {' or '.join(PICTURES)}, got {output}")
        _tell_cost(run, output, json)
        return
    with Console(stderr=True).status("drawing"):
        from pipeline.limits import limits_in_words  # noqa: PLC0415  (help must not wait for it)
        from pipeline.report.page import ReportRequest, write_report  # noqa: PLC0415  (matplotlib)

        written = write_report(ReportRequest(run, output, bundle))
        limits = [limits_in_words(needs) for needs in written.platforms]
    told = "" if written.has_bundle else "; nothing was shipped yet, or --bundle does not say where"
    print_result(written, json, Group(f"report: {written.file} ({written.size_bytes / 1024:.0f} KiB){told}", *limits))


def _tell_cost(folder: Path, picture: Path | None, json: bool) -> None:
    from pipeline.report.costs import (  # noqa: PLC0415  (help must not wait for it)
        costs_of,
        tells_what_was_thrown_away,
        thrown_away,
        thrown_away_in_words,
    )
    from pipeline.report.formats import percent  # noqa: PLC0415
    from pipeline.report.savings import savings_of  # noqa: PLC0415
    from pipeline.run_result import read_result  # noqa: PLC0415

    result = read_result(folder)
    costs, savings = costs_of(result), savings_of(result)
    lost = thrown_away(result) if tells_what_was_thrown_away(result) else None
    told = {"stages": costs.stages, "total": costs.total, "savings": savings, "thrown_away": lost}
    tables = [_cost_table(result, costs), *([_savings_table(savings)] if savings else [])]
    words = [] if lost is None else [f"{percent(lost)} {thrown_away_in_words(result)}"]
    if picture is not None:
        _draw(picture, result, costs, savings)
        told["picture"] = str(picture)
        words.append(f"picture: {picture}")
    print_result(told, json, Group(*tables, *words))


def _draw(picture: Path, result: "RunResult", costs: "Costs", savings: "Sequence[Saving]") -> None:
    with Console(stderr=True).status("drawing"):
        from pipeline.report.cost_plots import write_cost_picture  # noqa: PLC0415  (matplotlib)

        write_cost_picture(picture, result.name, costs, savings)


def _cost_table(result: "RunResult", costs: "Costs") -> Table:
    from pipeline.report.costs import BYTES_IN_WORDS, seconds_in_words  # noqa: PLC0415  (help must not wait for it)

    table = Table(title=f"{result.name}: what its clients paid", title_justify="left", caption_justify="left")
    for name in ("phase", "stage"):
        table.add_column(name, no_wrap=True)
    for name in ("client-\nrounds", "evalu-\nations", "seconds", "bytes\nup", "bytes\ndown"):  # whole in 80 columns
        table.add_column(name, justify="right", no_wrap=True)
    for row in costs.stages:
        table.add_row(*_cost_cells(row))
    table.add_section()
    table.add_row(*_cost_cells(costs.total), style="bold")
    table.caption = f"Client-rounds: of training. Seconds of clients: {seconds_in_words(result)}. {BYTES_IN_WORDS}"
    return table


def _savings_table(savings: "Sequence[Saving]") -> Table:
    from pipeline.report.formats import significant, size  # noqa: PLC0415  (help must not wait for it)

    table = Table(title="what each optimisation saved the search", title_justify="left", caption_justify="left")
    table.add_column("without")
    for name in ("client-\nrounds", "seconds", "bytes", "times"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in savings:
        figures = f"{row.client_rounds:,}", significant(row.client_seconds), size(row.num_bytes), f"{row.times:.2f}"
        table.add_row(row.without or "as it was", *figures)
    table.caption = "client-rounds of training, the rest with scoring; counted from what candidates did cost"
    return table


def _cost_cells(row: "CostRow") -> tuple[str, ...]:
    from pipeline.report.formats import figure_told, size  # noqa: PLC0415  (help must not wait for it)

    counts = f"{row.client_rounds:,}", f"{row.evaluations:,}"
    return row.name, row.stage, *counts, figure_told(row.client_seconds), size(row.bytes_up), size(row.bytes_down)
