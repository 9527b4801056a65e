"""The terms of one assignment: how to train, evaluate or measure, and what each release costs in privacy."""

import math
from dataclasses import dataclass
from typing import Literal

from profiles.records import later

MAX_ORDER = 256  # the highest Renyi order that anybody counts at
# Below it privacy costs more than any budget; above it a release would leave the integers that noise is added in.
NOISE_MULTIPLIERS = (2.0**-20, 2.0**20)
# Squares of smaller gradients vanish in float32, and then a graph sees no norm to clip; larger ones are not finite.
BOUNDS = (1e-12, 1e30)
NoiseAt = Literal["device", "sum"]
Split = Literal["train", "validation", "test"]
Moves = Literal["all", "weights", "architecture", "alternate"]
ARCHITECTURE = "architecture"  # the segment of the layout that holds a supernet's architecture weights


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
class ClientPrivacyTerms:
    """What the run file fixes where the unit is the client: its whole update is one record.

    Neighbours are zero-out: a client's report replaced by zeros. Nothing amplifies it: phones that check in by
    themselves are no Poisson sample, so each report is a Gaussian mechanism at rate 1.

    Attributes:
        noise_at: As in `PrivacyTerms`; the noise on a sum is drawn once for all reports.
        noise_multiplier: As in `PrivacyTerms`.
        max_norm: L2 clip of a client's update, in [1e-12, 1e30]; of its metrics, the sensitivity, which follows from
            their number: there it is left at None.
        expected_reports: By what a sum is divided: a constant, so that who reports moves no divisor.
    """

    noise_at: NoiseAt
    noise_multiplier: float
    expected_reports: int
    max_norm: float | None = None

    def __post_init__(self) -> None:
        least, most = NOISE_MULTIPLIERS
        if not least <= self.noise_multiplier <= most:
            raise ValueError(f"noise_multiplier must be in [{least:.3g}, {most:.0f}], got {self.noise_multiplier:g}")
        if self.expected_reports < 1:
            raise ValueError(f"expected_reports must be >= 1, got {self.expected_reports}")
        if self.max_norm is not None:
            _check_bound("max_norm", self.max_norm)


@dataclass(frozen=True)
class ArchitectureTerms:
    """Steps on a supernet's architecture weights: Adam with betas 0.5 and 0.999 ("DARTS", arXiv:1806.09055, section A).

    The moments start at zero in every assignment.

    Attributes:
        weight_decay: Added to the gradient as a multiple of the weights, before Adam.
        max_grad_norm: Clip of each example's gradient where these steps have a clip of their own: every `moves` but
            `all`, where one clip holds for all segments together. None for no clipping.
        privacy: Of these steps where they are a release of their own (`alternate`); None elsewhere.
    """

    learning_rate: float
    weight_decay: float = 0.0
    max_grad_norm: float | None = None
    privacy: PrivacyTerms | None = None


@dataclass(frozen=True)
class RewardTerms:
    """What local training was worth, on the client's validation split: a release beside the update.

    Attributes:
        release: `gain`: mean loss before less after training, each example's in [-loss_bound, loss_bound]; `loss`: the
            loss after it. Reported as a sum in units of loss_bound where one is given.
        loss_bound: Clips each example's loss (`loss`) or difference (`gain`); required in private runs.
        privacy: L2 sensitivity of either is 1 in units of loss_bound.
    """

    release: Literal["gain", "loss"]
    loss_bound: float | None = None
    privacy: PrivacyTerms | ClientPrivacyTerms | None = None


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
        architecture: Where architecture weights move, and only there.
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
