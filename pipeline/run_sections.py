"""The tables of `run.toml` as frozen records: names, units, ranges. Rules across fields are in `run_checks`."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.privacy_sections import PrivacySection
from pipeline.search_sections import SearchSection
from pipeline.section import (
    Momentum,
    Names,
    NonNegative,
    Options,
    PositiveFloat,
    PositiveFloat32,
    PositiveInt,
    RealOptions,
    Section,
)
from search.architecture import Activation, HeadKind, Normalization, Operation


class RunSection(Section):
    """Table [run].

    Attributes:
        name: Of the run and its folder.
        seed: Of the search; an `emulated` run derives all keys and randomness from it, so that it replays.
        kind: `emulated` or `real`; a run refuses clients of the other kind.
        targets: Profiles, by name in the catalogue or file, whose limits a real run keeps; an emulated one has its
            fleet's.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    seed: Annotated[int, Field(ge=0, lt=2**53)]
    kind: Literal["emulated", "real"]
    targets: Names | None = None


class DataSection(Section):
    """Table [data].

    Attributes:
        source: `digits`, `images:DIR` or `npz:FILE`, relative to the working directory.
        partition: How examples fall to clients: `dirichlet` draws each client's class shares, `iid` deals at random,
            `file` reads `clients.csv` of a folder or `client` of an npz.
        clients: Number of clients; None where the file says it.
        alpha: Concentration of `dirichlet`; the smaller, the fewer classes a client holds. None elsewhere.
        min_train_examples: A client with fewer training examples is an error that names it.
    """

    source: Annotated[str, Field(pattern=r"^(digits|images:.+|npz:.+)$")]
    partition: Literal["dirichlet", "iid", "file"]
    clients: PositiveInt | None = None
    alpha: PositiveFloat | None = None
    min_train_examples: PositiveInt = 1


class FleetSection(Section):
    """Table [fleet], of emulated runs.

    Attributes:
        profiles: Names in the catalogue or files of profiles; the clients take turns through them.
        population: In the place of profiles: each client's phone and link are drawn from it (`profiles.population`).
            With neither six phones of the catalogue take turns.
        availability: Share of time that a phone is there; 1 for always.
        mean_spell_s: Mean length of a spell of being there, seconds, where availability is below 1.
        straggler_share: Probability of a phone to be a straggler, drawn once a run; 0 for none.
        straggler_factor: How many times as long as its profile says a straggler computes, >= 1.
        heat: Whether phones get slower as work heats them, each as far as is drawn from what was published.
        tails: Whether single runs scatter about their medians.
        workers: Processes that compute; no result depends on it. Small networks are fastest with 1.
        engine: Where they are: `process` on this machine, `ray` on the Ray cluster that `RAY_ADDRESS` names, whose
            machines share the run's folder and the data; without one, on a cluster of this machine alone.
    """

    profiles: Names | None = None
    population: str | None = None
    availability: Annotated[float, Field(gt=0, le=1)] = 1.0
    mean_spell_s: PositiveFloat = 3600.0
    straggler_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    straggler_factor: Annotated[float, Field(ge=1)] = 5.0
    heat: bool = False
    tails: bool = False
    workers: PositiveInt = 1
    engine: Literal["process", "ray"] = "process"


class SpaceSection(Section):
    """Table [space]: what an architecture of blocks may be made of; the vocabulary of `search.architecture`.

    Attributes:
        widths: Output channels of a block.
        depths: Blocks in a stage.
        kernels: Odd side of a square kernel, pixels.
        strides: Pixels between positions, of a stage's first block.
        stem_strides: Likewise of the first convolution; as `strides` where left out.
        expansions: Inner channels of `inverted` blocks per input channel.
        max_stages: Most stages after the stem; 0 leaves stem and head.
    """

    kinds: Options[Literal["depthwise", "inverted"]]
    widths: Options[PositiveInt]
    depths: Options[PositiveInt]
    kernels: Options[PositiveInt]
    strides: Options[PositiveInt]
    heads: Options[HeadKind]
    max_stages: Annotated[int, Field(ge=0)]
    stem_strides: Options[PositiveInt] | None = None
    expansions: Options[PositiveInt] = (1,)
    normalizations: Options[Normalization] = ("none",)
    activations: Options[Activation] = ("relu",)


class CellsSection(Section):
    """Table [cells], in the place of [space]: a supernet of cells, and the networks in it.

    Attributes:
        operations: Of every edge of the supernet.
        nodes: Of a cell.
        width: Channels of the stem and of each node.
        strides: Of each stage's first cell; as many stages as strides, each with a cell of its own.
        depth: Cells in a stage of the supernet.
        final_depth: Likewise of the networks found in it; as `depth` where left out.
        edges_kept: Edges into each node of those networks.
    """

    operations: Options[Operation]
    nodes: PositiveInt
    width: PositiveInt
    strides: Options[PositiveInt]
    depth: PositiveInt = 1
    final_depth: PositiveInt | None = None
    edges_kept: Annotated[int, Field(ge=1, le=2)] = 2
    head: HeadKind = "flatten"
    normalization: Normalization = "group"
    activation: Activation = "relu"


