"""What privacy the run file fixes for a release, so that every phone spends alike; and the bounds of its numbers."""

from dataclasses import dataclass
from typing import Literal

# Below it privacy costs more than any budget; above it a release would leave the integers that noise is added in.
NOISE_MULTIPLIERS = (2.0**-20, 2.0**20)
# Squares of smaller gradients vanish in float32, and then a graph sees no norm to clip; larger ones are not finite.
BOUNDS = (1e-12, 1e30)
NoiseAt = Literal["device", "sum"]
Unit = Literal["example", "client"]  # whose record an epsilon is about


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
        _check_noise(self.noise_multiplier)


@dataclass(frozen=True)
class ClientPrivacyTerms:
    """What the run file fixes where the unit is the client: its whole update is one record, and so are its metrics.

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
        _check_noise(self.noise_multiplier)
        if self.expected_reports < 1:
            raise ValueError(f"expected_reports must be >= 1, got {self.expected_reports}")
        if self.max_norm is not None:
            check_bound("max_norm", self.max_norm)


def check_clip(name: str, clip: float | None) -> None:
    """Refuse a clip that is missing, or clips nothing, where noise rests on it."""
    if clip is None:
        raise ValueError(f"{name} must be given in private training: without a clip noise protects nothing")
    check_bound(name, clip)


def check_loss_bound(
    loss_bound: float | None, privacy: PrivacyTerms | ClientPrivacyTerms | None, *, is_loss_released: bool
) -> None:
    """Refuse a loss that nothing bounds where it is private."""
    if loss_bound is not None and not loss_bound > 0:
        raise ValueError(f"loss_bound must be > 0, got {loss_bound}; leave it out for none")
    if privacy is None:
        return
    if loss_bound is not None:
        check_bound("loss_bound", loss_bound)
    elif is_loss_released:
        raise ValueError(
            "loss_bound must be > 0 where a private run releases the loss: no unclipped loss leaves a phone"
        )


def check_metric_norm(privacy: PrivacyTerms | ClientPrivacyTerms | None) -> None:
    """Refuse a norm of metrics: their sensitivity follows from their number."""
    if isinstance(privacy, ClientPrivacyTerms) and privacy.max_norm is not None:
        raise ValueError(
            f"privacy.max_norm must be left out of metrics, whose sensitivity follows from their number, got "
            f"{privacy.max_norm:g}"
        )


def check_bound(name: str, value: float) -> None:
    """Refuse a bound that float32 cannot keep."""
    least, most = BOUNDS
    if not least <= value <= most:
        raise ValueError(f"{name} must be in [{least:g}, {most:g}] in private work, got {value:g}")


def _check_noise(noise_multiplier: float) -> None:
    least, most = NOISE_MULTIPLIERS
    if not least <= noise_multiplier <= most:
        raise ValueError(f"noise_multiplier must be in [{least:.3g}, {most:.0f}], got {noise_multiplier:g}")
