"""The golden vectors are for other languages to repeat: integers and powers of two, the same to the bit everywhere."""

from math import frexp, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.lattice_noise import WIDENING, add_lattice_noise, granularity
from device_runtime.terms import BOUNDS, NOISE_MULTIPLIERS

VALUES = np.array([0.3, -1.25, 1e-9, 2.0, -0.7])
NORMALS = np.array([0.5, -2.0, 3.25, -0.125, 0.0])
# By noise multiplier: granule and counts. Where noise is larger than the sensitivity this decides, and else the noise.
GOLDEN = {
    1.25: (2.0**-13, [6570, -26688, 26728, 15356, -5734]),
    2.5: (2.0**-13, [10682, -43136, 53456, 14328, -5734]),
    0.25: (2.0**-15, [13120, -54118, 21382, 64714, -22938]),
}

positive = st.floats(1e-6, 1e6)
sizes = st.integers(1, 10_000_000)


@pytest.mark.parametrize("noise_multiplier", GOLDEN)
def test_noised_values_are_the_golden_ones(noise_multiplier):
    granule, counts = GOLDEN[noise_multiplier]
    assert granularity(5, 0.8, noise_multiplier * 0.8 * (1 + WIDENING)) == granule
    noised = add_lattice_noise(VALUES, 0.8, noise_multiplier, NORMALS)
    assert (noised / granule).tolist() == counts


@given(sizes, positive, positive)
def test_the_granule_is_the_largest_power_of_two_that_the_slack_allows(size, sensitivity, deviation):
    granule = granularity(size, sensitivity, deviation)
    assert frexp(granule)[0] == 0.5
    limit = 2.0**-11 * min(sensitivity, deviation)
    assert granule * sqrt(size) <= limit * (1 + 1e-12)
    assert 2 * granule * sqrt(size) > limit * (1 - 1e-12)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 300), positive, st.floats(0.01, 100))
def test_a_release_is_the_rounded_sum_plus_exact_noise_rounded_afterwards(seed, size, sensitivity, noise_multiplier):
    """What makes it post-processing of the exact mechanism: round(s') + round(z) = round(s' + z), as integers."""
    rng = np.random.default_rng(seed)
    values, normals = rng.normal(0, 3 * sensitivity, size), rng.normal(size=size)
    deviation = noise_multiplier * sensitivity * (1 + WIDENING)
    granule = granularity(size, sensitivity, deviation)
    counts = add_lattice_noise(values, sensitivity, noise_multiplier, normals) / granule
    noise = [round(float(deviation * z / granule)) for z in normals]
    assert counts.tolist() == [round(float(v / granule)) + k for v, k in zip(values, noise, strict=True)]


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 300), positive, st.floats(0.01, 100))
def test_neighbours_with_one_noise_lie_no_further_apart_than_the_widened_sensitivity(seed, size, sensitivity, noise):
    """And their difference is a whole number of granules: no bit beyond it tells them apart."""
    rng = np.random.default_rng(seed)
    values, direction, normals = rng.normal(0, 3 * sensitivity, size), rng.normal(size=size), rng.normal(size=size)
    neighbour = values + sensitivity * direction / np.linalg.norm(direction)
    first, second = (add_lattice_noise(v, sensitivity, noise, normals) for v in (values, neighbour))
    assert np.linalg.norm(first - second) <= sensitivity * (1 + 2.0**-11)
    counts = (first - second) / granularity(size, sensitivity, noise * sensitivity * (1 + WIDENING))
    assert (counts == np.rint(counts)).all()


def test_the_attack_that_tells_plain_sums_apart_sees_nothing_here():
    """Sums with 1.0 are multiples of 2^-54; a finer one came from 0.0: the precision attack of arXiv:2207.13793."""
    normals = np.random.default_rng(0).normal(size=2000)
    naive = [normals + value for value in (0.0, 1.0)]
    released = [add_lattice_noise(np.full(2000, value), sqrt(2000), 1.0, normals) for value in (0.0, 1.0)]
    granule = granularity(2000, sqrt(2000), sqrt(2000))
    assert [is_on_lattice(sums, 2.0**-54) for sums in naive] == [False, True]
    assert [is_on_lattice(sums, granule) for sums in released] == [True, True]


def test_noise_has_the_widened_deviation_and_values_stay_in_the_middle():
    normals = np.random.default_rng(0).normal(size=200_000)
    values = np.full(200_000, 0.3)
    noise = add_lattice_noise(values, sqrt(200_000), 0.5, normals) - values
    promised = 0.5 * sqrt(200_000) * (1 + WIDENING)
    assert noise.std() / normals.std() == pytest.approx(promised, rel=1e-5)
    assert noise.mean() == pytest.approx(normals.mean() * promised, abs=1e-3 * promised)


def test_what_leaves_the_exact_integers_is_clamped_and_stays_finite():
    values = np.array([np.inf, -1e300, 1e300, 0.0])
    noised = add_lattice_noise(values, 1.0, 1.0, np.zeros(4)) / granularity(4, 1.0, 1 + WIDENING)
    assert noised.tolist() == [2.0**52, -(2.0**52), 2.0**52, 0.0]


@pytest.mark.parametrize("noise_multiplier", [1e13, 1e30, 1e300, np.inf, 0.0, 1e-323, -1.0, np.nan])
def test_noise_that_leaves_the_exact_integers_is_refused_before_anything_is_added(noise_multiplier):
    with pytest.raises(ValueError, match=r"noise_multiplier must make noise of 1 to 2\^52 granules, got"):
        add_lattice_noise(VALUES, 0.8, noise_multiplier, NORMALS)


@pytest.mark.parametrize("noise_multiplier", NOISE_MULTIPLIERS)
@pytest.mark.parametrize("sensitivity", [*BOUNDS, 1.0, sqrt(2)])
def test_terms_at_the_ends_of_their_ranges_release_the_largest_noise_unclamped(noise_multiplier, sensitivity):
    normals = np.array([10.27, -10.27, 0.5])
    released = add_lattice_noise(np.zeros(3), sensitivity, noise_multiplier, normals)
    deviation = noise_multiplier * sensitivity * (1 + WIDENING)
    granule = granularity(3, sensitivity, deviation)
    np.testing.assert_allclose(released, deviation * normals, atol=granule)
    # For as many parameters as a file holds.
    assert 11 * deviation <= 2.0**52 * granularity(2**28, sensitivity, deviation)


def test_zero_has_no_sign():
    released = add_lattice_noise(np.array([-1e-9, 1e-9]), 1.0, 1.0, np.array([-1e-9, 1e-9]))
    assert not np.signbit(released).any()


def is_on_lattice(values, granule):
    return bool((values / granule == np.rint(values / granule)).all())
