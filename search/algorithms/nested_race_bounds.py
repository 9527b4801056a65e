"""When clients have refuted a network of a nested race: a wide bound on how far it is behind the leader."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

LEAST_PAIRS = 3  # of scores, before they may refute anything


@dataclass(frozen=True)
class Score:
    """Accuracy on the round's cohort."""

    round: int
    accuracy: float
    num_examples: int


def is_behind(scores: Sequence[Score], leader: Sequence[Score], margin: float) -> bool:
    """Whether accuracy is below the leader's by more than `margin` standard errors of their difference.

    Rounds that scored both are pairs, weighted by the fewer of their examples. The error is that of a weighted mean of
    the pairs' differences, and no less than sampling gives where the two answer independently: few pairs tell their own
    spread badly, and who did not report makes the examples differ. Too few pairs decide nothing.
    """
    others = {score.round: score for score in leader}
    pairs = [(one, others[one.round]) for one in scores if one.round in others]
    if len(pairs) < LEAST_PAIRS:
        return False
    num_examples = np.array([min(one.num_examples, other.num_examples) for one, other in pairs])
    lead = np.array([other.accuracy - one.accuracy for one, other in pairs])
    weights = num_examples / num_examples.sum()
    mean = float(weights @ lead)
    between = float(weights**2 @ (lead - mean) ** 2) * len(pairs) / (len(pairs) - 1)
    sampling = float(weights**2 @ np.array([_variance(one) + _variance(other) for one, other in pairs]))
    return mean > margin * sqrt(max(between, sampling, 0.0))


def _variance(score: Score) -> float:
    """Of sampling; accuracies of private runs may lie outside [0, 1]."""
    return max(0.0, score.accuracy * (1 - score.accuracy)) / score.num_examples
