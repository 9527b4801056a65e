"""`handheld demo`: the whole path on digits, without and with privacy."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table

from device_runtime.console import JsonOption, print_result
from pipeline.command_line.search import SearchView

if TYPE_CHECKING:
    from pipeline.demo.run import DemoModel, DemoRun

EXAMPLE = "handheld demo"


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the demo, made if absent.")] = Path("demo"),
    json: JsonOption = False,
) -> None:
    """Search, train, ship and report on handwritten digits with 30 emulated phones: once plainly, once privately.

    The plain search is FedNAS for two phones with limits of their own. Takes a few minutes. What it makes lies in the
    folder: a report of each run to open in a browser, and a bundle of each model.
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
    from pipeline.privacy_spent import epsilon_in_words, epsilon_text  # noqa: PLC0415  (help must not wait for it)

    table = Table(title="accuracy of what the demo found, trained and shipped", box=SIMPLE_HEAD, pad_edge=False)
    table.caption = "released: as the run tells it; exact: over all test examples, known to the emulator alone"
    files = [file.removeprefix("model") for file in runs[0].models[0].shipped_accuracies]
    for name in ("run", "phones", "epsilon", "released", "exact", *files):
        table.add_column(name, justify="right")
    for run in runs:
        epsilon = "infinite" if run.epsilon is None else epsilon_text(run.epsilon)
        for model in run.models:
            accuracies = (model.accuracy, model.exact_accuracy, *model.shipped_accuracies.values())
            table.add_row(run.name, _phones(model), epsilon, *(f"{one:.1%}" for one in accuracies))
    words = (
        f"epsilon at delta {run.delta:g}; {epsilon_in_words('example', run.noise_at)}" for run in runs if run.noise_at
    )
    reports = (f"report: {run.report}" for run in runs)
    return Group(table, *words, *reports, *(f"bundle: {model.bundle}" for run in runs for model in run.models))


def _phones(model: "DemoModel") -> str:
    names = model.platforms
    return ", ".join(names) if len(names) < 3 else f"all {len(names)}"
