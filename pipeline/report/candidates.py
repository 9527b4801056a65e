"""The table of candidates: what was tried, what it promised, what it would cost."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from pipeline.report.formats import percent, significant
from pipeline.report.fronts import Front
from pipeline.report.networks import network_in_words
from pipeline.run_result import ClassCost, RunResult, TrialResult
from search.candidate import HyperParameters

_MEANINGS = {
    "learning_rate": "of the local steps",
    "local_steps": "steps a round on each client",
    "local_epochs": "passes a round over each client's training split",
    "batch_size": "examples a step",
    "momentum": "of the local steps",
    "max_grad_norm": "clip of each example's gradient",
    "server_learning_rate": "of the server's step along the mean update; 1 is plain FedAvg",
    "server_momentum": "of the server's step; 0 is plain FedAvg",
}


_COSTS: dict[str, Callable[[ClassCost], float]] = {
    "training step ms": lambda cost: cost.training_step_ms,
    "peak memory MiB": lambda cost: cost.peak_memory_mib,
    "size KiB": lambda cost: cost.size_kib,
}


@dataclass(frozen=True)
class Setting:
    """One hyper-parameter of the winner.

    Attributes:
        was_searched: Whether candidates differ in it.
    """

    name: str
    value: str
    meaning: str
    was_searched: bool


@dataclass(frozen=True)
class Column:
    """One column of the table of candidates; `cells` are one a row."""

    head: str
    kind: Literal["number", "text", "network"]
    cells: tuple[str, ...]


@dataclass(frozen=True)
class CandidateTable:
    """All candidates, the best score first.

    Attributes:
        trials: Their numbers, one a row.
        winner: The trial that was chosen.
    """

    trials: tuple[int, ...]
    winner: int
    columns: tuple[Column, ...]


def settings_of(result: RunResult) -> tuple[Setting, ...]:
    """The winner's hyper-parameters, those that are not set left out."""
    searched = _varying(result)
    values = _values(result.winning.candidate.hyper_parameters)
    return tuple(
        Setting(name.replace("_", " "), _value(value), _MEANINGS.get(name, ""), name in searched)
        for name, value in values.items()
        if value is not None
    )


def candidates_of(result: RunResult, fronts: tuple[Front, ...]) -> CandidateTable:
    """The table; hyper-parameters in which all candidates agree have no column."""
    trials = sorted(result.trials, key=lambda trial: (-trial.accuracy, trial.index))
    columns = [*_scores(result, trials), *_latencies(fronts, trials)]
    columns.append(_column("parameters", trials, lambda trial: f"{trial.num_parameters:,}"))
    networks = tuple(network_in_words(trial.candidate.architecture) for trial in trials)
    columns.append(Column("network", "network", networks))
    columns += [_hyper_parameter(name, trials) for name in _varying(result)]
    columns += _other_costs(fronts, trials)
    return CandidateTable(tuple(trial.index for trial in trials), result.main.trial, tuple(columns))


def _scores(result: RunResult, trials: Sequence[TrialResult]) -> Iterator[Column]:
    yield _column("accuracy (validation)", trials, lambda trial: percent(trial.accuracy))
    exact = result.emulator_only.search_accuracies if result.emulator_only else {}
    if exact and any(trial.is_noisy for trial in trials):  # without noise it is the score once more
        known = [exact.get(str(trial.index)) for trial in trials]
        cells = tuple("-" if value is None else percent(value) for value in known)
        yield Column("exact (emulator only)", "number", cells)


def _latencies(fronts: tuple[Front, ...], trials: Sequence[TrialResult]) -> Iterator[Column]:
    for front in fronts:
        found = [front.latency_ms.get(trial.index) for trial in trials]
        cells = tuple("-" if value is None else significant(value) for value in found)
        yield Column(f"latency ms, {front.device_class}", "number", cells)


def _other_costs(fronts: tuple[Front, ...], trials: Sequence[TrialResult]) -> Iterator[Column]:
    if not fronts:
        return
    names = [[front.device_class for front in fronts if trial.index in front.trials] for trial in trials]
    yield Column("on the front of", "text", tuple(", ".join(ones) for ones in names))
    for head, of_cost in _COSTS.items():
        cells = (max((of_cost(cost) for cost in trial.costs), default=None) for trial in trials)
        yield Column(head, "number", tuple("-" if value is None else significant(value) for value in cells))


def _hyper_parameter(name: str, trials: Sequence[TrialResult]) -> Column:
    values = [_values(trial.candidate.hyper_parameters)[name] for trial in trials]
    return Column(name.replace("_", " "), "number", tuple(map(_value, values)))


def _column(head: str, trials: Sequence[TrialResult], cell: Callable[[TrialResult], str]) -> Column:
    return Column(head, "number", tuple(map(cell, trials)))


def _varying(result: RunResult) -> tuple[str, ...]:
    rows = [_values(trial.candidate.hyper_parameters) for trial in result.trials]
    return tuple(name for name in rows[0] if len({row[name] for row in rows}) > 1)


def _values(hyper: HyperParameters) -> dict[str, Any]:
    return {field.name: getattr(hyper, field.name) for field in fields(hyper)}


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
