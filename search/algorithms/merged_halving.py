"""Merged halving: pairs of a network and a configuration race; after each rung their weights are merged.

Successive halving ("Non-stochastic Best Arm Identification and Hyperparameter Optimization", arXiv:1502.07943, Figure
3) with three changes. Before any phone is touched, networks within the limits are ranked by how much they compute and
the first few enter (as in `nested_race`); each configuration drawn is paired with one of them. Each pair trains on a
group of the clients, the groups dealt out anew in each rung, and is scored by all. And what a rung's pairs learnt is
merged: every weight is the mean over those that hold it (networks of one supernet of cells share the weights of the
same operation on the same edge), weighted by a softmax of their scores; all pairs of the next rung start from there,
with equal chances, and the winner goes on from it. A pair's training counts by its share in the mean: that of a pair
far behind hardly does.

Configurations are compared by several rounds from equal weights and not by one round each from the weights of the day,
as tuners with shared weights do: close to convergence one round favours whatever moves least.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf

import numpy as np

from search.algorithm import TuningHistory, named_for_all, told_by_index
from search.algorithms.configurations import draw_configurations, softmax
from search.algorithms.nested_race_entrants import multiply_accumulates
from search.algorithms.successive_halving import rungs
from search.architecture import Architecture
from search.budget import Feasibility, draw_feasible
from search.candidate import NOT_ASKED, Candidate, Observation, Trial
from search.cell_space import CellSpace
from search.clients import Client


@dataclass(frozen=True)
class Contender:
    """A pair that is not out.

    Attributes:
        trained: Its newest trial of training.
        accuracy: Its score after it; None before, and where it could not be trained or scored.
    """

    candidate: Candidate
    trained: int | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class MergedHalvingState:
    """Where the search is.

    Attributes:
        rung: From 0; past the last one when the winner is being named, and when the search is over.
        contenders: Who races in the rung.
        merged: The trials whose weights the rung starts from, and their shares; empty for fresh weights.
        is_scoring: Whether the rung's training is over.
        first_trial: Of the rung's part, training or scoring.
        num_told: Of its trials.
        winner: The trial that names the winner; None before.
        rungs: Who raced in the rungs that are over, the most accurate first, for the report.
    """

    seed: int
    contenders: tuple[Contender, ...]
    rung: int = 0
    merged: tuple[tuple[int, float], ...] = ()
    is_scoring: bool = False
    first_trial: int = 0
    num_told: int = 0
    winner: int | None = None
    rungs: tuple[tuple[Contender, ...], ...] = ()
    schema: int = 1


@dataclass(frozen=True)
class MergedHalving:
    """Search over networks of cells and configurations together.

    Attributes:
        feasibility: The limits that every network meets.
        clients: Who takes part.
        num_candidates: Pairs of the first rung, each with a configuration of its own.
        num_networks: Networks among them.
        rounds: That the first rung trains; rung k trains `rounds * eta**k`.
        eta: One of so many goes on.
        group_size: Clients that train a pair; None for a third of them.
        sharpness: Of the softmax that weighs pairs in the mean: an accuracy higher by 1 / sharpness weighs e times as
            much. 0 for a plain mean.
        num_drawn: Networks drawn for the ranking.
    """

    space: CellSpace
    feasibility: Feasibility
    clients: tuple[Client, ...]
    num_candidates: int = 27
    num_networks: int = 9
    rounds: int = 1
    eta: int = 3
    group_size: int | None = None
    sharpness: float = 2.0
    num_drawn: int = 256

    def __post_init__(self) -> None:
        for name, value, least in (
            ("num_candidates", self.num_candidates, 1),
            ("num_networks", self.num_networks, 1),
            ("rounds", self.rounds, 1),
            ("eta", self.eta, 2),
            ("group_size", self._group_size, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be >= {least}, got {value}")
        if self.num_networks > self.num_drawn:
            raise ValueError(f"num_networks must be <= num_drawn = {self.num_drawn}, got {self.num_networks}")
        if self._group_size > len(self.clients):
            raise ValueError(
                f"group_size must be <= {len(self.clients)} clients, got {self._group_size}: make groups smaller, or "
                "wait for more clients"
            )
        if not 0 <= self.sharpness < inf:
            raise ValueError(f"sharpness must be finite and >= 0, got {self.sharpness}")

    @property
    def state_type(self) -> type[MergedHalvingState]:
        return MergedHalvingState

    @cached_property
    def rung_sizes(self) -> tuple[int, ...]:
        """Pairs of each rung; the last rung's best is the winner."""
        return tuple(size for size, _ in rungs(self.num_candidates, self.rounds, self.eta))

    def init(self, seed: int) -> MergedHalvingState:
        networks = ranked_networks(self.space, self.feasibility, self.num_networks, self.num_drawn, seed)
        configurations = draw_configurations(self.space.hyper_parameters, self.num_candidates, seed)
        pairs = (Candidate(networks[i % len(networks)], training) for i, training in enumerate(configurations))
        return MergedHalvingState(seed, tuple(map(Contender, pairs)))

    def ask(self, state: MergedHalvingState, count: int) -> tuple[Trial, ...]:
        return self._plan(state)[state.num_told :][:count]

    def tell(self, state: MergedHalvingState, observations: Sequence[Observation]) -> MergedHalvingState:
        plan, first = self._plan(state), state.first_trial
        over = told_by_index(observations, first + state.num_told, first + len(plan))
        contenders = list(state.contenders)
        for index, observation in over.items():
            place = index - first
            if state.rung == len(self.rung_sizes):
                state = replace(state, winner=None if observation is None else index)
            elif not state.is_scoring:
                is_trained = observation is not None and observation.failed in {"", NOT_ASKED}
                contenders[place] = replace(contenders[place], trained=index if is_trained else None)
            elif observation is not None and observation.is_scored:
                contenders[place] = replace(contenders[place], accuracy=observation.accuracy)
        state = replace(state, contenders=tuple(contenders), num_told=state.num_told + len(over))
        return self._next_part(state, len(plan)) if plan and state.num_told == len(plan) else state

    def winners(self, state: MergedHalvingState, observations: Sequence[Observation]) -> dict[str, int]:  # noqa: ARG002
        return named_for_all(self.feasibility, state.winner)

    def tuning_history(self, state: MergedHalvingState) -> TuningHistory:
        """Each configuration's share in the mean after each rung, 0 of what is out; equal shares before the first."""
        drawn = draw_configurations(self.space.hyper_parameters, self.num_candidates, state.seed)
        configurations = tuple(dict.fromkeys(drawn))
        rows = [tuple(drawn.count(one) / len(drawn) for one in configurations)]
        for rung in state.rungs:
            shares, trained = dict.fromkeys(configurations, 0.0), {one.trained: one.candidate for one in rung}
            for trial, share in merged_shares(rung, self.sharpness):
                shares[trained[trial].hyper_parameters] += share
            rows.append(tuple(shares.values()))
        return TuningHistory(
            configurations, tuple(rows), ("start", *(f"rung {i + 1}" for i in range(len(state.rungs))))
        )

    def _plan(self, state: MergedHalvingState) -> tuple[Trial, ...]:
        """All trials of the rung's part."""
        if state.rung > len(self.rung_sizes) or not state.contenders:
            return ()
        if state.rung == len(self.rung_sizes):
            return (self._from_merged(state, 0, state.contenders[0].candidate, 0, None),)
        if state.is_scoring:
            return tuple(
                Trial(state.first_trial + i, one.candidate, 0, start_from=one.trained)
                for i, one in enumerate(state.contenders)
            )
        rounds = self.rounds * self.eta**state.rung
        return tuple(
            replace(self._from_merged(state, i, one.candidate, rounds, group), is_scored=False)
            for i, (one, group) in enumerate(zip(state.contenders, self._groups(state), strict=True))
        )

    def _from_merged(
        self, state: MergedHalvingState, place: int, candidate: Candidate, rounds: int, group: tuple[str, ...] | None
    ) -> Trial:
        index = state.first_trial + place
        if not state.merged:
            return Trial(index, candidate, rounds, clients=group)
        holder = self.space.final_supernet()  # of the networks' own depth: it holds every weight and never trains
        merged = Trial(index, candidate, rounds, supernet=holder, merged=state.merged, clients=group)
        return replace(merged, is_kept=rounds == 0)  # what it learns waits for its score

    def _groups(self, state: MergedHalvingState) -> list[tuple[str, ...]]:
        """Who trains each pair: all clients are dealt out before anybody has a second turn."""
        rng = np.random.default_rng((state.seed, state.rung))
        names, groups = sorted(client.name for client in self.clients), list[tuple[str, ...]]()
        while len(groups) < len(state.contenders):
            dealt = np.array_split(rng.permutation(len(names)), groups_in_a_turn(len(names), self.group_size))
            groups.extend(tuple(sorted(names[i] for i in group)) for group in dealt)
        return groups[: len(state.contenders)]

    @property
    def _group_size(self) -> int:
        return group_size_of(len(self.clients), self.group_size)

    def _next_part(self, state: MergedHalvingState, num_planned: int) -> MergedHalvingState:
        state = replace(state, first_trial=state.first_trial + num_planned, num_told=0)
        if state.rung == len(self.rung_sizes):
            return replace(state, rung=state.rung + 1)
        if not state.is_scoring:
            trained = tuple(one for one in state.contenders if one.trained is not None)
            return replace(state, is_scoring=True, contenders=trained)
        scored = sorted((one for one in state.contenders if one.accuracy is not None), key=_rank)
        size = self.rung_sizes[state.rung + 1] if state.rung + 1 < len(self.rung_sizes) else 1
        return replace(
            state,
            rung=state.rung + 1,
            is_scoring=False,
            contenders=tuple(replace(one, accuracy=None) for one in scored[:size]),
            merged=merged_shares(scored, self.sharpness),
            rungs=(*state.rungs, tuple(scored)),
        )


