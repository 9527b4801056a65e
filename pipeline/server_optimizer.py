"""The server's step: links that a round's mean update passes through, each a pair of functions over a state.

"Adaptive Federated Optimization", arXiv:2003.00295, Algorithms 1 and 2: the mean update is a pseudo-gradient. Plain
FedAvg (arXiv:1602.05629) is learning rate 1 without momentum.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from device_runtime.arrays import Flags, Vector
from search.candidate import HyperParameters

State = tuple[Vector, ...]  # what a link carries from round to round, each f32[P]


class Link(Protocol):
    """One thing that is done to a change f32[P] on its way to the parameters."""

    def init(self, num_parameters: int) -> State: ...
    def update(self, state: State, change: Vector) -> tuple[State, Vector]: ...


@dataclass(frozen=True)
class Scale:
    """Take the change times a learning rate > 0; 1 takes it as it is."""

    learning_rate: float = 1.0

    def __post_init__(self) -> None:
        _check(self.learning_rate > 0, "learning_rate must be > 0", self.learning_rate)

    def init(self, num_parameters: int) -> State:  # noqa: ARG002  (nothing is carried)
        return ()

    def update(self, state: State, change: Vector) -> tuple[State, Vector]:
        return state, np.float32(self.learning_rate) * change


@dataclass(frozen=True)
class Momentum:
    """Take a share of the last change again, in [0, 1); 0 leaves the change as it is."""

    share: float = 0.0

    def __post_init__(self) -> None:
        _check(0 <= self.share < 1, "momentum must be in [0, 1)", self.share)

    def init(self, num_parameters: int) -> State:
        return (np.zeros(num_parameters, np.float32),)

    def update(self, state: State, change: Vector) -> tuple[State, Vector]:
        (velocity,) = state
        velocity = np.float32(self.share) * velocity + change
        return (velocity,), velocity


@dataclass(frozen=True)
class Adam:
    """Divide the mean of changes by the root of the mean of their squares, each value for itself (FedAdam).

    Without bias correction, as in the paper: the second mean begins at epsilon^2 instead of 0.

    Attributes:
        beta1, beta2: How much of the means so far stays, in [0, 1).
        epsilon: tau in the paper, > 0: the larger, the more alike the values are treated.
    """

    beta1: float
    beta2: float
    epsilon: float

    def __post_init__(self) -> None:
        _check(0 <= self.beta1 < 1, "momentum must be in [0, 1)", self.beta1)
        _check(0 <= self.beta2 < 1, "beta2 must be in [0, 1)", self.beta2)
        _check(np.float32(self.epsilon) > 0, "epsilon must be > 0 as a float32", self.epsilon)

    def init(self, num_parameters: int) -> State:
        return np.zeros(num_parameters, np.float32), np.full(num_parameters, self.epsilon**2, np.float32)

    def update(self, state: State, change: Vector) -> tuple[State, Vector]:
        first, second = state
        beta1, beta2, one = np.float32(self.beta1), np.float32(self.beta2), np.float32(1)
        first = beta1 * first + (one - beta1) * change
        second = beta2 * second + (one - beta2) * change**2
        size: Vector = np.sqrt(second)
        return (first, second), first / (size + np.float32(self.epsilon))


@dataclass(frozen=True)
class ServerOptimizer:
    """Links one after the other; what comes out is added to the parameters."""

    links: tuple[Link, ...]

    def init(self, num_parameters: int) -> tuple[State, ...]:
        """The links' states before the first round."""
        return tuple(link.init(num_parameters) for link in self.links)

    def step(
        self, states: tuple[State, ...], parameters: Vector, mean_update: Vector, is_moved: Flags | None = None
    ) -> tuple[tuple[State, ...], Vector]:
        """Parameters f32[P] after a round whose mean update is f32[P].

        Args:
            is_moved: Which parameters the round was about, bool[P]: the others stay, and what is remembered of them.
                None for all.

        Raises:
            ValueError: The states are another optimiser's.
        """
        carried, given = ([len(state) for state in those] for those in (self.init(0), states))
        if carried != given:
            raise ValueError(f"states must be this optimiser's, which carries {carried} vectors, got {given}")
        change, after = mean_update, []
        for link, state in zip(self.links, states, strict=True):
            new, change = link.update(state, change)
            after.append(tuple(_where(is_moved, one, old) for one, old in zip(new, state, strict=True)))
        return tuple(after), _where(is_moved, parameters + change, parameters)


def _where(is_moved: Flags | None, new: Vector, old: Vector) -> Vector:
    return new if is_moved is None else np.where(is_moved, new, old)


def optimizer_of(hyper: HyperParameters) -> ServerOptimizer:
    """The optimiser that hyper-parameters name: FedAdam where they have a server_beta2, else FedAvg with momentum.

    Raises:
        ValueError: Of server_beta2 and server_epsilon there is one alone.
    """
    scale, beta2, epsilon = Scale(hyper.server_learning_rate), hyper.server_beta2, hyper.server_epsilon
    if beta2 is None and epsilon is None:
        return ServerOptimizer((Momentum(hyper.server_momentum), scale))
    if beta2 is None or epsilon is None:
        raise ValueError(f"FedAdam needs both server_beta2 and server_epsilon, got {beta2} and {epsilon}")
    return ServerOptimizer((Adam(hyper.server_momentum, beta2, epsilon), scale))


def _check(is_met: bool | np.bool, rule: str, value: float) -> None:
    if not is_met:
        raise ValueError(f"{rule}, got {value}")
