"""`handheld profile show`: what is known of a device and from where, as a table or as a page."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.table import Table

from device_runtime.console import JsonOption, print_result
from device_runtime.output_files import check_page_output
from pipeline.report.profile_facts import examples_of, facts_of, sources_of
from profiles.catalogue import load_profile
from profiles.schema import DeviceProfile

EXAMPLE = "handheld profile show pixel-4 --html runs/pixel-4.html"


def show(
    profile: Annotated[str, typer.Argument(help="Name in the catalogue, or a profile's file.")],
    html: Annotated[Path | None, typer.Option(help="Page to write as well: one HTML file that opens offline.")] = None,
    json: JsonOption = False,
) -> None:
    """Show one profile: every figure with where it comes from; with --html as a page with pictures.

    The page draws predicted against measured times, kernels by family and how steady the measurement was, as far as the
    profile has them.
    """
    if html is not None:
        check_page_output(html, (Path(profile),))
    found = load_profile(profile)
    lines = []
    if html is not None:
        with Console(stderr=True).status("predicting and drawing"):
            from pipeline.report.profile_page import write_profile_page  # noqa: PLC0415  (matplotlib)

            size_bytes = write_profile_page(found, html)
        lines.append(f"page: {html} ({size_bytes / 1024:.0f} KiB)")
    print_result(found, json, Group(_view(found), *lines))


def _view(profile: DeviceProfile) -> Group:
    table = Table(title=f"{profile.name} ({profile.device_class}): {profile.soc}, {profile.os}", title_justify="left")
    for column in ("figure", "value", "known", "source"):
        table.add_column(column, justify="right" if column == "source" else "left")
    facts = facts_of(profile)
    for fact in facts:
        value = f"{fact.figure.value:g} {fact.figure.unit}"
        table.add_row(fact.name, value, fact.figure.provenance, str(fact.number))
    sources = Table("source", "", box=None, show_header=False)
    for number, source in enumerate(sources_of(facts), 1):
        sources.add_row(str(number), source)
    return Group(table, sources, *_lines(profile))


def _lines(profile: DeviceProfile) -> list[str]:
    timed = sum(time.repetitions > 0 for time in profile.kernels)
    carried = len(profile.kernels) - timed
    kernels = f"{timed} kernels measured" if timed else "no kernel measured"
    counts = [kernels, *([f"{carried} carried over"] if carried else []), f"{len(profile.networks)} networks"]
    return [
        f"{profile.runtime.name} {profile.runtime.version}, {profile.threads} thread(s); {', '.join(counts)}",
        *(f"{one.model}: {one.median_ms:.3g} ms, known by {one.method}" for one in examples_of(profile)),
        *(
            f"{one.direction}: 80% of networks within {one.low80:.2f} to {one.high80:.2f} times the prediction"
            for one in profile.calibrations
        ),
        *(
            f"session {one.measured_on or 'without a date'}: {one.grade}, drift {one.drift:.1%}"
            for one in profile.sessions
        ),
        *(f"warning: {warning}" for warning in profile.warnings),
    ]
