"""The terms of one assignment: how to train, evaluate or measure, and what each release costs in privacy."""

import math
from dataclasses import dataclass
from typing import Literal

MAX_ORDER = 256  # the highest Renyi order that anybody counts at
# Below it privacy costs more than any budget; above it a release would leave the integers that noise is added in.
NOISE_MULTIPLIERS = (2.0**-20, 2.0**20)
# Squares of smaller gradients vanish in float32, and then a graph sees no norm to clip; larger ones are not finite.
BOUNDS = (1e-12, 1e30)
NoiseAt = Literal["device", "sum"]
Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class PrivacyTerms:
    """What the run file fixes for one kind of release, so that every phone spends alike.

    The unit is the example, neighbours are zero-out (a record replaced by a null record), so counts are public.

    Attributes:
        noise_at: `device`: what is uploaded is private against everybody. `sum`: the raw clipped sum is uploaded and
            the trusted server adds the noise; against the server there is no privacy.
        sample_rate: Probability with which an example takes part in a logical step (Poisson).
        noise_multiplier: Noise deviation divided by the release's L2 sensitivity; what is drawn is larger by 2^-8
            (`lattice_noise`). In [2^-20, 2^20].
    """

    noise_at: NoiseAt
    sample_rate: float
    noise_multiplier: float

    def __post_init__(self) -> None:
        if not 0 < self.sample_rate <= 1:
            raise ValueError(f"sample_rate must be in (0, 1], got {self.sample_rate}")
        if not self.noise_multiplier > 0:
            raise ValueError(f"noise_multiplier must be > 0, got {self.noise_multiplier}; leave privacy out for none")
        least, most = NOISE_MULTIPLIERS
        if not least <= self.noise_multiplier <= most:
            raise ValueError(f"noise_multiplier must be in [{least:.3g}, {most:.0f}], got {self.noise_multiplier:g}")


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
        privacy: None for ordinary training.
    """

    learning_rate: float
    local_steps: int | None = None
    local_epochs: int | None = None
    batch_size: int | None = None
    momentum: float = 0.0
    proximal: float = 0.0
    max_grad_norm: float | None = None
    privacy: PrivacyTerms | None = None

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate must be > 0, got {self.learning_rate}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")
        if not self.proximal >= 0:
            raise ValueError(f"proximal must be >= 0, got {self.proximal}")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be > 0, got {self.max_grad_norm}")
        if (self.local_steps is None) == (self.local_epochs is None):
            raise ValueError("exactly one of local_steps and local_epochs must be given")
        if min(self.local_steps or 1, self.local_epochs or 1) < 1:
            raise ValueError("local_steps and local_epochs must be >= 1")
        if self.privacy is None:
            if self.batch_size is None or self.batch_size < 1:
                raise ValueError(f"batch_size must be >= 1 in ordinary training, got {self.batch_size}")
        else:
            self._check_private()

    def _check_private(self) -> None:
        if self.max_grad_norm is None:
            raise ValueError("max_grad_norm must be given in private training: without a clip noise protects nothing")
        _check_bound("max_grad_norm", self.max_grad_norm)
        if self.local_steps is None or self.batch_size is not None:
            raise ValueError("private training counts local_steps, and its batches follow from sample_rate alone")
        if self.privacy is not None and self.privacy.noise_at == "sum":
            if self.local_steps != 1:
                raise ValueError(
                    f"noise_at = 'sum' is exactly one logical step a round, got local_steps={self.local_steps}"
                )
            if self.momentum or self.proximal:
                raise ValueError(
                    "noise_at = 'sum' uploads the raw clipped sum: momentum and proximal must be 0 on the phone"
                )


@dataclass(frozen=True)
class EvaluateTerms:
    """How to evaluate parameters on one split.

    Attributes:
        split: Which part of the client's examples.
        release: Names of the sums to report, `loss` or a metric of the manifest, in this order.
        loss_bound: In private runs each example's loss is clipped to [0, loss_bound] and divided by it, in
            [1e-12, 1e30] there; None for as it is.
        privacy: None for plain sums. The release's L2 sensitivity is sqrt(len(release)).
    """

    split: Split
    release: tuple[str, ...]
    loss_bound: float | None = None
    privacy: PrivacyTerms | None = None

    def __post_init__(self) -> None:
        if not self.release:
            raise ValueError("release must name at least one sum")
        if self.loss_bound is not None and not self.loss_bound > 0:
            raise ValueError(f"loss_bound must be > 0, got {self.loss_bound}; leave it out for none")
        if self.privacy is None:
            return
        if self.loss_bound is not None:
            _check_bound("loss_bound", self.loss_bound)
        elif "loss" in self.release:
            raise ValueError(
                "loss_bound must be > 0 where a private run releases the loss: no unclipped loss leaves a phone"
            )


@dataclass(frozen=True)
class MeasureTerms:
    """How to run a measurement pack; no example is read, so that nothing of it is charged to a privacy budget.

    Attributes:
        is_quick: Fewer rounds: seconds instead of half a minute.
    """

    is_quick: bool = False


def _check_bound(name: str, value: float) -> None:
    least, most = BOUNDS
    if not least <= value <= most:
        raise ValueError(f"{name} must be in [{least:g}, {most:g}] in private work, got {value:g}")
