"""The tables [privacy] of `run.toml`: what is protected, from whom, and what each release spends."""

from typing import Annotated, Literal

from pydantic import Field

from device_runtime.terms import BOUNDS, NOISE_MULTIPLIERS
from pipeline.section import PositiveFloat, PositiveInt, Section


class ReleaseSection(Section):
    """What each release of one kind spends, alike on every phone.

    Attributes:
        noise_multiplier: Noise deviation divided by the release's L2 sensitivity, in [2^-20, 2^20].
        sample_rate: Probability of an example to take part in a logical step (Poisson); of the example unit alone.
    """

    noise_multiplier: Annotated[float, Field(ge=NOISE_MULTIPLIERS[0], le=NOISE_MULTIPLIERS[1])]
    sample_rate: Annotated[float, Field(gt=0, le=1)] | None = None


class RewardSection(ReleaseSection):
    """Table [privacy.reward].

    Attributes:
        loss_bound: Clips each example's loss, or what training took from it; where the sensitivity comes from.
    """

    loss_bound: Annotated[float, Field(ge=BOUNDS[0], le=BOUNDS[1])]


class PrivacySection(Section):
    """Table [privacy]: differential privacy; no table, no privacy. Nothing in it has a default.

    Attributes:
        unit: What is protected: one `example`, or one `client` with all it holds. Neighbours are zero-out, so counts
            are public.
        noise_at: `device`: each upload is private against everybody. `sum`: the server sees raw sums and adds the
            noise, so against the server there is no privacy.
        delta, target_epsilon: The run stops before it would spend more, search and final training together.
        update: Of training updates.
        metrics: Of metric sums on validation splits, the search's scores.
        test: Of metric sums on test splits, the report's figures.
        architecture: Of steps on architecture weights by validation examples; where the search takes such, and only
            there.
        reward: Of what training was worth; where the search asks for it, and only there.
        max_participations: Times that a client takes part at most, by phase and kind of release; of the client unit
            alone, as is max_norm.
        max_norm: L2 clip of a client's update.
    """

    unit: Literal["example", "client"]
    noise_at: Literal["device", "sum"]
    delta: Annotated[float, Field(gt=0, lt=1)]
    target_epsilon: PositiveFloat
    update: ReleaseSection
    metrics: ReleaseSection
    test: ReleaseSection
    architecture: ReleaseSection | None = None
    reward: RewardSection | None = None
    max_participations: PositiveInt | None = None
    max_norm: Annotated[float, Field(ge=BOUNDS[0], le=BOUNDS[1])] | None = None

    def tables(self) -> dict[str, ReleaseSection]:
        """What each release spends, by the name of its table."""
        tables = {
            "update": self.update,
            "architecture": self.architecture,
            "reward": self.reward,
            "metrics": self.metrics,
            "test": self.test,
        }
        return {name: section for name, section in tables.items() if section is not None}
