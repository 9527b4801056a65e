"""Successive halving: train many shortly, keep the best of them, train these longer; until one is left.

"Non-stochastic Best Arm Identification and Hyperparameter Optimization", arXiv:1502.07943, Figure 3, with any factor in
place of 2 as in "Hyperband", arXiv:1603.06560. Every rung costs about as many rounds as the first. One difference: a
candidate over a device budget is never asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from search.algorithm import most_accurate, told_by_index
from search.algorithms.random_search import RandomSearch
from search.budget import Feasibility
from search.candidate import Candidate, Observation, Trial
from search.space import Space


@dataclass(frozen=True)
class Contender:
    """A candidate that is not out; trial and accuracy are of its newest rung, None before it was scored."""

    candidate: Candidate
    trial: int | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class HalvingState:
    """Where the search is.

    Attributes:
        first_trial: Of the rung; its trials are numbered in the order of `going`.
        going: Who trains in the rung, as it was before; nobody when the search is over.
        told: What came of it so far, in the same order.
    """

    seed: int
    rung: int = 0
    first_trial: int = 0
    going: tuple[Contender, ...] = ()
    told: tuple[Contender, ...] = ()
    schema: int = 1


@dataclass(frozen=True)
class SuccessiveHalving:
    """Search by halving: architecture and hyper-parameters alike.

    Attributes:
        feasibility: The limits that every candidate meets.
        num_candidates: n, drawn at random, each once; a smaller space gives all it has.
        rounds: That the first rung trains; rung k trains `rounds * eta**k` further ones from its own weights.
        eta: One of so many goes on.
    """

    space: Space
    feasibility: Feasibility
    num_candidates: int
    rounds: int
    eta: int = 2

    def __post_init__(self) -> None:
        for name, value, least in (
            ("num_candidates", self.num_candidates, 1),
            ("rounds", self.rounds, 1),
            ("eta", self.eta, 2),
        ):
            if value < least:
                raise ValueError(f"{name} must be >= {least}, got {value}")

    @property
    def state_type(self) -> type[HalvingState]:
        return HalvingState

    def init(self, seed: int) -> HalvingState:
        draw = RandomSearch(self.space, self.feasibility, self.num_candidates, self.rounds)
        trials = draw.ask(draw.init(seed), self.num_candidates)
        return HalvingState(seed, going=tuple(Contender(trial.candidate) for trial in trials))

    def ask(self, state: HalvingState, count: int) -> tuple[Trial, ...]:
        begin, rounds = len(state.told), self.rounds * self.eta**state.rung
        return tuple(
            Trial(state.first_trial + begin + i, one.candidate, rounds, one.trial)
            for i, one in enumerate(state.going[begin : begin + count])
        )

    def tell(self, state: HalvingState, observations: Sequence[Observation]) -> HalvingState:
        begin, end = state.first_trial + len(state.told), state.first_trial + len(state.going)
        for index, observation in told_by_index(observations, begin, end).items():
            candidate = state.going[index - state.first_trial].candidate
            accuracy = observation.accuracy if observation and observation.is_scored else None
            state = replace(state, told=(*state.told, Contender(candidate, index, accuracy)))
        is_rung_over = state.going and len(state.told) == len(state.going)
        return self._end_rung(state) if is_rung_over else state

    def winners(self, state: HalvingState, observations: Sequence[Observation]) -> dict[str, int]:  # noqa: ARG002
        """As of every search; of the last rung that scored anybody, since rungs do not compare."""
        scored = [one for one in observations if one.is_scored]
        last = max((one.trial.rounds for one in scored), default=0)
        return most_accurate(self.feasibility, [one for one in scored if one.trial.rounds == last])

    def _end_rung(self, state: HalvingState) -> HalvingState:
        first_trial = state.first_trial + len(state.told)
        scored = sorted((one for one in state.told if one.accuracy is not None), key=_rank)
        kept = tuple(scored[: max(1, len(state.told) // self.eta)])
        going = kept if len(kept) > 1 else ()  # the best of the last rung is found
        return replace(state, rung=state.rung + 1, first_trial=first_trial, going=going, told=())


def rungs(num_candidates: int, rounds: int, eta: int) -> tuple[tuple[int, int], ...]:
    """Candidates and rounds of each rung, where nobody fails; the best of the last one is found."""
    planned = [(num_candidates, rounds)]
    while planned[-1][0] // eta > 1:
        planned.append((planned[-1][0] // eta, planned[-1][1] * eta))
    return tuple(planned)


def _rank(contender: Contender) -> tuple[float, int]:
    """The most accurate first, the earliest of equals."""
    return -(contender.accuracy or 0.0), contender.trial or 0
