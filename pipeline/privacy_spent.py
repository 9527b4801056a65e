"""What a run spent of its clients' privacy, as its result says it."""

from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True)
class PhaseSpent:
    """Privacy that one phase spent on one split by one kind of release, on the client that spent most there.

    Attributes:
        split: `all` in the client unit: what a client releases counts for all that it holds.
        epsilon: Of this row alone, at the run's delta and order; rows of a split add up in `rdp`, not in epsilon.
    """

    phase: str
    split: str
    kind: str
    num_releases: int
    rdp: float
    epsilon: float


@dataclass(frozen=True)
class PrivacyResult:
    """What the run spent.

    Attributes:
        unit: What is protected: one `example` or one `client`.
        epsilon: The total: the largest of `epsilon_by_split`, since an example is in one split.
        epsilon_by_split: In the client unit of `all` splits together.
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


def neighbours_of(unit: str) -> str:
    """What the data of two neighbours differ in."""
    if unit == "client":
        return "zero-out: what one client sends is replaced by zeros; who takes part, and its counts, are public"
    return "zero-out: one example is replaced by a null record; counts are public"


def adversary_of(noise_at: str) -> str:
    """Against whom the epsilon of a run holds."""
    if noise_at == "device":
        return "everybody who sees what leaves a phone, the server included"
    return "everybody but the server, which sees what each phone sends without noise (against it epsilon is infinite)"


def epsilon_in_words(unit: str, noise_at: str) -> str:
    """Unit, neighbours, adversary and place of noise of every epsilon that a run prints."""
    place = "on each device" if noise_at == "device" else "on the sum, by the server"
    return f"unit: one {unit}; neighbours: zero-out; noise {place}; against {adversary_of(noise_at)}"
