"""`handheld ship`: a finished run becomes a bundle for apps."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.table import Table

from device_runtime.console import JsonOption, print_result

if TYPE_CHECKING:
    from pipeline.ship.bundle import Shipped

EXAMPLE = "handheld ship runs/digits -o runs/digits/bundle"


def ship(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run, as `handheld search` wrote it.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; a bundle there is replaced whole.")],
    platform: Annotated[
        str | None, typer.Option(help="Whose model, by its profile's name; needed when the run has several models.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write the trained model for ONNX Runtime and ExecuTorch, with model card, input specification, golden examples.

    Every written file is run here and compared with the trained model; one that differs by more than 1e-4 is refused.
    """
    with Console(stderr=True).status("importing torch") as status:
        from pipeline.ship.bundle import ship_run  # noqa: PLC0415  (heavy)

        shipped = ship_run(run, output, status.update, platform)
    print_result(shipped, json, _view(shipped))


def _view(shipped: "Shipped") -> Group:
    from pipeline.limits import limits_in_words  # noqa: PLC0415  (help must not wait for it)

    return Group(_table(shipped), f"model of trial {shipped.trial}", *map(limits_in_words, shipped.platforms))


def _table(shipped: "Shipped") -> Table:
    bundle, models = shipped.bundle, {model.file: model for model in shipped.bundle.variants[0].files}
    table = Table(title=f"bundle of {bundle.run} in {shipped.folder}", title_justify="left")
    table.add_column("file")
    table.add_column("KiB", justify="right")
    table.add_column("checked on")
    table.add_column("difference", justify="right")
    for name, entry in bundle.files.items():
        model = models.get(name)
        told = (model.runtime, f"{model.max_difference:.1e}") if model else ("", "")
        table.add_row(name, f"{entry.size_bytes / 1024:.1f}", *told)
    table.caption = f"difference: largest from the trained model, at most {shipped.parity.tolerance:g}"
    return table
