"""The terms of one assignment: how to train, evaluate or measure, and what each release costs in privacy."""

import math
from dataclasses import dataclass
from typing import Literal

from device_runtime.privacy_terms import (
    BOUNDS,
    NOISE_MULTIPLIERS,
    ClientPrivacyTerms,
    NoiseAt,
    PrivacyTerms,
    Unit,
    check_clip,
    check_loss_bound,
    check_metric_norm,
)
from profiles.records import later

__all__ = [
    "ARCHITECTURE",
    "BOUNDS",
    "MAX_ORDER",
    "NOISE_MULTIPLIERS",
    "ArchitectureTerms",
    "ClientPrivacyTerms",
    "EvaluateTerms",
    "MeasureTerms",
    "Moves",
    "NoiseAt",
    "PrivacyTerms",
    "RewardTerms",
    "Split",
    "TrainTerms",
    "Unit",
]

MAX_ORDER = 256  # the highest Renyi order that anybody counts at
Split = Literal["train", "validation", "test"]
Moves = Literal["all", "weights", "architecture", "alternate"]
ARCHITECTURE = "architecture"  # the segment of the layout that holds a supernet's architecture weights


@dataclass(frozen=True)
class ArchitectureTerms:
    """Steps on a supernet's architecture weights: Adam with betas 0.5 and 0.999 ("DARTS", arXiv:1806.09055, section A).

    The moments start at zero in every assignment. With noise on the sum of examples (`noise_at = "sum"`) no phone takes
    a step: the server's is plain SGD along the mean gradient, so learning_rate is then of gradients at most
    max_grad_norm long, and no longer about how far each weight moves in a step.

    Attributes:
        weight_decay: Added to the gradient as a multiple of the weights, before Adam.
        max_grad_norm: Clip of each example's gradient where these steps have a clip of their own: every `moves` but
            `all`, where one clip holds for all segments together. None for no clipping.
        privacy: Of these steps where they are a release beside the update (private `alternate` of the example unit);
            None elsewhere.
    """

    learning_rate: float
    weight_decay: float = 0.0
    max_grad_norm: float | None = None
    privacy: PrivacyTerms | None = None

    def __post_init__(self) -> None:
        _check_steps("architecture.", self)


@dataclass(frozen=True)
class RewardTerms:
    """What local training was worth, on the client's validation split: a release beside the update.

    Attributes:
        release: `gain`: mean loss before less after training, each example's in [-loss_bound, loss_bound]; `loss`: the
            loss after it. Reported as a sum in units of loss_bound where one is given, the loss then as what is left of
            the bound, 1 - loss / loss_bound: 0 is no gain and the worst loss, and a null record adds 0.
        loss_bound: Clips each example's loss (`loss`) or difference (`gain`); required in private runs.
        privacy: Given exactly where the training's is, and of the same unit. L2 sensitivity of either is 1 in units of
            loss_bound.
    """

    release: Literal["gain", "loss"]
    loss_bound: float | None = None
    privacy: PrivacyTerms | ClientPrivacyTerms | None = None

    def __post_init__(self) -> None:
        check_loss_bound(self.loss_bound, self.privacy, is_loss_released=True)
        check_metric_norm(self.privacy)


