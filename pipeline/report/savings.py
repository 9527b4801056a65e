"""What FedNAS's optimisations saved a run: its own ledger, and what it would be without one of them or any.

Counted and not measured: a candidate that would have trained longer, or trained and been scored by more clients, costs
in proportion to what it did cost.
"""

from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean

from pipeline.run_result import PhaseCostResult, RunResult, TrialResult


@dataclass(frozen=True)
class Saving:
    """A search as it was, or without an optimisation.

    Attributes:
        without: What is left out; empty for the search as it was.
        client_rounds: Of training.
        client_seconds, num_bytes: Scoring included.
        times: Client-seconds over those of the search as it was.
    """

    without: str
    client_rounds: int
    client_seconds: float
    num_bytes: int
    times: float


@dataclass(frozen=True)
class _Course:
    """One candidate in its step: its first rounds, and those that it went on for.

    Attributes:
        clients: Mean of a round.
        training, scoring: Client-rounds of training, client-seconds and bytes.
    """

    rounds: int
    clients: float
    longest_of_step: int
    training: tuple[float, float, float]
    scoring: tuple[float, float, float]

    @property
    def is_kept(self) -> bool:
        return self.rounds == self.longest_of_step


def savings_of(result: RunResult) -> tuple[Saving, ...]:
    """The search as it was first, without everything last; empty of another algorithm, or where nothing was saved."""
    courses = _courses(result) if result.algorithm == "fednas" else []
    if not courses:
        return ()
    longest = max(course.longest_of_step for course in courses)
    everybody = float(result.num_clients)
    before = _scores_before(result)

    def total(without: str, groups: bool, dropping: bool, dynamic: bool) -> Saving:
        sums = [*before]
        for course in courses:
            rounds = course.rounds if dropping else course.longest_of_step
            if not dynamic and (course.is_kept or not dropping):
                rounds = longest
            more = 1.0 if groups else everybody / course.clients
            costs = zip(sums, course.training, course.scoring, strict=True)
            sums = [so_far + more * (rounds / course.rounds * train + score) for so_far, train, score in costs]
        return Saving(without, round(sums[0]), sums[1], round(sums[2]), 0.0)

    found = (
        total("", True, True, True),
        total("groups: every candidate on all clients", False, True, True),
        total("early dropping: every candidate goes on", True, False, True),
        total("dynamic rounds: every step as long as the longest", True, True, False),
        total("all three", False, False, False),
    )
    first = found[0].client_seconds
    told = [one for one in found if not one.without or one.client_rounds > found[0].client_rounds]
    return tuple(
        Saving(one.without, one.client_rounds, one.client_seconds, one.num_bytes, one.client_seconds / first)
        for one in told
        if len(told) > 1 and first > 0
    )


def _courses(result: RunResult) -> list[_Course]:
    """Of every candidate that trained; candidates of a step start from one trial, whose network is another."""
    trials = {trial.index: trial for trial in result.trials}
    members: dict[int, list[TrialResult]] = defaultdict(list)
    for trial in sorted(result.trials, key=lambda trial: trial.index):
        members[_first_of(trial, trials)].append(trial)
    trained = {first: own for first, own in members.items() if sum(trial.rounds for trial in own)}
    longest: dict[int | None, int] = defaultdict(int)
    for first, own in trained.items():
        step = trials[first].start_from
        longest[step] = max(longest[step], sum(trial.rounds for trial in own))
    return [_course(result, own, longest[trials[first].start_from]) for first, own in trained.items()]


def _scores_before(result: RunResult) -> tuple[float, float, float]:
    """Of networks that were scored and never trained, as the one that all begins from: no optimisation changes them."""
    trained = {trial.index for trial in result.trials if trial.rounds}
    return _sums([cost for cost in result.costs if cost.phase == "search" and cost.trial not in trained])


def _first_of(trial: TrialResult, trials: dict[int, TrialResult]) -> int:
    """The first trial of the same network that this one goes on from."""
    before = None if trial.start_from is None else trials.get(trial.start_from)
    if before is None or before.candidate != trial.candidate or before.start_from is None:
        return trial.index
    return _first_of(before, trials)


def _course(result: RunResult, trials: list[TrialResult], longest_of_step: int) -> _Course:
    indices = {trial.index for trial in trials}
    costs = [cost for cost in result.costs if cost.phase == "search" and cost.trial in indices]
    clients = [result.num_clients if t.num_clients is None else t.num_clients for t in trials for _ in range(t.rounds)]
    training, scoring = (_sums([one for one in costs if one.kind == kind]) for kind in ("train", "evaluate"))
    return _Course(len(clients), fmean(clients), longest_of_step, training, scoring)


def _sums(costs: list[PhaseCostResult]) -> tuple[float, float, float]:
    return (
        float(sum(one.num_assignments for one in costs if one.kind == "train")),
        sum(one.device_seconds for one in costs),
        float(sum(one.bytes_up + one.bytes_down for one in costs)),
    )
