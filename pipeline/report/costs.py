"""What the run cost its clients: by phase, the search by what its trials were for, and by trial."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from pipeline.run_result import PhaseCostResult, RunResult

PHASES = ("search", "final", "test")
STAGES = ("training", "pretraining", "continued", "scoring")
BYTES_IN_WORDS = (
    "Bytes up are of updates and reports that reached the server whole, late, refused and repeated ones too; bytes "
    "down of files that it sent. Headers, check-ins with the assignments that answer them, and aborts are counted "
    "nowhere."
)


@dataclass(frozen=True)
class CostRow:
    """One line of a table of costs.

    Attributes:
        name: A phase, or a trial's number.
        stage: Of the search: `training`, or where trials go on from others `pretraining` (their first rounds) and
            `continued` (further ones), and `scoring`; empty elsewhere.
        client_rounds: Of training: one is one client in one round, whether or not it reported.
        evaluations: One is one client that scored one model.
        client_seconds: None where no device tells (`tells_time`).
        is_winner: Whether it is the trial of a model.
    """

    name: str
    stage: str
    client_rounds: int
    evaluations: int
    client_seconds: float | None
    bytes_up: int
    bytes_down: int
    examples: int
    is_winner: bool = False


@dataclass(frozen=True)
class Costs:
    """The tables of costs.

    Attributes:
        stages: By phase, the search's stages apart.
        total: Sums over all phases.
        dearest: The largest of the trials, column by column.
    """

    stages: tuple[CostRow, ...]
    trials: tuple[CostRow, ...]
    total: CostRow
    dearest: CostRow


def costs_of(result: RunResult) -> Costs:
    """Sum the cost ledger by phase, search first, and the search by trial."""
    found = _costs_of(result)
    if tells_time(result):
        return found
    stages, trials = (tuple(_untimed(row) for row in rows) for rows in (found.stages, found.trials))
    return Costs(stages, trials, _untimed(found.total), _untimed(found.dearest))


def tells_time(result: RunResult) -> bool:
    """Whether anybody knows how long clients worked: a private report of a real one must not tell."""
    return result.kind == "emulated" or result.privacy is None


def seconds_in_words(result: RunResult) -> str:
    """Where client-seconds come from."""
    if not tells_time(result):
        return "not known, as private reports carry no time and lost assignments have no report"
    return "predicted from the profiles" if result.kind == "emulated" else "as the devices reported, of lost ones none"


def _costs_of(result: RunResult) -> Costs:
    by_stage: dict[tuple[str, str], list[PhaseCostResult]] = {}
    trained = {cost.trial for cost in result.costs if cost.phase == "search" and cost.kind == "train"}
    goes_on = any(trial.start_from is not None and trial.index in trained for trial in result.trials)
    networks = {trial.index: trial.candidate for trial in result.trials}
    before = {trial.index: trial.start_from for trial in result.trials}

    def stage_of(cost: PhaseCostResult) -> str:
        if cost.phase != "search":
            return ""
        if cost.kind != "train":
            return "scoring"
        if not goes_on or cost.trial is None:
            return "training"
        start = before.get(cost.trial)
        is_same = start is not None and networks.get(start) == networks[cost.trial]
        return "continued" if is_same else "pretraining"

    for cost in result.costs:
        by_stage.setdefault((cost.phase, stage_of(cost)), []).append(cost)
    stages = tuple(_sum(*key, by_stage[key]) for key in sorted(by_stage, key=_place))
    search = [cost for cost in result.costs if cost.phase == "search"]
    indices = sorted({cost.trial for cost in search if cost.trial is not None})
    winners = {model.trial for model in result.models}
    trials = tuple(_sum(str(i), "", [cost for cost in search if cost.trial == i], i in winners) for i in indices)
    return Costs(stages, trials, _sum("all", "", result.costs), _largest(trials))


@dataclass(frozen=True)
class CoursePoint:
    """A trial with an accuracy.

    Attributes:
        client_seconds: Of all trials up to it, its own included.
    """

    trial: int
    client_seconds: float
    accuracy: float


@dataclass(frozen=True)
class Course:
    """Cost and accuracy trial by trial.

    Attributes:
        is_exact: Whether accuracies are the emulator's, of a search that asked for fewer than two scores.
    """

    points: tuple[CoursePoint, ...]
    is_exact: bool


def course_of(result: RunResult) -> Course:
    """The trials that have an accuracy, in their order; where hardly any was asked for, what the emulator knows.

    None of a run whose devices do not tell their time.
    """
    if not tells_time(result):
        return Course((), is_exact=False)
    known = {trial.index: trial.accuracy for trial in result.trials if not trial.failed}
    is_exact = len(known) < 2 and result.emulator_only is not None
    if is_exact and result.emulator_only is not None:
        known = {int(trial): value for trial, value in result.emulator_only.search_accuracies.items()}
    seconds: dict[tuple[str, int | None], float] = {}
    for cost in result.costs:
        key = cost.phase, cost.trial
        seconds[key] = seconds.get(key, 0.0) + cost.device_seconds
    points, total = [], 0.0
    for trial in result.trials:
        total += seconds.get((trial.phase, trial.index), 0.0)
        if trial.index in known:
            points.append(CoursePoint(trial.index, total, known[trial.index]))
    return Course(tuple(points), is_exact)


def thrown_away(result: RunResult) -> float:
    """Share of the search's client-rounds of training from which nothing came: no later trial and no winner has it.

    A trial that is merged counts by its share in the mean, as far as that is below an equal one: as a whole, so that
    weights of operations which no later network has count as kept. What [final] trains belongs to no search, whatever
    weights it starts from; where these are fresh, all that is not thrown away went into later trials and winners of
    the search and into no model (`thrown_away_in_words`).
    """
    used: dict[int, float] = {model.trial: 1.0 for model in result.models}
    for trial in result.trials:
        if trial.start_from is not None and trial.rounds:
            used[trial.start_from] = 1.0
        for index, share in trial.merged:
            used[index] = max(used.get(index, 0.0), min(1.0, share * len(trial.merged)))
    for trial in result.trials:
        if trial.is_shared and trial.is_kept and not trial.merged:
            used[trial.index] = 1.0
    # One without rounds of its own may have the phase of the final training that follows.
    phases = {trial.index: trial.phase for trial in result.trials if trial.rounds}
    rounds: dict[int, int] = {}
    for cost in result.costs:
        if cost.kind == "train" and cost.trial in phases and cost.phase == phases[cost.trial]:
            rounds[cost.trial] = rounds.get(cost.trial, 0) + cost.num_assignments
    lost = sum(count * (1 - used.get(trial, 0.0)) for trial, count in rounds.items())
    return lost / max(1, sum(rounds.values()))


def thrown_away_in_words(result: RunResult) -> str:
    """What is so of the share that was thrown away, and of the rest."""
    if all(model.is_fresh for model in result.models):
        lost = "no later trial of the search began with what was learnt in them"
        kept = (
            " No model has any of the rest either: final training began with fresh weights, and what the search "
            "trained only chose network and configuration."
        )
    else:
        lost, kept = "nothing that was learnt in them is in a later trial or in a model", ""
    merged = ""
    if any(trial.merged for trial in result.trials):
        merged = (
            "; a trial whose weights went into a mean counts by its share there, as far as that is below an equal one, "
            "and weights of operations that no later network has count as kept"
        )
    return (
        f"of the client-rounds of training were thrown away: {lost}.{kept} Counted are those of the search and of "
        f"trials after it, not the final training of a winner{merged}."
    )


def tells_what_was_thrown_away(result: RunResult) -> bool:
    """Whether a report does: of searches that tune as they go, or train a supernet."""
    return result.tuning is not None or any(trial.candidate.architecture.is_supernet for trial in result.trials)


def _place(key: tuple[str, str]) -> tuple[int, str, int]:
    phase, stage = key
    return (
        PHASES.index(phase) if phase in PHASES else len(PHASES),
        phase,
        STAGES.index(stage) if stage in STAGES else 0,
    )


def _largest(rows: tuple[CostRow, ...]) -> CostRow:
    return CostRow(
        "dearest",
        "",
        max((row.client_rounds for row in rows), default=0),
        max((row.evaluations for row in rows), default=0),
        max((row.client_seconds or 0.0 for row in rows), default=0.0),
        max((row.bytes_up for row in rows), default=0),
        max((row.bytes_down for row in rows), default=0),
        max((row.examples for row in rows), default=0),
    )


def _untimed(row: CostRow) -> CostRow:
    return replace(row, client_seconds=None)


def _sum(name: str, stage: str, costs: Iterable[PhaseCostResult], is_winner: bool = False) -> CostRow:
    rows = tuple(costs)
    return CostRow(
        name,
        stage,
        sum(row.num_assignments for row in rows if row.kind == "train"),
        sum(row.num_assignments for row in rows if row.kind == "evaluate"),
        sum(row.device_seconds for row in rows),
        sum(row.bytes_up for row in rows),
        sum(row.bytes_down for row in rows),
        sum(row.examples for row in rows),
        is_winner,
    )
