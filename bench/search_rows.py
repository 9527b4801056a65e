"""What a finished search came to, as one row of a bench."""

from collections.abc import Iterator
from typing import Any

from pipeline.report.costs import thrown_away
from pipeline.run_result import ClassCost, PhaseCostResult, RunResult
from profiles.records import to_plain
from search.cost import Cost

Row = dict[str, Any]
NEEDS = ("latency_ms", "training_step_ms", "memory_mib")  # by the names of limits


def row_of(result: RunResult) -> Row:
    """What a finished emulated run came to, in the order of its platforms' models."""
    exact = result.emulator_only
    if exact is None:
        raise ValueError(f"{result.name} is no emulated run")
    return {
        "search": costs_of(cost for cost in result.costs if cost.phase == "search"),
        "final": costs_of(cost for cost in result.costs if cost.phase == "final"),
        "num_trials": len(result.trials),
        "models": [
            {
                "platforms": list(model.platforms),
                "trial": model.trial,
                "test_accuracy": exact.test_accuracies[str(model.trial)],
                "num_parameters": model.num_parameters,
                **_needs(result, model.trial),
                "widths": _widths(result, model.trial),
            }
            for model in result.models
        ],
        "trainings": {str(model.trial): _training(result, model.trial) for model in result.models},
        "thrown_away": thrown_away(result),
        "steps": [[t.index, t.start_from, t.rounds, t.num_clients, t.accuracy, t.failed] for t in result.trials],
        "num_scored": [trial.num_examples for trial in result.trials],
        "curves": _curves(result, "search"),
        "final_curves": _curves(result, "final"),
        "virtual_s": exact.virtual_s,
    }


def costs_of(costs: Iterator[PhaseCostResult]) -> dict[str, float]:
    """Sums of the cost ledger."""
    rows = list(costs)
    training = [row for row in rows if row.kind == "train"]
    return {
        "client_rounds": sum(row.num_assignments for row in training),
        "evaluations": sum(row.num_assignments for row in rows) - sum(row.num_assignments for row in training),
        "client_seconds": sum(row.device_seconds for row in rows),
        "bytes": sum(row.bytes_up + row.bytes_down for row in rows),
    }


def needs_of(cost: Cost | ClassCost) -> dict[str, float]:
    """What a network needs on a profile, of `NEEDS`."""
    return dict(zip(NEEDS, (cost.latency_ms, cost.training_step_ms, cost.peak_memory_mib), strict=True))


def _needs(result: RunResult, trial: int) -> dict[str, dict[str, float]]:
    """By what is limited and profile, predicted."""
    needs = {cost.profile: {**needs_of(cost), "size_kib": cost.size_kib} for cost in result.trial(trial).costs}
    return {name: {profile: own[name] for profile, own in needs.items()} for name in (*NEEDS, "size_kib")}


def _widths(result: RunResult, trial: int) -> list[int]:
    network = result.trial(trial).candidate.architecture
    return [network.stem.width, *(stage.width for stage in network.stages)]


def _training(result: RunResult, trial: int) -> dict[str, Any]:
    """How a model was trained, without what its network has no use for."""
    return {
        name: value
        for name, value in to_plain(result.trial(trial).candidate.hyper_parameters).items()
        if value is not None and not name.startswith("architecture_")
    }


def _curves(result: RunResult, phase: str) -> dict[str, list[float]]:
    """Exact accuracy over all validation splits after each round of each trial."""
    curves: dict[str, list[float]] = {}
    for point in result.curves:
        if point.phase == phase:
            curves.setdefault(str(point.trial), []).append(round(point.accuracy, 6))
    return curves