class BudgetSection(Section):
    """Table [budgets.CLASS] of a device class, [budgets.default] of the others: hard limits; None is none.

    Attributes:
        latency_ms: Of one inference.
        training_step_ms: Of one chunk of `artifact_batch_size` examples, forward and backward.
        memory_mib: Peak while training.
        size_kib: Of the parameters as float32.
    """

    latency_ms: PositiveFloat | None = None
    training_step_ms: PositiveFloat | None = None
    memory_mib: PositiveFloat | None = None
    size_kib: PositiveFloat | None = None


class TrainingSection(Section):
    """Table [training]: hyper-parameters, each a value or a list of options that the search chooses from.

    Attributes:
        learning_rate: Of the local steps.
        local_steps: Steps a round; exactly one of it and local_epochs.
        local_epochs: Passes over the client's training split a round; ordinary training only.
        batch_size: Examples a step; ordinary training only (a private step draws by its sample_rate).
        momentum: Of the local steps.
        max_grad_norm: Clip of each example's gradient; None for no clipping.
        proximal: Weight of FedProx's pull of local steps towards the received parameters; 0 for none. Times
            learning_rate it must stay well below 2, or the pull overshoots.
        weight_decay: Added to each step's gradient as a multiple of the parameters; 0 for none.
        architecture_learning_rate, architecture_weight_decay: Likewise of steps on a supernet's architecture weights;
            left out where there are none.
        server_optimizer: What the server makes of the mean updates: `fedavg`, or `fedadam`, which divides each value by
            its typical size.
        server_learning_rate, server_momentum: Of the server's step along the mean update; 1 and 0 are plain FedAvg.
            The momentum is beta1 of `fedadam`, usually 0.9.
        server_beta2, server_epsilon: Of `fedadam`; the larger epsilon, the more alike all values are treated. Several
            options of the server's are for searches whose candidates train apart (`server_rules`).
        artifact_batch_size: B, the examples a phone computes at a time: memory only, no result depends on it.
    """

    learning_rate: RealOptions[PositiveFloat32]
    local_steps: Options[PositiveInt] | None = None
    local_epochs: Options[PositiveInt] | None = None
    batch_size: Options[PositiveInt] | None = None
    momentum: RealOptions[Momentum] = (0.0,)
    max_grad_norm: RealOptions[PositiveFloat32] | None = None
    proximal: RealOptions[NonNegative] = (0.0,)
    weight_decay: RealOptions[NonNegative] = (0.0,)
    architecture_learning_rate: RealOptions[PositiveFloat32] | None = None
    architecture_weight_decay: RealOptions[NonNegative] = (0.0,)
    server_optimizer: Literal["fedavg", "fedadam"] = "fedavg"
    server_learning_rate: RealOptions[PositiveFloat32] = (1.0,)
    server_momentum: RealOptions[Momentum] = (0.0,)
    server_beta2: RealOptions[Momentum] = (0.99,)
    server_epsilon: RealOptions[PositiveFloat32] = (1e-3,)
    artifact_batch_size: PositiveInt = 32


class FinalSection(Section):
    """Table [final]: training of the winner.

    Attributes:
        rounds: Rounds after the search; 0 tests the winner with the weights that the search left it.
        start: From the weights that it has from the `search`, or `fresh` ones, as of a network that nobody searched.
    """

    rounds: Annotated[int, Field(ge=0)]
    start: Literal["search", "fresh"] = "search"


class RoundSection(Section):
    """Table [round].

    Attributes:
        cohort_size: Clients wanted in a round.
        min_reports: Reports without which a round fails at its deadline.
        deadline_s: Seconds from a round's start to its end.
        over_selection: Clients assigned for each one wanted, >= 1, because some are lost.
        weighting: Of updates in the mean: `uniform`, or `examples` by each client's public count.
    """

    cohort_size: PositiveInt
    min_reports: PositiveInt
    deadline_s: PositiveFloat
    over_selection: Annotated[float, Field(ge=1)] = 1.0
    weighting: Literal["uniform", "examples"] = "uniform"


class RunFile(Section):
    """A whole `run.toml`; it has exactly one of [space] and [cells]."""

    run: RunSection
    data: DataSection
    space: SpaceSection | None = None
    cells: CellsSection | None = None
    search: Annotated[SearchSection, Field(discriminator="algorithm")]
    training: TrainingSection
    final: FinalSection
    round: RoundSection
    fleet: FleetSection | None = None
    budgets: dict[str, BudgetSection] = Field(default_factory=dict)
    privacy: PrivacySection | None = None

    @property
    def heads(self) -> tuple[HeadKind, ...]:
        """What a network may end in."""
        if self.space is not None:
            return self.space.heads
        return () if self.cells is None else (self.cells.head,)
