"""How far the predicted time of a network is to be trusted.

The networks of a session, each predicted from the others, tell how far the predictor is off: intervals are quantiles of
these errors ("Cross-conformal predictors", arXiv:1208.0806). They are wider by what the device's speed varies from one
measurement to the next, which the rounds of its sessions tell and no network of the same session shows.
"""

from collections.abc import Sequence
from math import exp, hypot, log1p, sqrt
from statistics import NormalDist, fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from profiles.schema import Calibration, Direction, NetworkTime
from profiles.sessions import Session

Floats = NDArray[np.float64]
# Expected range of 2, 3, ... normal values, in deviations (the d2 of control charts).
_RANGES = (1.128, 1.693, 2.059, 2.326, 2.534, 2.704, 2.847, 2.970, 3.078)


class Between(NamedTuple):
    """How much a device's speed varies from these sessions to one more, the same for all networks.

    Attributes:
        deviation: Of the logarithm.
        freedom: Degrees of freedom: so few rounds know it badly, and Student's t makes up for that.
    """

    deviation: float
    freedom: int

    def quantile(self, share: float) -> float:
        """Of the logarithm of the ratio between two measurements."""
        return float(stdtrit(self.freedom, share)) * self.deviation if self.freedom else 0.0


def between_measurements(sessions: Sequence[Session]) -> Between:
    """What the sessions' rounds tell by their drifts."""
    found = [session for session in sessions if session.rounds > 1]
    if not found:
        return Between(0.0, 0)
    deviations = [log1p(one.drift) / _RANGES[min(one.rounds, len(_RANGES) + 1) - 2] for one in found]
    of_a_session = fmean(own**2 / one.rounds for own, one in zip(deviations, found, strict=True))
    freedom = sum(one.rounds - 1 for one in found)
    return Between(sqrt(of_a_session + of_a_session / len(found)), freedom)


def calibration_of(  # noqa: PLR0913, PLR0917  (what a calibration is made of)
    direction: Direction, errors: Floats, between: Between, networks: Sequence[NetworkTime], factor: float, source: str
) -> Calibration:
    """Intervals for further networks.

    Args:
        errors: f64[n], of the logarithm of measured networks' times, each predicted from the others.
        between: See `between_measurements`.
        networks: The measured ones.
        factor: What their times are beside the sums of their kernels'.
        source: Of the errors.
    """
    (low80, high80), (low95, high95) = (_ends(np.sort(errors), share, between) for share in (0.8, 0.95))
    tails = [max(network.p90_ms / network.median_ms, 1.0) for network in networks]
    return Calibration(direction, factor, low80, high80, low95, high95, float(np.median(tails)), source)


def _ends(errors: Floats, share: float, between: Between) -> tuple[float, float]:
    """Factors between which a further network lies, in another measurement, with probability `share`.

    Where the smallest and the largest of so few errors bound less, they are moved out as a normal distribution's.

    Args:
        errors: Ascending.
    """
    n, outside, normal = len(errors), (1 - share) / 2, NormalDist()
    place, middle = (n + 1) * outside - 1, float(np.median(errors))
    wider = 1.0 if place >= 0 else normal.inv_cdf(1 - outside) / normal.inv_cdf(n / (n + 1))
    ends = np.interp([place, n - 1 - place], np.arange(n), errors)
    further = between.quantile(1 - outside)
    low, high = (hypot(wider * (float(end) - middle), further) for end in ends)
    return exp(middle - low), exp(middle + high)
