"""FEATHERS: architecture weights by DARTS in federated rounds, hyper-parameters by a bandit that stops for exploration.

"Federated Architecture and Hyperparameter Search", arXiv:2206.12342. Of K configurations drawn once, every n-th round
explores: S = round(gamma * entropy(p)) are drawn from p = softmax(r / max |r|), each trains everybody for one round
from the same weights, and what was learnt is thrown away; the mean fall of the validation loss moves r. The rounds
between are plain FedAvg with the configuration of the largest r. In the search phase a supernet trains, weights and
architecture weights; then the network that was found trains from fresh weights, the bandit still on.

Differences: a configuration is drawn once a round of exploration, not again; a found network over the limits gives way
to the most probable one within them, or where those are rare to one reached from the most probable by cheaper
operations; where nobody could train with a configuration, its gain counts as the lowest of the round; dropout does not
join in the second phase, since no training step here draws random numbers; Adam's moments, momentum and the shuffle
of the examples begin anew with each assignment.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

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
from search.budget import Feasibility, check_feasible
from search.candidate import Candidate, HyperParameters, Moves, Observation, Trial
from search.cell_space import CellSpace
from search.cells import found_within

Phase = Literal["search", "evaluation", "named", "over"]
_NO_GAIN = -1.0  # of a round in which nobody could train at all


@dataclass(frozen=True)
class Gain:
    """What one configuration gained in a round of exploration; None where nobody could train with it."""

    configuration: int
    gain: float | None


@dataclass(frozen=True)
class Exploration:
    """A round of exploration, for the report.

    Attributes:
        rewards: r before it.
    """

    phase: Phase
    round: int
    rewards: tuple[float, ...]
    drawn: tuple[int, ...]


@dataclass(frozen=True)
class FeathersState:
    """Where the search is.

    Attributes:
        round: Of the phase.
        rewards: r, one a configuration.
        gains: Of the round's trials that are over.
        architecture_weights: Of the supernet, in layout order.
        network: The found one; None before.
        first_trial: Of the round.
        trial: That names the winner; None before.
    """

    seed: int
    rewards: tuple[float, ...]
    architecture_weights: tuple[float, ...]
    phase: Phase = "search"
    round: int = 0
    gains: tuple[Gain, ...] = ()
    network: Architecture | None = None
    first_trial: int = 0
    trial: int | None = None
    explorations: tuple[Exploration, ...] = ()
    schema: int = 1


@dataclass(frozen=True)
class Feathers:
    """Search as published.

    Attributes:
        feasibility: The limits that the found network meets; the supernet meets none.
        rounds, evaluation_rounds: Of the two phases, those of exploration included; without the second the network is
            trained by the configuration that was best.
        num_configurations: K.
        gamma: Factor of the entropy that gives the number of configurations in a round of exploration.
        period: n; the first of so many rounds explores.
        step: eta, of the rewards' moving means.
        moves: `alternate` for a step on the architecture before each on the weights; `all` for both by one gradient, as
            in the private variant, whose clip holds for both in one vector.
    """

    space: CellSpace
    feasibility: Feasibility
    rounds: int
    evaluation_rounds: int = 0
    num_configurations: int = 120
    gamma: float = 4.0
    period: int = 10
    step: float = 0.3
    moves: Moves = "alternate"

    def __post_init__(self) -> None:
        for name, value, least in (
            ("rounds", self.rounds, 1),
            ("evaluation_rounds", self.evaluation_rounds, 0),
            ("num_configurations", self.num_configurations, 1),
            ("period", self.period, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be >= {least}, got {value}")
        if not self.gamma > 0:
            raise ValueError(f"gamma must be > 0, got {self.gamma}")
        if not 0 < self.step <= 1:
            raise ValueError(f"step must be in (0, 1], got {self.step}")

    @property
    def state_type(self) -> type[FeathersState]:
        return FeathersState

    def init(self, seed: int) -> FeathersState:
        check_feasible(self.feasibility, self.space.smallest())
        weights = initial_architecture_weights(self.space)
        return FeathersState(seed, (0.0,) * self.num_configurations, weights)

    def ask(self, state: FeathersState, count: int) -> tuple[Trial, ...]:
        return self._plan(state)[len(state.gains) :][:count]

    def tell(self, state: FeathersState, observations: Sequence[Observation]) -> FeathersState:
        plan, drawn, first = self._plan(state), self._drawn(state), state.first_trial
        over = told_by_index(observations, first + len(state.gains), first + len(plan))
        for index, observation in over.items():
            gain = None if observation is None else observation.metrics.get("gain")
            configuration = drawn[index - first] if drawn else best_of(state.rewards)
            state = replace(state, gains=(*state.gains, Gain(configuration, gain)))
            if observation is None:
                continue
            if state.phase == "named":
                state = replace(state, trial=index)
            if observation.trial.is_kept and observation.architecture_weights:
                state = replace(state, architecture_weights=observation.architecture_weights)
        return self._end_round(state, plan) if plan and len(state.gains) == len(plan) else state

    def winners(self, state: FeathersState, observations: Sequence[Observation]) -> dict[str, int]:  # noqa: ARG002
        return named_for_all(self.feasibility, state.trial)

    def configurations(self, state: FeathersState) -> tuple[HyperParameters, ...]:
        """The K configurations, the same for a seed."""
        return draw_configurations(self.space.hyper_parameters, self.num_configurations, state.seed)

    def tuning_history(self, state: FeathersState) -> TuningHistory:
        """p before each round of exploration, and after the last."""
        before = {"search": 0, "evaluation": self.rounds}
        rounds = [before[one.phase] + one.round for one in state.explorations]
        rewards = [*(one.rewards for one in state.explorations), state.rewards]
        return TuningHistory(
            self.configurations(state),
            tuple(tuple(map(float, probabilities_of(row))) for row in rewards),
            (*(f"round {number + 1}" for number in rounds), "end"),
        )

    def _plan(self, state: FeathersState) -> tuple[Trial, ...]:
        if state.phase == "over":
            return ()
        if state.phase == "named":
            return (self._trial(state, 0, best_of(state.rewards), rounds=0),)
        if drawn := self._drawn(state):
            return tuple(replace(self._trial(state, i, c), is_kept=False, reward="gain") for i, c in enumerate(drawn))
        return (self._trial(state, 0, best_of(state.rewards)),)

    def _drawn(self, state: FeathersState) -> tuple[int, ...]:
        """The configurations of a round of exploration; none of another round."""
        if state.phase not in {"search", "evaluation"} or state.round % self.period:
            return ()
        probabilities = probabilities_of(state.rewards)
        size = num_explored(self.gamma, entropy_of(probabilities), len(probabilities))
        rng = np.random.default_rng((state.seed, state.first_trial))
        return tuple(int(i) for i in rng.choice(len(probabilities), size, replace=False, p=probabilities))

    def _trial(self, state: FeathersState, place: int, configuration: int, rounds: int = 1) -> Trial:
        hyper = self.configurations(state)[configuration]
        moves, network, supernet = self.moves, state.network, self.space.supernet()
        if network is not None:
            hyper, moves = without_architecture(hyper), "all"
        is_apart = network is not None and self.evaluation_rounds > 0  # from fresh weights of its own
        return Trial(
            state.first_trial + place,
            Candidate(network or supernet, hyper),
            rounds,
            supernet=network if is_apart else weights_of(supernet, network or supernet),
            is_scored=rounds == 0,
            moves=moves,
            phase="search" if state.phase == "search" else "final",
        )

    def _end_round(self, state: FeathersState, plan: Sequence[Trial]) -> FeathersState:
        if state.phase == "named":
            return replace(state, phase="over", first_trial=state.first_trial + 1, gains=())
        if drawn := self._drawn(state):
            seen = Exploration(state.phase, state.round, state.rewards, drawn)
            rewards = moved_rewards(state.rewards, state.gains, self.step)
            state = replace(state, rewards=rewards, explorations=(*state.explorations, seen))
        state = replace(state, round=state.round + 1, first_trial=state.first_trial + len(plan), gains=())
        if state.phase == "search" and state.round == self.rounds:
            network = found_within(self.space, state.architecture_weights, self.feasibility.overshoot)
            state = replace(state, phase="evaluation", round=0, network=network)
        if state.phase == "evaluation" and state.round == self.evaluation_rounds:
            state = replace(state, phase="named")
        return state


def num_explored(gamma: float, entropy: float, num_configurations: int) -> int:
    """S, the configurations of a round of exploration at an entropy in nats: at least one, at most all."""
    return max(1, round(min(num_configurations, gamma * entropy)))


def probabilities_of(rewards: Sequence[float]) -> Floats:
    """p f64[K] = softmax(r / max |r|); uniform while all are 0."""
    values = np.array(rewards)
    largest = np.abs(values).max()
    return softmax(values / largest if largest > 0 else values)


def best_of(rewards: Sequence[float]) -> int:
    """The configuration of the largest reward, the first of equals."""
    return int(np.argmax(rewards))


def moved_rewards(rewards: Sequence[float], gains: Sequence[Gain], step: float) -> tuple[float, ...]:
    """r after a round of exploration: towards the gain for what was drawn, towards 0 for the rest."""
    known = [one.gain for one in gains if one.gain is not None]
    worst = min(known, default=_NO_GAIN)
    gain_of = {one.configuration: worst if one.gain is None else one.gain for one in gains}
    return tuple(r + step * (gain_of[i] - r) if i in gain_of else step * r for i, r in enumerate(rewards))
