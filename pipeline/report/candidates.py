"""The table of candidates: what was tried, what it promised, what it would cost."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from pipeline.report.formats import percent, significant
from pipeline.report.fronts import Front, classes_of, slowest_ms
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
    "server_momentum": "of the server's step, beta1 of FedAdam; 0 is plain FedAvg",
    "proximal": "FedProx's pull towards the received parameters; 0 is none",
    "server_beta2": "of FedAdam: how much of the mean square so far stays",
    "server_epsilon": "of FedAdam: the larger, the more alike all values are treated",
    "weight_decay": "of the local steps",
    "architecture_learning_rate": "of the steps on a supernet's architecture weights",
    "architecture_weight_decay": "of the steps on a supernet's architecture weights",
}


_COSTS: dict[str, Callable[[ClassCost], float]] = {
    "training step ms": lambda cost: cost.training_step_ms,
    "peak memory MiB": lambda cost: cost.peak_memory_mib,
    "size KiB": lambda cost: cost.size_kib,
}


@dataclass(frozen=True)
class Setting:
    """One hyper-parameter of the main model.

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
    kind: Literal["number", "text", "words", "network"]
    cells: tuple[str, ...]


@dataclass(frozen=True)
class CandidateTable:
    """All candidates, the best score first, those without one last.

    Attributes:
        trials: Their numbers, one a row.
        winners: The trials of the run's models.
    """

    trials: tuple[int, ...]
    winners: tuple[int, ...]
    columns: tuple[Column, ...]


def settings_of(result: RunResult) -> tuple[Setting, ...]:
    """The main model's hyper-parameters, those that are not set left out."""
    searched = varying(_configurations(result))
    values = _values(result.winning.candidate.hyper_parameters)
    return tuple(
        Setting(name.replace("_", " "), _value(value), _MEANINGS.get(name, ""), name in searched)
        for name, value in values.items()
        if value is not None
    )


def candidates_of(result: RunResult, fronts: tuple[Front, ...]) -> CandidateTable:
    """The table; what all candidates agree in has no column."""
    trials = sorted(result.trials, key=lambda trial: (bool(trial.failed), -trial.accuracy, trial.index))
    columns = [*_scores(result, trials), *_winning(result, trials), *_courses(trials), *_latencies(result, trials)]
    columns.append(_column("parameters", trials, lambda trial: f"{trial.num_parameters:,}"))
    networks = tuple(network_in_words(trial.candidate.architecture) for trial in trials)
    columns.append(Column("network", "network", networks))
    columns += [_hyper_parameter(name, trials) for name in varying(_configurations(result))]
    columns += _other_costs(fronts, trials)
    if any(trial.failed for trial in trials):
        columns.append(Column("why it has no score", "words", tuple(trial.failed for trial in trials)))
    winners = tuple(model.trial for model in result.models)
    return CandidateTable(tuple(trial.index for trial in trials), winners, tuple(columns))


def _scores(result: RunResult, trials: Sequence[TrialResult]) -> Iterator[Column]:
    yield _column("accuracy (validation)", trials, lambda trial: "none" if trial.failed else percent(trial.accuracy))
    exact = result.emulator_only.search_accuracies if result.emulator_only else {}
    if exact and any(trial.is_noisy for trial in trials):  # without noise it is the score once more
        known = [exact.get(str(trial.index)) for trial in trials]
        cells = tuple("-" if value is None else percent(value) for value in known)
        yield Column("exact (emulator only)", "number", cells)


def _winning(result: RunResult, trials: Sequence[TrialResult]) -> Iterator[Column]:
    """Whose platforms get it, where there are several models."""
    if len(result.models) > 1:
        platforms = {model.trial: ", ".join(model.platforms) for model in result.models}
        yield Column("its platforms", "text", tuple(platforms.get(trial.index, "") for trial in trials))


def _courses(trials: Sequence[TrialResult]) -> Iterator[Column]:
    """How trials were trained, where they differ."""
    found = {
        "rounds": [str(trial.rounds) for trial in trials],
        "starts from trial": ["-" if trial.start_from is None else str(trial.start_from) for trial in trials],
        "shared weights": ["yes" if trial.is_shared else "no" for trial in trials],
        "clients": ["all" if trial.num_clients is None else str(trial.num_clients) for trial in trials],
    }
    return (Column(head, "number", tuple(cells)) for head, cells in found.items() if len(set(cells)) > 1)


def _latencies(result: RunResult, trials: Sequence[TrialResult]) -> Iterator[Column]:
    for device_class in classes_of(result.trials):
        found = [slowest_ms(trial, device_class) for trial in trials]
        cells = tuple("-" if value is None else significant(value) for value in found)
        yield Column(f"latency ms, {device_class}", "number", cells)


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


def varying(configurations: Sequence[HyperParameters]) -> tuple[str, ...]:
    """Names of the hyper-parameters that configurations differ in."""
    rows = list(map(_values, configurations))
    return tuple(name for name in rows[0] if len({row[name] for row in rows}) > 1)


def _configurations(result: RunResult) -> list[HyperParameters]:
    return [trial.candidate.hyper_parameters for trial in result.trials]


def _values(hyper: HyperParameters) -> dict[str, Any]:
    return {field.name: getattr(hyper, field.name) for field in fields(hyper)}


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
