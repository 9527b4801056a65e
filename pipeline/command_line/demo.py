"""`handheld demo`: the whole path on digits, without and with privacy."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.table import Table

from device_runtime.console import JsonOption, print_result
from pipeline.command_line.search import SearchView, epsilon_in_words

if TYPE_CHECKING:
    from pipeline.demo.run import DemoRun

EXAMPLE = "handheld demo"


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the demo, made if absent.")] = Path("demo"),
    json: JsonOption = False,
) -> None:
    """Search, train, ship and report on handwritten digits with 30 emulated phones: once plainly, once privately.

    Takes a few minutes. What it makes lies in the folder: a report to open in a browser and a bundle for each run.
    """
    from pipeline.demo.run import run_demo  # noqa: PLC0415  (help must not wait for torch)

    console = Console(stderr=True)
    view = SearchView()

    def watch(name: str) -> SearchView:
        console.rule(name)
        view.clear()
        return view

    with view:
        runs = run_demo(output, watch)
    print_result(runs, json, _view(runs))


def _view(runs: "tuple[DemoRun, ...]") -> Group:
    from pipeline.privacy_spent import epsilon_text  # noqa: PLC0415  (help must not wait for it)

    table = Table(title="what the demo found, trained and shipped")
    for name in ("run", "epsilon", "accuracy as released", "exact (emulator only)", *runs[0].shipped_accuracies):
        table.add_column(name, justify="right")
    for run in runs:
        epsilon = "not private" if run.epsilon is None else f"{epsilon_text(run.epsilon)} (delta {run.delta:g})"
        shipped = (f"{accuracy:.1%}" for accuracy in run.shipped_accuracies.values())
        table.add_row(run.name, epsilon, f"{run.accuracy:.1%}", f"{run.exact_accuracy:.1%}", *shipped)
    words = (epsilon_in_words(run.noise_at) for run in runs if run.noise_at is not None)
    return Group(table, *words, *(f"report: {run.report}" for run in runs), *(f"bundle: {run.bundle}" for run in runs))
