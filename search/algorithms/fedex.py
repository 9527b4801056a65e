"""FedEx: every client of a round draws a configuration of its own; their losses move the distribution, none is lost.

"Federated Hyperparameter Tuning: Challenges, Baselines, and Connections to Weight-Sharing", arXiv:2106.04502, Algorithm
2: after a round the weight of configuration j moves by an exponentiated gradient, the clients' validation losses after
their own training less a baseline, over the probability with which j was drawn. What they learnt is averaged, whatever
they trained with. Once the distribution has settled it stays, and nobody is asked for a loss any more. Here the shared
weights may be those of a supernet of cells, so that tuning can come with the search of an architecture (FedDARTS:
alternating steps, as in "DARTS", arXiv:1806.09055), after it or before it; with one configuration what remains is the
search of an architecture alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import log, sqrt
from typing import Literal, NamedTuple

import numpy as np

from search.algorithm import TuningHistory, named_for_all, told_by_index
from search.algorithms.configurations import (
    Floats,
    draw_configurations,
    entropy_of,
    initial_architecture_weights,
    softmax,
    weights_of,
    without_architecture,
)
from search.architecture import Architecture
from search.budget import Feasibility, check_feasible, draw_feasible
from search.candidate import Candidate, HyperParameters, Moves, Observation, Trial
from search.cell_space import CellSpace
from search.cells import found_within
from search.clients import Client

Order = Literal["joint", "nas_then_tuning", "tuning_then_nas", "nas", "tuning"]
_SETTLED = 1e-4  # entropy in nats, the published cutoff: from there on the distribution stays, and nobody is asked
_TRACE = 0.9  # of the baseline, a mean of the rounds' losses in which older ones count less and less


class Part(NamedTuple):
    """Some rounds alike.

    Attributes:
        is_supernet: Whether the supernet trains, or the network that was found.
        is_tuned: Whether clients draw configurations.
    """

    is_supernet: bool
    moves: Moves
    is_tuned: bool
    rounds: int


@dataclass(frozen=True)
class Told:
    """What came of a configuration's trial: its clients' loss, None where nobody could train with it."""

    configuration: int
    loss: float | None
    num_examples: int


@dataclass(frozen=True)
class FedExState:
    """Where the search is.

    Attributes:
        part, round: Which part, and the round of it; the last names the network that was found, and then it is over.
        logits: The distribution over configurations is their softmax.
        baseline, baseline_weight: Discounted sum of the rounds' mean losses and of 1.
        told: Of the round's trials that are over.
        architecture_weights: Of the supernet, in layout order.
        network: The found one; None before.
        trial: That names the winner; None before.
        history: Logits before each round of tuning, for the report.
    """

    seed: int
    logits: tuple[float, ...]
    architecture_weights: tuple[float, ...]
    part: int = 0
    round: int = 0
    baseline: float = 0.0
    baseline_weight: float = 0.0
    told: tuple[Told, ...] = ()
    network: Architecture | None = None
    first_trial: int = 0
    trial: int | None = None
    history: tuple[tuple[float, ...], ...] = ()
    schema: int = 1


@dataclass(frozen=True)
class FedEx:
    """Search as published, jointly or in one of the orders that are its controls.

    Attributes:
        feasibility: The limits that the found network meets.
        clients: Who takes part: all in every round.
        order: `joint` tunes while the supernet trains; `nas_then_tuning` trains it with `default`, then tunes on the
            found network from fresh weights; `tuning_then_nas` tunes on the supernet without a step on its architecture
            weights, then trains it with the best; `nas` and `tuning` do one alone, `tuning` on a network drawn at
            random.
        rounds: Of the search.
        num_configurations: K.
        default: Of rounds that are not tuned; None where all are.
        moves: As of FEATHERS, of rounds that move the architecture.
        tuning_share: Of the rounds, those that tune where parts follow each other.
    """

    space: CellSpace
    feasibility: Feasibility
    clients: tuple[Client, ...]
    rounds: int
    num_configurations: int = 27
    order: Order = "joint"
    default: HyperParameters | None = None
    moves: Moves = "alternate"
    tuning_share: float = 0.5

    def __post_init__(self) -> None:
        if self.rounds < len(self._parts):
            raise ValueError(f"rounds must be >= {len(self._parts)} for order {self.order!r}, got {self.rounds}")
        if not self.clients:
            raise ValueError("clients must be >= 1, got 0: wait for some, or nobody draws a configuration")
        if self.num_configurations < 1:
            raise ValueError(f"num_configurations must be >= 1, got {self.num_configurations}")
        if self.default is None and self.order in {"nas_then_tuning", "nas"}:
            raise ValueError(f"order {self.order!r} trains with a default configuration: give one")

    @property
    def state_type(self) -> type[FedExState]:
        return FedExState

    def init(self, seed: int) -> FedExState:
        check_feasible(self.feasibility, self.space.smallest())
        state = FedExState(seed, (0.0,) * self.num_configurations, initial_architecture_weights(self.space))
        return replace(state, network=self._random_network(seed)) if self.order == "tuning" else state

    def ask(self, state: FedExState, count: int) -> tuple[Trial, ...]:
        return self._plan(state)[len(state.told) :][:count]

    def tell(self, state: FedExState, observations: Sequence[Observation]) -> FedExState:
        plan, drawn, first = self._plan(state), sorted(self._drawn(state)), state.first_trial
        over = told_by_index(observations, first + len(state.told), first + len(plan))
        for index, observation in over.items():
            configuration = drawn[index - first] if drawn else 0
            loss = None if observation is None else observation.metrics.get("loss")
            count = 0 if observation is None else observation.num_rewarded
            state = replace(state, told=(*state.told, Told(configuration, loss, count)))
            if observation is None:
                continue
            if state.part == len(self._parts):
                state = replace(state, trial=index)
            if observation.architecture_weights:
                state = replace(state, architecture_weights=observation.architecture_weights)
        return self._end_round(state, plan) if plan and len(state.told) == len(plan) else state

    def winners(self, state: FedExState, observations: Sequence[Observation]) -> dict[str, int]:  # noqa: ARG002
        return named_for_all(self.feasibility, state.trial)

    def configurations(self, state: FedExState) -> tuple[HyperParameters, ...]:
        """The K configurations, the same for a seed."""
        return draw_configurations(self.space.hyper_parameters, self.num_configurations, state.seed)

    def tuning_history(self, state: FedExState) -> TuningHistory | None:
        """The distribution before each round that was tuned, and after the last."""
        if not state.history:
            return None
        before = next(i for i, part in enumerate(self._parts) if part.is_tuned)
        first = 1 + sum(part.rounds for part in self._parts[:before])
        return TuningHistory(
            self.configurations(state),
            tuple(tuple(map(float, _probabilities(row))) for row in (*state.history, state.logits)),
            (*(f"round {first + i}" for i in range(len(state.history))), "end"),
        )

    @cached_property
    def _parts(self) -> tuple[Part, ...]:
        return parts_of(self.order, self.rounds, self.moves, self.tuning_share)

    def _plan(self, state: FedExState) -> tuple[Trial, ...]:
        if state.part > len(self._parts):
            return ()
        if state.part == len(self._parts):
            return (self._trial(state, 0, self._settled(state), rounds=0),)
        if drawn := self._drawn(state):
            return tuple(
                replace(
                    self._trial(state, i, self.configurations(state)[configuration]),
                    clients=tuple(drawn[configuration]),
                    reward=None if _is_settled(state.logits) else "loss",
                )
                for i, configuration in enumerate(sorted(drawn))
            )
        return (self._trial(state, 0, self._settled(state)),)

    def _settled(self, state: FedExState) -> HyperParameters:
        """What trains where nothing is tuned, and what is shipped: the best so far, or the default."""
        if self.default is not None and not any(part.is_tuned for part in self._parts[: state.part]):
            return self.default
        return self.configurations(state)[int(np.argmax(state.logits))]

    def _drawn(self, state: FedExState) -> dict[int, list[str]]:
        """Names of the clients by the configuration that each drew; nobody in a round that is not tuned."""
        if state.part >= len(self._parts) or not self._parts[state.part].is_tuned:
            return {}
        probabilities = _probabilities(state.logits)
        rng = np.random.default_rng((state.seed, state.first_trial))
        names = [client.name for client in self.clients]
        choices = rng.choice(len(probabilities), len(names), p=probabilities)
        drawn: dict[int, list[str]] = {}
        for name, choice in zip(names, choices, strict=True):
            drawn.setdefault(int(choice), []).append(name)
        return drawn

    def _trial(self, state: FedExState, place: int, hyper: HyperParameters, rounds: int = 1) -> Trial:
        is_named = state.part == len(self._parts)
        part = self._parts[min(state.part, len(self._parts) - 1)]
        network = state.network if is_named or not part.is_supernet else self.space.supernet()
        if network is None:
            raise ValueError("a network is trained before one was found")
        supernet = weights_of(self.space.supernet(), network) if part.is_supernet else network
        moves: Moves = "all" if is_named else part.moves
        if not network.is_supernet or moves == "weights":
            hyper = without_architecture(hyper)
        candidate = Candidate(network, hyper)
        return Trial(state.first_trial + place, candidate, rounds, supernet=supernet, is_scored=is_named, moves=moves)

    def _end_round(self, state: FedExState, plan: Sequence[Trial]) -> FedExState:
        if state.part == len(self._parts):
            return replace(state, part=state.part + 1, first_trial=state.first_trial + 1, told=())
        part = self._parts[state.part]
        if part.is_tuned:
            state = self._tuned(replace(state, history=(*state.history, state.logits)))
        state = replace(state, round=state.round + 1, first_trial=state.first_trial + len(plan), told=())
        if state.round < part.rounds:
            return state
        state = replace(state, part=state.part + 1, round=0)
        if state.network is None and part.moves == self.moves and part.is_supernet:
            network = found_within(self.space, state.architecture_weights, self.feasibility.overshoot)
            state = replace(state, network=network)
        return state

    def _tuned(self, state: FedExState) -> FedExState:
        """One exponentiated gradient step from the round's losses; one that nobody could train with has the worst."""
        known = [one for one in state.told if one.loss is not None]
        if not known or _is_settled(state.logits):
            return state
        num_examples = sum(one.num_examples for one in known)
        mean = sum((one.loss or 0.0) * one.num_examples for one in known) / num_examples
        worst = max(one.loss or 0.0 for one in known)
        baseline = state.baseline / state.baseline_weight if state.baseline_weight else mean
        probabilities, gradient = _probabilities(state.logits), np.zeros(len(state.logits))
        for one in state.told:
            loss, share = (
                (worst, 1.0 / len(state.told)) if one.loss is None else (one.loss, one.num_examples / num_examples)
            )
            gradient[one.configuration] = share * (loss - baseline) / probabilities[one.configuration]
        largest = np.abs(gradient).max()
        step = sqrt(2 * log(len(gradient))) / largest if largest > 0 else 0.0
        logits = np.array(state.logits) - step * gradient
        return replace(
            state,
            logits=tuple(map(float, logits - logits.max())),
            baseline=_TRACE * state.baseline + mean,
            baseline_weight=_TRACE * state.baseline_weight + 1,
        )

    def _random_network(self, seed: int) -> Architecture:
        rng = np.random.default_rng((seed, 1))
        draw = draw_feasible(lambda: self.space.sample(rng), self.feasibility, self.space.smallest())
        return draw.architecture


def parts_of(order: Order, rounds: int, moves: Moves, tuning_share: float) -> tuple[Part, ...]:
    """What a search in an order does, one part after the other."""
    tuned = min(max(1, round(rounds * tuning_share)), rounds - 1)
    search = Part(True, moves, False, rounds - tuned)
    return {
        "joint": (Part(True, moves, True, rounds),),
        "nas_then_tuning": (search, Part(False, "all", True, tuned)),
        "tuning_then_nas": (Part(True, "weights", True, tuned), search),
        "nas": (search._replace(rounds=rounds),),
        "tuning": (Part(False, "all", True, rounds),),
    }[order]


def _probabilities(logits: Sequence[float]) -> Floats:
    """f64[K]; of settled ones the most probable alone."""
    values = softmax(np.array(logits))
    return np.eye(len(values))[int(values.argmax())] if _is_settled(logits) else values


def _is_settled(logits: Sequence[float]) -> bool:
    return entropy_of(softmax(np.array(logits))) <= _SETTLED
