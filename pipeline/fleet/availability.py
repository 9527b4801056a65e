"""When an emulated phone is reachable: alternating random spells, each phone its own, the same for the same seed."""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class AvailabilityTerms:
    """How a fleet comes and goes.

    Attributes:
        share: Of time that a phone is there, in (0, 1]; 1 for always.
        mean_spell_s: Mean length of a spell of being there, seconds (exponential).
    """

    share: float = 1.0
    mean_spell_s: float = 3600.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be in (0, 1], got {self.share}")
        if not self.mean_spell_s > 0:
            raise ValueError(f"mean_spell_s must be > 0, got {self.mean_spell_s}")


class Availability:
    """One phone's spells, drawn as far as they are asked for."""

    def __init__(self, terms: AvailabilityTerms, seed: int, index: int) -> None:
        self._terms = terms
        self._rng = np.random.default_rng((seed, index))
        # Ends of spells, alternating; the first one is of being away.
        self._ends = [0.0]
        if terms.share < 1 and self._rng.random() > terms.share:
            self._ends[0] = float(self._rng.exponential(self._mean_away()))

    def next_time(self, time: float) -> float:
        """The first moment from `time` on at which the phone is there."""
        if self._terms.share == 1:
            return time
        while self._ends[-1] <= time:
            is_there = len(self._ends) % 2 == 1
            mean = self._terms.mean_spell_s if is_there else self._mean_away()
            self._ends.append(self._ends[-1] + float(self._rng.exponential(mean)))
        spell = bisect_right(self._ends, time)
        return time if spell % 2 == 1 else self._ends[spell]

    def _mean_away(self) -> float:
        return self._terms.mean_spell_s * (1 - self._terms.share) / self._terms.share
