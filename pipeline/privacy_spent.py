"""What a run spent of its clients' privacy, as its result says it."""

from dataclasses import dataclass
from math import ceil

from device_runtime.terms import Split


@dataclass(frozen=True)
class PhaseSpent:
    """Privacy that one phase spent on one split by one kind of release, on the client that spent most there.

    Attributes:
        epsilon: Of this row alone, at the run's delta and order; rows of a split add up in `rdp`, not in epsilon.
    """

    phase: str
    split: Split
    kind: str
    num_releases: int
    rdp: float
    epsilon: float


@dataclass(frozen=True)
class PrivacyResult:
    """What the run spent.

    Attributes:
        epsilon: The total: the largest of `epsilon_by_split`, since an example is in one split.
        adversary: Against whom it holds.
    """

    unit: str
    neighbours: str
    noise_at: str
    adversary: str
    delta: float
    target_epsilon: float
    order: int
    epsilon: float
    epsilon_by_split: dict[str, float]
    phases: tuple[PhaseSpent, ...]


def epsilon_text(value: float) -> str:
    """An epsilon to two digits, upwards: nothing we print promises more privacy than there is."""
    return f"{ceil(value * 100 - 1e-7) / 100:.2f}"


def adversary_of(noise_at: str) -> str:
    """Against whom the epsilon of a run holds."""
    if noise_at == "device":
        return "everybody who sees what leaves a phone, the server included"
    return "everybody but the server, which sees each phone's raw sums (against it epsilon is infinite)"
