"""FedNAS: prune a network step by step; each step's candidates train shortly, side by side, on parts of the clients.

"Federated Neural Architecture Search", arXiv:2002.06352. Candidates need only be ranked, not trained to the end: each
trains on one group of clients (O1), the best few go on (O2), for as many rounds as the step asks for (O3). Differences
from the authors' code: candidates are scored on validation splits alone; hard limits of every kind and platform count
as one load, the largest part of a limit that is needed; what a network needs is predicted from profiles. A candidate's
group is its place among the step's candidates modulo G. Until the last step phones train networks above their limits,
the first one above all.

Without its three optimisations it is the straightforward search that it is measured against: one group, everybody
goes on, all rounds at once (`groups = 1`, `rounds = 0`). On one client that holds all data that is "NetAdapt",
arXiv:1804.03230, Algorithm 1, which chooses as its code does, with `pretrain_rounds` of short-term fine-tuning.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, sqrt
from typing import Literal

import numpy as np

from search.algorithm import NoWinnerError, told_by_index
from search.architecture import Architecture
from search.budget import Feasibility, InfeasibleError
from search.candidate import Candidate, Observation, Trial
from search.clients import Client, balance
from search.pruning import LEAST_WIDTH, blocks_of, reduce_one_able_block, reduce_one_block, width_of, with_width
from search.space import SearchSpace

Schedule = Literal["constant", "growing", "adaptive"]
Blocks = Literal["all", "able"]
_ACCURACY_EPSILON, _LOAD_EPSILON = 1e-6, 1e-5  # of the authors' code


@dataclass(frozen=True)
class Entry:
    """A network of the step.

    Attributes:
        trial: The newest one that trained it; before its first, the one whose weights it inherits.
        accuracy: Of that trial, over `num_examples`; None before it was scored.
    """

    network: Architecture
    trial: int | None = None
    accuracy: float | None = None
    num_examples: int = 0


@dataclass(frozen=True)
class FedNasState:
    """Where the search is.

    Attributes:
        stage: Of the step: 0 while all candidates train, later those that were kept.
        first_trial: Of the stage; its trials are numbered in the order of `going`.
        going: Who trains in the stage, as it was before; nobody when the search is over.
        told: What came of it so far, in the same order.
        trace: What each step began from: the first network, then the winners.
        ended: Why the search is over; empty while it is not.
    """

    seed: int
    stage: int = 0
    first_trial: int = 0
    going: tuple[Entry, ...] = ()
    told: tuple[Entry, ...] = ()
    trace: tuple[Entry, ...] = ()
    ended: str = ""
    schema: int = 1


@dataclass(frozen=True)
class FedNas:
    """Search by federated pruning of the space's largest network.

    Attributes:
        feasibility: The limits of all platforms; the search is over when all of them are met, and each platform
            ships the first network of the trace within its own.
        clients: Who takes part.
        groups: G, groups of clients; 1 trains every candidate on everybody.
        pretrain_rounds: R_pre, rounds of every candidate.
        keep: k, candidates that go on; None for all.
        rounds: R, further rounds of those, at most; 0 for none.
        schedule: Of these rounds: `constant`; `growing` with the part of the way to the limits that is done;
            `adaptive` goes on until the leader is two standard errors ahead.
        first_reduction: What the first step takes away, a part of the first network's load.
        decay: Each step's reduction over the one before.
        blocks: Which have a candidate: `all`, or those that are `able` to give a step's reduction alone.
    """

    space: SearchSpace
    feasibility: Feasibility
    clients: tuple[Client, ...]
    groups: int = 10
    pretrain_rounds: int = 2
    keep: int | None = 3
    rounds: int = 5
    schedule: Schedule = "constant"
    first_reduction: float = 0.1
    decay: float = 0.96
    blocks: Blocks = "all"

    def __post_init__(self) -> None:
        for name, value, least in (
            ("pretrain_rounds", self.pretrain_rounds, 1),
            ("keep", 1 if self.keep is None else self.keep, 1),
            ("rounds", self.rounds, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be >= {least}, got {value}")
        for name, part in (("first_reduction", self.first_reduction), ("decay", self.decay)):
            if not 0 < part <= 1:
                raise ValueError(f"{name} must be > 0 and <= 1, got {part}")
        self.space.hyper_parameters.only()  # refuses several
        balance(self.clients, self.groups)  # refuses more groups than clients

    @property
    def state_type(self) -> type[FedNasState]:
        return FedNasState

    def init(self, seed: int) -> FedNasState:
        first = self.space.largest()
        least = first
        for block in blocks_of(first):
            least = with_width(least, block, min(LEAST_WIDTH, width_of(first, block)))
        if self.feasibility.load(first) == 0:
            raise InfeasibleError("fednas prunes until limits are met and there are none: add [budgets.default]")
        broken = self.feasibility.violations(least)
        if broken:
            raise InfeasibleError(f"with every width {LEAST_WIDTH} the network still breaks {broken[0]}: raise it")
        return FedNasState(seed, going=(Entry(first),))

    def ask(self, state: FedNasState, count: int) -> tuple[Trial, ...]:
        if state.ended:
            return ()
        begin = len(state.told)
        places = range(begin, min(begin + count, len(state.going)))
        return tuple(self._trial(state, place) for place in places)

    def tell(self, state: FedNasState, observations: Sequence[Observation]) -> FedNasState:
        begin, end = state.first_trial + len(state.told), state.first_trial + len(state.going)
        for index, observation in told_by_index(observations, begin, end).items():
            entry = _after(state.going[index - state.first_trial], index, observation)
            state = replace(state, told=(*state.told, entry))
        is_stage_over = state.going and len(state.told) == len(state.going)
        return self._end_stage(state) if is_stage_over else state

    def winners(self, state: FedNasState, observations: Sequence[Observation]) -> dict[str, int]:  # noqa: ARG002
        winners = {}
        for name, limits in (self.feasibility.platforms or {"": self.feasibility}).items():
            fitting = (entry.trial for entry in state.trace if limits.is_feasible(entry.network))
            trial = next(fitting, None)
            if trial is None:
                why = state.ended or "the search is not over"
                raise NoWinnerError(f"no network of the trace meets the limits of {name}: {why}")
            winners[name] = trial
        return winners

    @cached_property
    def _client_groups(self) -> tuple[tuple[str, ...], ...]:
        return balance(self.clients, self.groups)

    def _trial(self, state: FedNasState, place: int) -> Trial:
        entry = state.going[place]
        candidate = Candidate(entry.network, self.space.hyper_parameters.only())
        index = state.first_trial + place
        if not state.trace:
            return Trial(index, candidate, rounds=0)
        group = place % self.groups
        if state.stage:
            rng = np.random.default_rng((state.seed, len(state.trace), state.stage, place))
            group = int(rng.integers(self.groups))
        clients = None if self.groups == 1 else self._client_groups[group]
        return Trial(index, candidate, self._rounds_of_stage(state), entry.trial, clients=clients)

    def _rounds_of_stage(self, state: FedNasState) -> int:
        if state.stage == 0:
            return self.pretrain_rounds
        if self.schedule == "adaptive":
            return 1
        if self.schedule == "constant":
            return self.rounds
        first, now = (self.feasibility.load(entry.network) for entry in (state.trace[0], state.trace[-1]))
        return max(1, ceil(self.rounds * (first - now) / (first - 1)))

    def _end_stage(self, state: FedNasState) -> FedNasState:
        """Choose who goes on, or the step's winner."""
        state = replace(state, first_trial=state.first_trial + len(state.told))
        if not state.trace:
            return self._begin_step(replace(state, trace=state.told))
        scored = [entry for entry in state.told if entry.accuracy is not None]
        if not scored:
            return replace(state, going=(), told=(), ended=f"every candidate of step {len(state.trace)} failed")
        kept = sorted(scored, key=_accuracy, reverse=True)[: self.keep] if state.stage == 0 else scored
        if self._goes_on(state.stage, kept):
            return replace(state, stage=state.stage + 1, going=tuple(kept), told=())
        return self._begin_step(replace(state, trace=(*state.trace, self._winner(state.trace[-1], kept))))

    def _goes_on(self, stage: int, kept: Sequence[Entry]) -> bool:
        if self.schedule != "adaptive":
            return self.rounds > 0 and stage == 0
        return stage < self.rounds and not _is_decided(kept)

    def _winner(self, before: Entry, kept: Sequence[Entry]) -> Entry:
        load = self.feasibility.load(before.network)

        def price(entry: Entry) -> float:
            lost = _accuracy(before) - _accuracy(entry) + _ACCURACY_EPSILON
            return lost / (load - self.feasibility.load(entry.network) + _LOAD_EPSILON)

        return min(kept, key=price)

    def _begin_step(self, state: FedNasState) -> FedNasState:
        state = replace(state, stage=0, going=(), told=())
        if self.feasibility.load(state.trace[-1].network) <= 1:
            return replace(state, ended="all limits are met")
        now, load = state.trace[-1], self.feasibility.load
        reduction = load(state.trace[0].network) * self.first_reduction * self.decay ** (len(state.trace) - 1)
        reduce = reduce_one_block if self.blocks == "all" else reduce_one_able_block
        going = tuple(Entry(network, now.trial) for network in reduce(now.network, load, reduction))
        return replace(state, going=going, ended="" if going else "no block can be pruned further")


def _after(entry: Entry, trial: int, observation: Observation | None) -> Entry:
    if observation is None or not observation.is_scored:
        return replace(entry, trial=trial, accuracy=None, num_examples=0)
    return replace(entry, trial=trial, accuracy=observation.accuracy, num_examples=observation.num_examples)


def _accuracy(entry: Entry) -> float:
    return 0.0 if entry.accuracy is None else entry.accuracy


def _is_decided(kept: Sequence[Entry]) -> bool:
    """Whether the most accurate is two standard errors ahead of the next (binomial, of two samples).

    A right and a wrong answer are added to each: without them three right of three would be known for certain.
    """
    if len(kept) < 2:
        return True
    first, second = sorted(kept, key=_accuracy, reverse=True)[:2]
    return _accuracy(first) - _accuracy(second) > 2 * sqrt(_variance(first) + _variance(second))


def _variance(entry: Entry) -> float:
    answers = entry.num_examples + 2
    right = (_accuracy(entry) * entry.num_examples + 1) / answers
    return right * (1 - right) / answers
