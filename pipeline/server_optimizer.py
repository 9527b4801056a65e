"""The server's step: what becomes of a round's mean update, as a pair of functions over an explicit state.

"Adaptive Federated Optimization", arXiv:2003.00295, Algorithm 1: the mean update is a pseudo-gradient. Plain FedAvg
(arXiv:1602.05629) is learning rate 1 without momentum.
"""

from dataclasses import dataclass

import numpy as np

from device_runtime.arrays import Vector


@dataclass(frozen=True)
class ServerState:
    """What the server carries from round to round.

    Attributes:
        velocity: f32[P].
    """

    velocity: Vector


@dataclass(frozen=True)
class FedAvgM:
    """Federated averaging with server momentum.

    Attributes:
        learning_rate: Of the server's step; 1 takes the mean update as it is.
        momentum: Share of the last step that is taken again, in [0, 1); 0 is FedAvg.
    """

    learning_rate: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be > 0, got {self.learning_rate}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")

    def init(self, num_parameters: int) -> ServerState:
        """The state before the first round."""
        return ServerState(np.zeros(num_parameters, np.float32))

    def step(self, state: ServerState, parameters: Vector, mean_update: Vector) -> tuple[ServerState, Vector]:
        """Parameters f32[P] after a round whose mean update is f32[P]."""
        velocity = np.float32(self.momentum) * state.velocity + mean_update
        return ServerState(velocity), parameters + np.float32(self.learning_rate) * velocity
