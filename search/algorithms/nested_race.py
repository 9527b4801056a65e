"""A nested race: parts of one supernet train side by side until the clients have refuted all but one of them.

Before any phone is touched, networks within each platform's limits are ranked (`entrants`); the first few race. In a
round every client trains one path through the supernet, a network of its own platform's race, and what was learnt is
averaged for each parameter over the paths that hold it ("HeteroFL", arXiv:2010.01264; "FedorAS", arXiv:2206.11239), so
that nothing a loser learnt is lost. Then one cohort a platform scores all of its networks. A network leaves when its
difference to the leader is below 0 by a wide confidence bound (racing: "Hoeffding Races", Maron and Moore, 1993). What
clients did not refute stays in the order of the ranking: few rounds measure how fast a network learns and little else,
so a difference within the noise should decide nothing. The bound is wide because it is looked at after every round, for
every network, against the luckiest of them; tests hold how often it refutes one of equals. A platform whose clients are
too few to refute anybody has no race: its favourite ships, with the shared weights as the others left them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from search.algorithm import NoWinnerError, told_by_index
from search.algorithms.nested_race_bounds import LEAST_PAIRS, Score, is_behind
from search.algorithms.nested_race_entrants import entrants
from search.architecture import Architecture
from search.budget import Feasibility
from search.candidate import Candidate, Observation, Trial
from search.clients import Client, balance, by_platform
from search.space import SearchSpace

# Of the way from guessing to certainty that the leader must have gone before: networks that know nothing name one class
# each, and which one they name makes lasting differences.
_LEAST_KNOWN = 0.15
# Platform, number of the runner in its race, clients; None of a network that is named and that nobody scores.
_Asked = tuple[str, int, tuple[str, ...] | None]


@dataclass(frozen=True)
class Runner:
    """A network that was not refuted.

    Attributes:
        scores: One a round, the oldest first; a round that failed has none.
        trial: The newest one that scored it, or that named it where nobody does; None before.
    """

    network: Architecture
    scores: tuple[Score, ...] = ()
    trial: int | None = None


class _Planned(NamedTuple):
    platform: str
    number: int
    trial: Trial


@dataclass(frozen=True)
class NestedRaceState:
    """Where the search is.

    Attributes:
        races: Each platform's runners by the name of its profile, the favourite first.
        is_scoring: Whether the round's training is over.
        last_trained: The last round that trained anybody; -1 before.
        first_trial: Of the round's part, training or scoring.
        num_told: Of its trials.
    """

    seed: int
    races: dict[str, tuple[Runner, ...]]
    round: int = 0
    last_trained: int = -1
    is_scoring: bool = False
    first_trial: int = 0
    num_told: int = 0
    schema: int = 1


@dataclass(frozen=True)
class NestedRace:
    """Search by racing parts of one supernet, the space's largest network, under hard limits.

    Attributes:
        feasibility: The limits; each platform has a race of networks within its own, run by its own clients. Clients of
            an unknown profile are dealt out to the platforms, but for those of a known device class: theirs is no
            platform's, so nobody knows what they can train, and they take no part. A platform with fewer clients than
            can refute anybody has no race.
        clients: Who takes part.
        num_entrants: Networks in each race.
        rounds: Of training, at most; a race is over when one network is left. Fewer than 3 refute nobody.
        cohorts: Groups of each platform's clients that take turns at scoring, where there are so many clients; a bound
            looks at one turn of each, and fewer than 3 refute nobody.
        margin: Standard errors of the difference that a network must be behind to leave.
    """

    space: SearchSpace
    feasibility: Feasibility
    clients: tuple[Client, ...]
    num_entrants: int = 10
    rounds: int = 7
    cohorts: int = 5
    margin: float = 3.0

    def __post_init__(self) -> None:
        for name, value, least in (
            ("num_entrants", self.num_entrants, 1),
            ("rounds", self.rounds, 1),
            ("cohorts", self.cohorts, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be >= {least}, got {value}")
        if self.num_entrants > 1 and self.cohorts < LEAST_PAIRS:
            raise ValueError(
                f"cohorts must be >= {LEAST_PAIRS} where several networks race, got {self.cohorts}: a bound looks at "
                "one score of each, and fewer refute nobody; ask for more, or for one entrant and no race"
            )
        if not self.margin > 0:
            raise ValueError(f"margin must be > 0, got {self.margin}")
        self.space.hyper_parameters.only()  # refuses several
        if not any(self._clients_of.values()):
            raise ValueError(
                "no client is left for any race: wait for more, or name targets of the device classes that come"
            )

    @property
    def state_type(self) -> type[NestedRaceState]:
        return NestedRaceState

    def init(self, seed: int) -> NestedRaceState:
        races = {
            name: tuple(
                Runner(network)
                for network in entrants(self.space, limits, 1 if name in self._unasked else self.num_entrants)
            )
            for name, limits in self._platforms.items()
        }
        state = NestedRaceState(seed, races)
        return state if self._plan(state) else replace(state, is_scoring=True)  # where every platform has one network

    @property
    def warnings(self) -> tuple[str, ...]:
        """Which platforms ship a network that none of their clients was asked about."""
        if not self._unasked:
            return ()
        few = f"fewer than {LEAST_PAIRS} clients each" if self.num_entrants > 1 else "no client"
        is_trained = self.num_entrants > 1 and len(self._unasked) < len(self._platforms)
        weights = (
            "the weights that the other platforms' phones trained" if is_trained else "weights that nobody trained"
        )
        message = (
            f"no race for {', '.join(self._unasked)}: {few}, so nobody could refute a network. The first of the "
            f"server's ranking ships there; nobody scored it, and the search left it {weights}"
        )
        return (message,)

    def ask(self, state: NestedRaceState, count: int) -> tuple[Trial, ...]:
        return tuple(place.trial for place in self._plan(state))[state.num_told :][:count]

    def tell(self, state: NestedRaceState, observations: Sequence[Observation]) -> NestedRaceState:
        plan, first = self._plan(state), state.first_trial
        over = told_by_index(observations, first + state.num_told, first + len(plan))
        races = {name: list(runners) for name, runners in state.races.items()}
        for index, observation in over.items():
            platform, number, _ = plan[index - first]
            if state.is_scoring and observation is not None:
                races[platform][number] = _after(races[platform][number], observation, state.round)
        state = replace(
            state,
            races={name: tuple(runners) for name, runners in races.items()},
            num_told=state.num_told + len(over),
        )
        return self._next_part(state, len(plan)) if plan and state.num_told == len(plan) else state

    def winners(self, state: NestedRaceState, observations: Sequence[Observation]) -> dict[str, int]:  # noqa: ARG002
        told = {name: [one for one in state.races[name] if one.trial is not None] for name in self._platforms}
        newest: dict[Architecture, tuple[bool, int]] = {}  # of a network in several races, so that they ship one model
        for runner in (one for runners in told.values() for one in runners):
            its = bool(runner.scores), runner.trial or 0  # rather one that was scored
            newest[runner.network] = max(its, newest.get(runner.network, its))
        for name, runners in told.items():
            if not runners:
                raise NoWinnerError(f"no network{' of ' + name if name else ''} was ever scored: begin anew")
        return {name: newest[runners[0].network][1] for name, runners in told.items()}

    @cached_property
    def _platforms(self) -> dict[str, Feasibility]:
        return self.feasibility.platforms or {"": self.feasibility}

    @cached_property
    def _clients_of(self) -> dict[str, tuple[Client, ...]]:
        return by_platform(self.clients, tuple(self._platforms))

    @cached_property
    def _unasked(self) -> tuple[str, ...]:
        """Platforms without a race, whose clients are asked for nothing."""
        least = LEAST_PAIRS if self.num_entrants > 1 else 1  # one cohort scores where nothing races
        return tuple(name for name, clients in self._clients_of.items() if len(clients) < least)

    def _num_cohorts(self, name: str) -> int:
        """Of a platform: each has a client at least."""
        return min(self.cohorts, len(self._clients_of[name]))

    def _plan(self, state: NestedRaceState) -> tuple[_Planned, ...]:
        """All trials of the round's part."""
        if state.round >= self.rounds:
            return ()
        part = self._to_score if state.is_scoring else self._to_train
        asked = [
            one for i, name in enumerate(self._platforms) for one in part(state, name, i)
        ]  # no state keeps an order
        training = self.space.hyper_parameters.only()
        return tuple(
            _Planned(
                name,
                number,
                Trial(
                    state.first_trial + place,
                    Candidate(state.races[name][number].network, training),
                    rounds=0 if state.is_scoring else 1,
                    supernet=self.space.largest(),
                    clients=clients,
                    is_scored=state.is_scoring and clients is not None,
                ),
            )
            for place, (name, number, clients) in enumerate(asked)
        )

    def _to_train(self, state: NestedRaceState, name: str, platform: int) -> Iterator[_Asked]:
        """Groups of nearly equal data take turns at the runners; a race that is over trains nobody."""
        runners, clients = state.races[name], self._clients_of[name]
        if len(runners) < 2:
            return
        order = np.random.default_rng((state.seed, platform)).permutation(len(runners))
        for i, group in enumerate(balance(clients, min(len(runners), len(clients)))):
            yield name, int(order[(i + state.round) % len(runners)]), group

    def _to_score(self, state: NestedRaceState, name: str, platform: int) -> Iterator[_Asked]:  # noqa: ARG002
        runners, clients = state.races[name], self._clients_of[name]
        if name in self._unasked:
            if self._is_last(state) and runners[0].trial is None:  # with the weights that all the others leave
                yield name, 0, None
            return
        cohorts = balance(clients, self._num_cohorts(name))
        for number, runner in enumerate(runners):
            if len(runners) > 1 or self._needs_score(state, runner):
                yield name, number, cohorts[state.round % len(cohorts)]

    def _is_last(self, state: NestedRaceState) -> bool:
        """Whether nobody trains after the round."""
        return state.round == self.rounds - 1 or all(len(runners) == 1 for runners in state.races.values())

    def _needs_score(self, state: NestedRaceState, alone: Runner) -> bool:
        """Whether one that races no more has no score yet, or none of the weights that the last round left."""
        newest = max((score.round for score in alone.scores), default=-1)
        return not alone.scores or (self._is_last(state) and newest < state.last_trained)

    def _next_part(self, state: NestedRaceState, num_planned: int) -> NestedRaceState:
        """The next part in which there is something to do; who is refuted leaves after a round's scores."""
        state = replace(state, first_trial=state.first_trial + num_planned, num_told=0)
        if not state.is_scoring:
            state = replace(state, last_trained=state.round)
        while state.round < self.rounds:
            if state.is_scoring:
                races = {name: self._unrefuted(name, runners, state.round) for name, runners in state.races.items()}
                state = replace(state, races=races, round=state.round + 1)
            state = replace(state, is_scoring=not state.is_scoring)
            if self._plan(state):
                break
        return state

    def _unrefuted(self, name: str, runners: tuple[Runner, ...], now: int) -> tuple[Runner, ...]:
        begin = now - self._num_cohorts(name)  # further back the same clients answered: those are no further examples
        recent = [
            replace(runner, scores=tuple(score for score in runner.scores if score.round > begin)) for runner in runners
        ]
        leader = max(recent, key=_accuracy)
        guessing = 1 / self.space.num_classes
        if _accuracy(leader) < guessing + _LEAST_KNOWN * (1 - guessing):
            return runners
        return tuple(
            runner
            for runner, its in zip(runners, recent, strict=True)
            if not is_behind(its.scores, leader.scores, self.margin)
        )


def _after(runner: Runner, observation: Observation, round_: int) -> Runner:
    """Where a score failed, the runner as it was."""
    if not observation.trial.is_scored:
        return replace(runner, trial=observation.trial.index)
    if not observation.is_scored:
        return runner
    score = Score(round_, observation.accuracy, max(1, observation.num_examples))
    return replace(runner, scores=(*runner.scores, score), trial=observation.trial.index)


def _accuracy(runner: Runner) -> float:
    """Over all its scores; of one without any, 0."""
    total = sum(score.num_examples for score in runner.scores)
    return sum(score.accuracy * score.num_examples for score in runner.scores) / max(1, total)
