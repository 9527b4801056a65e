"""`handheld search`: search, train the winner, test it; and what one sees meanwhile."""

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from device_runtime.console import JsonOption, print_result

if TYPE_CHECKING:
    from device_runtime.terms import Split
    from pipeline.run_result import ModelResult, RunResult, TrialResult
    from pipeline.searching.trials import Model, Part, Score
    from search.architecture import Architecture
    from search.candidate import Trial
EXAMPLE = "handheld search run.toml -o runs/digits"
MOST_SHOWN = 30  # candidates, and bars of what is under way


def search(  # noqa: PLR0913, PLR0917  (an option each)
    run_file: Annotated[Path, typer.Argument(help="What to search, with whom and how privately (docs/run-file.md).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run, made if absent.")],
    attach: Annotated[
        Path | None, typer.Option(help="State folder of a running `handheld serve`, to search with real clients.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a search that was stopped.")] = False,
    engine: Annotated[
        Literal["process", "ray"] | None,
        typer.Option(help="Where emulated phones are computed, in place of the file's engine."),
    ] = None,
    allow_unstable: Annotated[
        bool, typer.Option("--allow-unstable", help="Take profiles that were measured on a busy or hot device.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Search a network and its hyper-parameters, train the winner, test it once.

    Without --attach the clients are an emulated fleet in this process: the real server application and the real client
    on a virtual clock. The folder gets `result.json` and `models/`, for `handheld report` and `handheld ship`. A search
    that was stopped at any moment goes on with --resume.

    Emulated phones are computed on this machine, or on a Ray cluster that shares the run's folder; a search may go on
    with another engine than it began with: RAY_ADDRESS=10.0.0.1:6379 handheld search run.toml -o runs/digits
    --engine ray
    """
    from pipeline.searching.scenes import SearchRequest  # noqa: PLC0415  (help must not wait for torch)
    from pipeline.searching.session import run_search  # noqa: PLC0415  (help must not wait for torch)

    with SearchView() as view:
        result = run_search(SearchRequest(run_file, output, resume, attach, engine, allow_unstable), view)
    print_result(result, json, result_view(result, output))


class SearchView:
    """Owns the progress bars of one search, on standard error."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rounds"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self._tasks: dict[Part, TaskID] = {}

    def __enter__(self) -> "SearchView":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def clear(self) -> None:
        """Forget the bars of an earlier search."""
        for task in self._tasks.values():
            self._progress.remove_task(task)
        self._tasks.clear()

    def began(self, part: "Part", trial: "Trial | None", num_rounds: int) -> None:
        """A trial or the final training begins."""
        is_over = {task.id: task.finished for task in self._progress.tasks}
        finished = [one for one, task in self._tasks.items() if is_over[task]]
        for one in finished[: max(0, len(self._tasks) - MOST_SHOWN)]:
            self._progress.remove_task(self._tasks.pop(one))
        if part not in self._tasks:
            name = f"trial {part.trial}" if part.phase == "search" else f"final training of trial {part.trial}"
            note = "" if trial is None else describe(trial.candidate.architecture)
            self._tasks[part] = self._progress.add_task(name, total=num_rounds, note=note)

    def trained(self, part: "Part", num_rounds: int, model: "Model") -> None:  # noqa: ARG002
        """A round of training is over."""
        self._progress.update(self._tasks[part], completed=num_rounds)

    def scored(self, part: "Part", split: "Split", score: "Score") -> None:
        """A model was scored."""
        line = f"{split} accuracy {score.accuracy:.1%} over {score.num_reports} clients"
        if part in self._tasks:
            self._progress.update(self._tasks[part], note=line)
        else:
            self._progress.console.print(line)


def describe(network: "Architecture") -> str:
    """A network in a few words."""
    blocks = "".join(f" {stage.kind}{stage.width}x{stage.depth}" for stage in network.stages)
    return f"stem{network.stem.width}{blocks} {network.head}"


def result_view(result: "RunResult", folder: Path) -> Group:
    """What a search found, for a reader."""
    from pipeline.privacy_spent import epsilon_in_words, epsilon_text  # noqa: PLC0415  (help must not wait for it)

    lines = [line for model in result.models for line in _model_lines(model)]
    if result.privacy is not None:
        privacy = result.privacy
        lines += [
            f"epsilon {epsilon_text(privacy.epsilon)} of {privacy.target_epsilon:g} at delta {privacy.delta:g}",
            epsilon_in_words(privacy.unit, privacy.noise_at),
        ]
    chosen = f" --platform {result.main_platform}" if len(result.models) > 1 else ""
    lines.append(f"next: handheld report {folder}; handheld ship {folder} -o bundle{chosen}")
    return Group(_trial_table(result), *lines)


def _model_lines(model: "ModelResult") -> tuple[str, str]:
    accuracy, whose = model.accuracy, f" for {', '.join(model.platforms)}" if model.platforms else ""
    interval = f"{accuracy.low:.1%} to {accuracy.high:.1%}"
    return (
        f"winner{whose}: trial {model.trial}, {model.num_parameters} parameters",
        f"test accuracy {accuracy.value:.1%} ({interval}; {accuracy.how})",
    )


def _trial_table(result: "RunResult") -> Table:
    table = Table(title=f"{result.name}: {len(result.trials)} candidates")
    winners = {model.trial for model in result.models}
    ranked = sorted(result.trials, key=lambda trial: (bool(trial.failed), -trial.accuracy, trial.index))
    shown = [trial for place, trial in enumerate(ranked) if place < MOST_SHOWN or trial.index in winners]
    if len(shown) < len(ranked):
        table.caption = f"{len(ranked) - len(shown)} more are in the report"
    for name in ("trial", "network", "parameters", "slowest latency ms", "accuracy (validation)"):
        table.add_column(name, justify="left" if name == "network" else "right")
    for trial in shown:
        table.add_row(*_trial_cells(trial), style="bold" if trial.index in winners else "")
    return table


def _trial_cells(trial: "TrialResult") -> tuple[str, ...]:
    latency = max((cost.latency_ms for cost in trial.costs), default=None)
    network = describe(trial.candidate.architecture)
    accuracy = "none" if trial.failed else f"{trial.accuracy:.1%}" + (" ± noise" if trial.is_noisy else "")
    return str(trial.index), network, str(trial.num_parameters), "-" if latency is None else f"{latency:.2f}", accuracy
