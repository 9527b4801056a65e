"""Candidates, trials and observations: what a search proposes, asks for and is told; plain data, JSON by records."""

from dataclasses import dataclass, field
from math import isfinite
from typing import Literal

from profiles.records import later, record_id
from search.architecture import Architecture


@dataclass(frozen=True)
class HyperParameters:
    """How a candidate trains; sample rates and noise are the run's and never a candidate's.

    Attributes:
        learning_rate: Of the local steps.
        local_steps: Steps a round; None where local_epochs says it.
        local_epochs: Passes over the client's training split a round; None where local_steps says it.
        batch_size: Examples a step; None where a private step draws by its sample rate.
        momentum: Of the local steps.
        max_grad_norm: Clip of each example's gradient; None for no clipping.
        server_learning_rate, server_momentum: Of the server's step along the mean update; 1 and 0 are plain FedAvg.
        proximal: Weight of FedProx's pull towards the received parameters; 0 for none.
        server_beta2, server_epsilon: Of FedAdam, whose beta1 is server_momentum; both None for FedAvg.
        weight_decay: Of the local steps.
        architecture_learning_rate, architecture_weight_decay: Of a supernet's architecture weights; None and 0 where
            there are none or none move.
    """

    learning_rate: float
    local_steps: int | None = None
    local_epochs: int | None = None
    batch_size: int | None = None
    momentum: float = 0.0
    max_grad_norm: float | None = None
    server_learning_rate: float = 1.0
    server_momentum: float = 0.0
    proximal: float = later(0.0)
    server_beta2: float | None = later(None)
    server_epsilon: float | None = later(None)
    weight_decay: float = later(0.0)
    architecture_learning_rate: float | None = later(None)
    architecture_weight_decay: float = later(0.0)

    def __post_init__(self) -> None:
        _check_counts(local_steps=self.local_steps, local_epochs=self.local_epochs, batch_size=self.batch_size)
        _check_positive(
            learning_rate=self.learning_rate,
            max_grad_norm=self.max_grad_norm,
            server_learning_rate=self.server_learning_rate,
            server_epsilon=self.server_epsilon,
            architecture_learning_rate=self.architecture_learning_rate,
        )
        _check_shares(momentum=self.momentum, server_momentum=self.server_momentum, server_beta2=self.server_beta2)
        for name in ("proximal", "weight_decay", "architecture_weight_decay"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be >= 0 and finite, got {getattr(self, name)}")


NOT_ASKED = "no score was asked for"  # why a trial that is not scored has no score, though nothing failed

# What a trial's training moves; as in `device_runtime.terms`, which this package does not import.
Moves = Literal["all", "weights", "architecture", "alternate"]
Reward = Literal["gain", "loss"]


@dataclass(frozen=True)
class Candidate:
    """What a search chooses: a network and how to train it."""

    architecture: Architecture
    hyper_parameters: HyperParameters


def candidate_id(architecture_id: str, hyper_parameters: HyperParameters) -> str:
    """Name a candidate: the sha256 (hexadecimal) of its architecture's id and its hyper-parameters."""
    return record_id({"architecture_id": architecture_id, "hyper_parameters": hyper_parameters})


@dataclass(frozen=True)
class Trial:
    """One training of a candidate, asked for by a search.

    Attributes:
        index: Number of the trial in its search, from 0.
        rounds: Rounds to train; 0 scores the weights that it starts from.
        start_from: Index of the trial whose weights it starts from: of the same network as they are, of a larger one
            its strongest filters. None for fresh weights.
        supernet: Of a search whose networks share weights, the largest of them: this one takes its first filters of
            the shared weights, and what it learns goes back, averaged with what the trials asked for beside it learnt
            wherever they overlap. None for weights of its own.
        clients: Who takes part in training and scoring; None for all.
        is_scored: Whether its clients are asked how good it is. One of no rounds that is not scored names a network
            and asks nobody.
        moves: What its training moves: `all` the network's parameters, its `weights` without the architecture weights,
            these alone, or both in turns (`alternate`).
        reward: What its clients tell of their own training beside the update: the `gain` of their validation loss, or
            the `loss` after it. None for nothing.
        merged: Earlier trials and their shares: it starts from their weights, each parameter of the supernet the mean
            over those that hold it, and takes its own; what none holds is fresh. Empty for none.
        is_kept: Whether what a trial of a supernet learns goes back into the shared weights.
        phase: Under which its costs and its spending are counted.
    """

    index: int
    candidate: Candidate
    rounds: int
    start_from: int | None = None
    supernet: Architecture | None = None
    clients: tuple[str, ...] | None = None
    is_scored: bool = True
    moves: Moves = later("all")
    reward: Reward | None = later(None)
    merged: tuple[tuple[int, float], ...] = later(())
    is_kept: bool = later(True)
    phase: Literal["search", "final"] = later("search")

    def __post_init__(self) -> None:
        if self.index < 0:
            raise ValueError(f"index must be >= 0, got {self.index}")
        if self.rounds < 0:
            raise ValueError(f"rounds must be >= 0, got {self.rounds}")
        if self.reward is not None and self.rounds != 1:
            raise ValueError(f"a reward is of one round, got {self.rounds} rounds")
        if not self.is_kept and (self.supernet is None or self.rounds == 0):
            raise ValueError("only what a trial of a supernet learns in a round can be kept or not")
        if self.start_from is not None and self.start_from >= self.index:
            raise ValueError(f"start_from must be an earlier trial than {self.index}, got {self.start_from}")
        if self.merged:
            self._check_merged()
        elif self.supernet is not None and (self.start_from is not None or self.rounds > 1):
            raise ValueError("a trial of a supernet starts from the shared weights and trains at most one round")
        if self.clients is not None and not self.clients:
            raise ValueError("clients must name at least one; None means all")

    def _check_merged(self) -> None:
        if self.supernet is None or self.start_from is not None:
            raise ValueError("merged weights are those of a supernet's parts: give the supernet and no start_from")
        if any(trial >= self.index or not share > 0 for trial, share in self.merged):
            raise ValueError(f"merged must hold trials before {self.index} with shares > 0, got {list(self.merged)}")


@dataclass(frozen=True)
class Observation:
    """What a trial gave, on the clients' validation splits, and what it cost, evaluation included.

    Attributes:
        accuracy: Fused over the clients; with noise it may leave [0, 1]. Without meaning where the trial failed.
        loss: Fused over the clients; None where none was released.
        num_examples: Behind accuracy and loss.
        metrics: Further fused metrics by name: `gain` or `loss` is the reward that was asked for, a mean over
            `num_rewarded` examples; with noise it may be anything.
        num_rewarded: Behind the reward.
        architecture_weights: Of the shared weights after the step, in layout order; empty where there are none.
        client_seconds: Sum over devices, from their profiles.
        bytes_up, bytes_down: Sum over devices.
        epsilon_spent: By this trial; None without privacy.
        failed: Why there is no score, e.g. too few reports; empty when there is one.
    """

    trial: Trial
    accuracy: float
    loss: float | None = None
    num_examples: int = 0
    metrics: dict[str, float] = field(default_factory=dict, hash=False)
    client_seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    epsilon_spent: float | None = None
    failed: str = ""
    num_rewarded: int = later(0)
    architecture_weights: tuple[float, ...] = later(())

    def __post_init__(self) -> None:
        for name, value in (("accuracy", self.accuracy), ("loss", self.loss)):
            if value is not None and not isfinite(value):
                raise ValueError(f"{name} must be finite, got {value}; say in `failed` why there is no score")

    @property
    def is_scored(self) -> bool:
        """Whether accuracy means anything."""
        return not self.failed


def _check_counts(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")


def _check_shares(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not 0 <= value < 1:
            raise ValueError(f"{name} must be >= 0 and < 1, got {value}")


def _check_positive(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"{name} must be > 0 and finite, got {value}")
