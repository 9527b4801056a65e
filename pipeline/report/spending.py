"""Epsilon by split, and by what was released from each."""

from dataclasses import dataclass

from pipeline.privacy_spent import PhaseSpent, PrivacyResult
from pipeline.report.costs import PHASES

_RELEASED = {"architecture": "update of the architecture weights", "reward": "reward of hyper-parameters"}


@dataclass(frozen=True)
class SplitSpent:
    """What one split of the clients' examples spent.

    Attributes:
        epsilon: Of all its releases together, on the client that spent most.
        left: Of the target, at least 0.
        share: Of the target, for a bar; at most 1.
        rows: By phase and kind of release, in the order of the run.
        is_total: Whether the run's epsilon is this split's.
    """

    split: str
    epsilon: float
    left: float
    share: float
    rows: tuple[PhaseSpent, ...]
    is_total: bool


def splits_of(privacy: PrivacyResult) -> tuple[SplitSpent, ...]:
    """Every split that released something, the one that spent most first."""
    ordered = sorted(privacy.epsilon_by_split.items(), key=lambda item: (-item[1], item[0]))
    return tuple(
        SplitSpent(
            split,
            epsilon,
            max(0.0, privacy.target_epsilon - epsilon),
            min(1.0, epsilon / privacy.target_epsilon),
            _rows(privacy, split),
            i == 0,
        )
        for i, (split, epsilon) in enumerate(ordered)
    )


def released_in_words(kind: str) -> str:
    """What a release of a kind tells."""
    return _RELEASED.get(kind, kind)


def _rows(privacy: PrivacyResult, split: str) -> tuple[PhaseSpent, ...]:
    rows = (row for row in privacy.phases if row.split == split)
    place = {phase: i for i, phase in enumerate(PHASES)}
    return tuple(sorted(rows, key=lambda row: (place.get(row.phase, len(place)), row.phase, row.kind)))