@dataclass(frozen=True)
class TrainTerms:
    """Hyper-parameters of local training; they travel in the assignment, never in the artifact.

    Attributes:
        learning_rate: Of the local steps.
        local_steps: Logical steps; exactly one of it and local_epochs is given.
        local_epochs: Passes over the training split in shuffled batches; ordinary training only.
        batch_size: Examples a step of ordinary training; None in private training (the sample rate decides).
        momentum: Of the local steps; the buffer starts at zero in every assignment.
        proximal: Weight of FedProx's pull towards the received parameters ("Federated Optimization in Heterogeneous
            Networks", arXiv:1812.06127, equation 2).
        max_grad_norm: Clip of each example's gradient, in [1e-12, 1e30] in private training; None for no clipping.
        privacy: None for ordinary training. Of the client unit: steps are ordinary, and the update is clipped.
        weight_decay: Added to the gradient as a multiple of the parameters, architecture weights apart.
        moves: What the steps move: `all` segments by training examples, in one clipped vector; `weights` (all but
            architecture weights) by training examples; `architecture` weights alone by validation examples;
            `alternate`: before each step on the weights one on the architecture, as in first-order DARTS. The update
            holds the segments that move and no other, in layout order.
        architecture: How architecture weights move, where they do. Left out of `all`, every segment moves alike.
        reward: None for none.
    """

    learning_rate: float
    local_steps: int | None = None
    local_epochs: int | None = None
    batch_size: int | None = None
    momentum: float = 0.0
    proximal: float = 0.0
    max_grad_norm: float | None = None
    privacy: PrivacyTerms | ClientPrivacyTerms | None = None
    weight_decay: float = later(0.0)
    moves: Moves = later("all")
    architecture: ArchitectureTerms | None = later(None)
    reward: RewardTerms | None = later(None)

    def __post_init__(self) -> None:
        _check_steps("", self)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")
        if not self.proximal >= 0:
            raise ValueError(f"proximal must be >= 0, got {self.proximal}")
        if (self.local_steps is None) == (self.local_epochs is None):
            raise ValueError("exactly one of local_steps and local_epochs must be given")
        for name, value in (("local_steps", self.local_steps), ("local_epochs", self.local_epochs)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        self._check_moves()
        self._check_reward()
        if isinstance(self.privacy, PrivacyTerms):
            self._check_private_steps(self.privacy)
            return
        if self.batch_size is None or self.batch_size < 1:
            raise ValueError(f"batch_size must be >= 1 in ordinary training, got {self.batch_size}")
        if self.privacy is not None and self.privacy.max_norm is None:
            raise ValueError("privacy.max_norm must be given in the client unit: without a clip noise protects nothing")

    @property
    def splits(self) -> tuple[Split, ...]:
        """Whose examples training and reward read; the update's `num_examples` counts the first."""
        trains: tuple[Split, ...] = () if self.moves == "architecture" else ("train",)
        is_validating = self.moves in {"architecture", "alternate"} or self.reward is not None
        return (*trains, "validation") if is_validating else trains

    @property
    def step_clip(self) -> float | None:
        """Clip of each example's gradient in the steps that the update is released from; None for no clipping."""
        if self.moves == "architecture" and self.architecture is not None:
            return self.architecture.max_grad_norm
        return self.max_grad_norm

    @property
    def is_raw_sum(self) -> bool:
        """Whether one step's clipped gradient sum is uploaded in place of an update, for the server to step along."""
        return isinstance(self.privacy, PrivacyTerms) and self.privacy.noise_at == "sum"

    def _check_moves(self) -> None:
        moves, steps = self.moves, self.architecture
        if steps is None:
            if moves in {"architecture", "alternate"}:
                raise ValueError(f"architecture must say how architecture weights move with moves = {moves!r}")
            return
        if moves == "weights":
            raise ValueError("architecture must be left out with moves = 'weights': no architecture weight moves")
        if moves == "all" and steps.max_grad_norm is not None:
            raise ValueError(
                "architecture.max_grad_norm must be left out with moves = 'all': max_grad_norm clips one vector of all "
                "segments"
            )
        if moves == "architecture" and (self.momentum, self.proximal, self.weight_decay, self.max_grad_norm) != (
            (0, 0, 0, None)
        ):
            raise ValueError(
                "momentum, proximal, weight_decay and max_grad_norm are of steps on weights: leave them out with "
                "moves = 'architecture', which has its own"
            )
        is_apart = moves == "alternate" and isinstance(self.privacy, PrivacyTerms)
        if (steps.privacy is not None) != is_apart:
            raise ValueError(
                "architecture.privacy must be given exactly in private training of the example unit with moves = "
                f"'alternate', where its steps are a release of their own; got moves = {moves!r}"
            )

    def _check_reward(self) -> None:
        if self.reward is None:
            return
        if type(self.reward.privacy) is not type(self.privacy):
            raise ValueError("reward.privacy must be given exactly where privacy is, and be of the same unit")
        if self.is_raw_sum:
            raise ValueError(
                "noise_at = 'sum' takes no step on the phone that a reward could be of: a raw one would tell of "
                "training examples; evaluate what the server's step gave"
            )
        if self.reward.privacy is not None and self.privacy is not None:
            _check_same_place("reward", self.reward.privacy.noise_at, self.privacy.noise_at)

    def _check_private_steps(self, privacy: PrivacyTerms) -> None:
        check_clip("architecture.max_grad_norm" if self.moves == "architecture" else "max_grad_norm", self.step_clip)
        if self.local_steps is None or self.batch_size is not None:
            raise ValueError("private training counts local_steps, and its batches follow from sample_rate alone")
        if self.architecture is not None and self.architecture.privacy is not None:
            check_clip("architecture.max_grad_norm", self.architecture.max_grad_norm)
            _check_same_place("architecture", self.architecture.privacy.noise_at, privacy.noise_at)
        if privacy.noise_at == "sum":
            self._check_raw_sum()

    def _check_raw_sum(self) -> None:
        if self.local_steps != 1:
            raise ValueError(
                f"noise_at = 'sum' is exactly one logical step a round, got local_steps={self.local_steps}"
            )
        if self.moves == "alternate":
            raise ValueError("noise_at = 'sum' is one logical step: moves must be 'all', 'weights' or 'architecture'")
        decay = self.weight_decay or (self.architecture is not None and self.architecture.weight_decay)
        if self.momentum or self.proximal or decay:
            raise ValueError(
                "noise_at = 'sum' uploads the raw clipped sum: momentum, proximal and weight_decay must be 0 on the "
                "phone"
            )


@dataclass(frozen=True)
class EvaluateTerms:
    """How to evaluate parameters on one split.

    Attributes:
        split: Which part of the client's examples.
        release: Names of the sums to report, `loss` or a metric of the manifest, in this order.
        loss_bound: In private runs each example's loss is clipped to [0, loss_bound] and divided by it, in
            [1e-12, 1e30] there; None for as it is.
        privacy: None for plain sums. The release's L2 sensitivity is sqrt(len(release)). Of the client unit: means in
            place of sums.
    """

    split: Split
    release: tuple[str, ...]
    loss_bound: float | None = None
    privacy: PrivacyTerms | ClientPrivacyTerms | None = None

    def __post_init__(self) -> None:
        if not self.release:
            raise ValueError("release must name at least one sum")
        check_loss_bound(self.loss_bound, self.privacy, is_loss_released="loss" in self.release)
        check_metric_norm(self.privacy)

    @property
    def splits(self) -> tuple[Split, ...]:
        """Whose examples are read, as of `TrainTerms`."""
        return (self.split,)


@dataclass(frozen=True)
class MeasureTerms:
    """How to run a measurement pack; no example is read, so that nothing of it is charged to a privacy budget.

    Attributes:
        is_quick: Fewer rounds: seconds instead of half a minute.
    """

    is_quick: bool = False


def _check_steps(prefix: str, steps: TrainTerms | ArchitectureTerms) -> None:
    if not (steps.learning_rate > 0 and math.isfinite(steps.learning_rate)):
        raise ValueError(f"{prefix}learning_rate must be > 0, got {steps.learning_rate}")
    if not (steps.weight_decay >= 0 and math.isfinite(steps.weight_decay)):
        raise ValueError(f"{prefix}weight_decay must be >= 0 and finite, got {steps.weight_decay}")
    if steps.max_grad_norm is not None and not steps.max_grad_norm > 0:
        raise ValueError(f"{prefix}max_grad_norm must be > 0, got {steps.max_grad_norm}")


def _check_same_place(name: str, found: NoiseAt, wanted: NoiseAt) -> None:
    if found != wanted:
        raise ValueError(f"{name}.privacy.noise_at must be {wanted!r} as the update's is, got {found!r}")