def groups_in_a_turn(num_clients: int, group_size: int | None) -> int:
    """Groups that all clients make."""
    return max(1, num_clients // group_size_of(num_clients, group_size))


def group_size_of(num_clients: int, group_size: int | None) -> int:
    """Clients that train a pair: as many as are wanted, else a third of all."""
    return max(1, num_clients // 3) if group_size is None else group_size


def ranked_networks(
    space: CellSpace, feasibility: Feasibility, count: int, num_drawn: int, seed: int
) -> tuple[Architecture, ...]:
    """Of networks drawn within the limits the `count` that compute most, that one first; the same for the same seed.

    Raises:
        InfeasibleError: When no draw meets the limits.
    """
    rng = np.random.default_rng((seed, num_drawn))
    drawn = (draw_feasible(lambda: space.sample(rng), feasibility, space.smallest()) for _ in range(num_drawn))
    networks = dict.fromkeys(candidate.architecture for candidate in drawn)
    return tuple(sorted(networks, key=multiply_accumulates, reverse=True)[:count])


def merged_shares(scored: Sequence[Contender], sharpness: float) -> tuple[tuple[int, float], ...]:
    """Trials and their shares in the mean: a softmax of their accuracies; without those that it leaves nothing to."""
    if not scored:
        return ()
    accuracies = np.array([one.accuracy or 0.0 for one in scored])
    with np.errstate(over="ignore"):  # so far behind that the exponential is 0 in any case
        shares = softmax(sharpness * (accuracies - accuracies.max()))
    # Below the smallest normal number a share times a weight loses the weight's digits.
    return tuple(
        (one.trained, float(share))
        for one, share in zip(scored, shares, strict=True)
        if one.trained is not None and share >= np.finfo(np.float64).tiny
    )


def _rank(contender: Contender) -> tuple[float, int]:
    """The most accurate first, the earliest of equals."""
    return -(contender.accuracy or 0.0), contender.trained or 0
