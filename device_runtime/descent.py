"""Local steps from mean gradients, float32 as in torch: SGD on weights, Adam on architecture weights."""

from collections.abc import Collection
from dataclasses import dataclass
from math import sqrt
from typing import Protocol

import numpy as np

from device_runtime.arrays import Vector
from device_runtime.segments import Positions, moving_segments, positions_of
from device_runtime.specs import Manifest
from device_runtime.terms import ARCHITECTURE, ArchitectureTerms, TrainTerms

BETA1, BETA2, EPSILON = 0.5, 0.999, 1e-8  # "DARTS", arXiv:1806.09055, section A; epsilon is torch's


class DivergedError(ValueError):
    """Training left the finite numbers; the message says at which step and what to change."""


class Optimizer(Protocol):
    """Moves some values of the parameters; remembers what it needs between its steps."""

    def step(self, values: Vector, gradient: Vector) -> Vector:
        """The values f32[m] after a step along their mean gradient f32[m]."""

    @property
    def cure(self) -> str:
        """What to change where it diverges."""


class Sgd:
    """`torch.optim.SGD` with momentum and weight decay, and FedProx's pull towards the start."""

    def __init__(self, start: Vector, terms: TrainTerms) -> None:
        self._start, self._terms = start, terms
        self._velocity = np.zeros_like(start)

    def step(self, values: Vector, gradient: Vector) -> Vector:
        terms = self._terms
        pull: Vector = np.float32(terms.proximal) * (values - self._start)
        if terms.weight_decay:
            pull = pull + np.float32(terms.weight_decay) * values
        self._velocity = np.float32(terms.momentum) * self._velocity + gradient + pull
        return values - np.float32(terms.learning_rate) * self._velocity

    @property
    def cure(self) -> str:
        terms = self._terms
        return f"lower learning_rate, now {terms.learning_rate}, or set max_grad_norm, now {terms.max_grad_norm}"


class Adam:
    """`torch.optim.Adam` ("Adam", arXiv:1412.6980, Algorithm 1) with weight decay added to the gradient."""

    def __init__(self, start: Vector, terms: ArchitectureTerms) -> None:
        self._terms, self._num_steps = terms, 0
        self._mean, self._square = np.zeros_like(start), np.zeros_like(start)

    def step(self, values: Vector, gradient: Vector) -> Vector:
        self._num_steps += 1
        gradient = gradient + np.float32(self._terms.weight_decay) * values
        self._mean = np.float32(BETA1) * self._mean + np.float32(1 - BETA1) * gradient
        self._square = np.float32(BETA2) * self._square + np.float32(1 - BETA2) * gradient * gradient
        size = np.float32(self._terms.learning_rate / (1 - BETA1**self._num_steps))
        root = np.sqrt(self._square) / np.float32(sqrt(1 - BETA2**self._num_steps))
        moved: Vector = np.subtract(values, size * self._mean / (root + np.float32(EPSILON)), dtype=np.float32)
        return moved

    @property
    def cure(self) -> str:
        return f"lower architecture.learning_rate, now {self._terms.learning_rate}"


@dataclass(frozen=True)
class _Moved:
    """Some segments, where they lie, and what moves them."""

    segments: frozenset[str]
    positions: Positions
    optimizer: Optimizer


class Descent:
    """Parameters of one assignment on their way.

    Attributes:
        start: f32[P], as received.
        parameters: f32[P], after the steps so far; what was returned before never changes.
    """

    def __init__(self, manifest: Manifest, start: Vector, terms: TrainTerms) -> None:
        self.start, self.parameters, self._moved = start, start, list[_Moved]()
        rest = set(moving_segments(manifest, terms.moves))
        if terms.architecture is not None and ARCHITECTURE in rest:
            rest.remove(ARCHITECTURE)
            positions = positions_of(manifest, {ARCHITECTURE})
            self._moved.append(_Moved(frozenset({ARCHITECTURE}), positions, Adam(start[positions], terms.architecture)))
        if rest:
            positions = positions_of(manifest, rest)
            self._moved.append(_Moved(frozenset(rest), positions, Sgd(start[positions], terms)))

    def step(self, gradient: Vector, segments: Collection[str], number: int) -> None:
        """Take one step on some segments.

        Args:
            gradient: f32[P], looked at in these segments alone.
            number: Of the local step, from 1, for the error.

        Raises:
            DivergedError: It left the finite numbers.
        """
        parameters = self.parameters.copy()
        for moved in self._moved:
            if not moved.segments <= set(segments):
                continue
            at = moved.positions
            with np.errstate(over="ignore", invalid="ignore"):  # refused by name below
                parameters[at] = moved.optimizer.step(parameters[at], gradient[at])
            if not np.isfinite(parameters[at]).all():
                self.parameters = parameters
                raise DivergedError(f"parameters are not finite after local step {number}: {moved.optimizer.cure}")
        self.parameters = parameters
