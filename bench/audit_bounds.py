"""Lower bounds on epsilon from what an auditor guessed right: pure statistics, nothing of the project in it."""

from math import exp, inf, log
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import beta, binom, norm

_LARGEST_EPSILON = 700.0  # exp of more leaves float64


def rate_at_most(hits: int, trials: int, level: float) -> float:
    """Clopper and Pearson's upper end of a rate: exceeded by the true rate with probability `level` at most."""
    return 1.0 if hits == trials else float(beta.isf(level, hits + 1, trials - hits))


def gaussian_mu_at_least(false_positives: int, false_negatives: int, trials: int, level: float) -> float:
    """Lower end of mu, for a test that ran `trials` times on each of two neighbours.

    A mechanism that is mu-GDP has false negatives >= Phi(Phi^-1(1 - false positives) - mu) in every test ("Gaussian
    Differential Privacy", arXiv:1905.02383, definition 2.6), so two rates refute every smaller mu; with the intervals
    of "Tight Auditing of Differentially Private Machine Learning" (arXiv:2302.07956).
    """
    rates = (rate_at_most(hits, trials, level / 2) for hits in (false_positives, false_negatives))
    return max(0.0, sum(float(norm.isf(rate)) for rate in rates))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon of a mu-GDP mechanism at `delta`, exactly (arXiv:1905.02383, corollary 2.13)."""

    def excess(epsilon: float) -> float:
        far = norm.cdf(-epsilon / mu + mu / 2)
        near = exp(epsilon + float(norm.logcdf(-epsilon / mu - mu / 2)))
        return float(far) - near - delta

    if mu == 0 or excess(0.0) <= 0:
        return 0.0
    return float(brentq(excess, 0.0, _LARGEST_EPSILON))


def epsilon_at_least(false_positives: int, false_negatives: int, trials: int, delta: float, level: float) -> float:
    """Lower end of epsilon, for any mechanism whatever its form ("Auditing Differentially Private Machine Learning",
    arXiv:2006.07709): at most log(trials / 4) or so, however weak the mechanism is.
    """
    positives, negatives = (rate_at_most(hits, trials, level / 2) for hits in (false_positives, false_negatives))
    pairs = ((positives, negatives), (negatives, positives))
    return max(0.0, *(log((1 - delta - b) / a) if b < 1 - delta else -inf for a, b in pairs))


def two_worlds_bounds(
    out: NDArray[np.float64], inside: NDArray[np.float64], threshold: float, delta: float, level: float
) -> dict[str, Any]:
    """What a test of two worlds shows, for a row: its errors, and the bounds with and without a Gaussian mechanism.

    Args:
        out, inside: f64[n] each, the statistic of runs without and with the canary; above `threshold` it is guessed in.
    """
    counts = int((out > threshold).sum()), int((inside <= threshold).sum()), len(out)
    mu = gaussian_mu_at_least(*counts, level)
    return {
        "lower_bound": gaussian_epsilon(mu, delta),
        "any_mechanism": epsilon_at_least(*counts, delta, level),
        "mu_lower_bound": mu,
        "false_positives": counts[0],
        "false_negatives": counts[1],
        "runs_a_world": counts[2],
        "mean_and_deviation_out": [float(out.mean()), float(out.std())],
        "mean_and_deviation_in": [float(inside.mean()), float(inside.std())],
    }


def guesses_p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """How likely this many correct guesses are, at most, where each canary was in or out by a fair coin.

    "Privacy Auditing with One (1) Training Run", arXiv:2305.08846, theorem 5.2: binomial of rate e^epsilon / (1 +
    e^epsilon), and for delta the largest share of its mass that i of the guesses can shift, over all i.
    """
    rate = 1 / (1 + exp(-epsilon))
    lost = np.arange(1, correct + 1)
    shares = np.cumsum(binom.pmf(correct - lost, guesses, rate)) / lost
    shift = float(shares.max()) if correct else 0.0
    return min(1.0, float(binom.sf(correct - 1, guesses, rate)) + 2 * canaries * delta * shift)


def guessed_epsilon_at_least(canaries: int, guesses: int, correct: int, delta: float, level: float) -> float:
    """The largest epsilon that the guesses refute at `level`; 0 where they refute none."""

    def excess(epsilon: float) -> float:
        return guesses_p_value(canaries, guesses, correct, epsilon, delta) - level

    if excess(0.0) >= 0:
        return 0.0
    return float(brentq(excess, 0.0, 50.0))
