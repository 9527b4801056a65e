"""Add Gaussian noise on a lattice that public terms alone choose, so that the last bits of a release tell nothing.

In floating point a value decides which sums with noise can occur at all: "On Significance of the Least Significant Bits
For Differential Privacy" (Mironov, CCS 2012) for Laplace, "Are We There Yet? Timing and Floating-Point Attacks on
Differential Privacy Systems" (arXiv:2112.05307) for Gaussian noise, "Precision-based attacks and interval refining"
(arXiv:2207.13793) for the precision of a sum. The cure is that of "Secure Noise Generation" (Google Differential
Privacy Team, 2020) and of arXiv:2207.13793: sum and noise are rounded to multiples of one power of two g and added as
integers. round(s / g) + round(noise / g) is round(s' + noise) for the rounded sum s', so a release is post-processing
of the exact Gaussian mechanism on s', and every multiple of g can occur whatever the data.

What this does not protect from: normals come from finitely many words (docs/privacy.md says what is lost), and the time
that drawing takes is not hidden.
"""

from math import frexp, ldexp, sqrt

import numpy as np

from device_runtime.arrays import Floats, Vector

# The deviation is larger by this than what is accounted for. It pays for all that makes the sensitivity of what is
# computed larger than the one that is promised ("Widespread Underestimation of Sensitivity in Differentially Private
# Libraries", arXiv:2207.10635), relative to it: 2^-11 for rounding to the lattice, 2 B^2 2^-24 for summing a chunk of B
# examples in float32 (2^-9 at B = 128), 2 m 2^-24 for passing the sum of m examples on in float32 (2^-10 at m = 8192).
# These are worst cases: a graph forms each example's share by itself and takes the norm of those very numbers before it
# adds examples. 1e-4 for norms in float32 is none: it is what the certificate lets pass where it looks.
WIDENING = 2.0**-8
_ROUNDING = 2.0**-11
_LARGEST = 2.0**52  # the sum of two integers of this size is exact in float64
_LARGEST_NORMAL = 11.0  # no normal of `PrivateRandom` is larger


def granularity(size: int, sensitivity: float, deviation: float) -> float:
    """The largest power of two g with sqrt(size) * g <= 2^-11 * min(sensitivity, deviation).

    Rounding two neighbours moves each of `size` coordinates by g at most, so the distance between them grows by
    2^-11 of the sensitivity at most; and rounding is never coarser than the noise.
    """
    _, exponent = frexp(_ROUNDING * min(sensitivity, deviation) / sqrt(size))
    return ldexp(1.0, exponent - 1)


def add_lattice_noise(values: Floats | Vector, sensitivity: float, noise_multiplier: float, normals: Floats) -> Floats:
    """`values` plus noise of deviation noise_multiplier * sensitivity * (1 + 2^-8), as multiples of the granularity.

    Each coordinate of `values` is clamped to 2^52 granules, which moves neighbours no further apart. Noise is never
    clamped: clamped noise would be 2^52 on either side of the exact sum.

    Args:
        values: f64[n] or f32[n], of L2 sensitivity `sensitivity`.
        normals: f64[n], standard normal, of size 11 at most, drawn for this release alone.

    Raises:
        ValueError: 11 deviations are more than 2^52 granules, or one is less than a granule (sensitivity or noise is 0
            or not finite, or as good as); told from n, sensitivity and noise_multiplier alone.
    """
    deviation = noise_multiplier * sensitivity * (1 + WIDENING)
    granule = granularity(len(values), sensitivity, deviation)
    if not granule <= deviation <= _LARGEST / _LARGEST_NORMAL * granule:
        raise ValueError(
            f"noise_multiplier must make noise of 1 to 2^52 granules, got {noise_multiplier:g} for {len(values)} "
            f"values of sensitivity {sensitivity:g}"
        )
    with np.errstate(over="ignore"):  # what leaves the numbers is clamped
        counts = np.clip(np.rint(values.astype(np.float64) / granule), -_LARGEST, _LARGEST)
    noise = np.rint(deviation * normals / granule)
    return np.asarray((counts + noise) * granule + 0.0)  # -0.0 becomes 0.0
