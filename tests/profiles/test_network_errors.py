from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from profiles.network_errors import Between, between_measurements, calibration_of
from profiles.schema import NetworkTime

NETWORKS = (NetworkTime((), 1, "forward", 1.0, 1.1, 0.9, 0.05, 9),)


@dataclass(frozen=True)
class Session:
    drift: float
    rounds: int


def session_of(rng, deviation, num_rounds):
    """A session on a device whose speed varies from round to round, and the logarithm of its mean."""
    logs = deviation * rng.standard_normal(num_rounds)
    return Session(float(np.exp(logs.max() - logs.min()) - 1), num_rounds), logs.mean()


@pytest.mark.parametrize("num_rounds", [3, 5, 10, 12])
def test_rounds_tell_how_far_two_sessions_are_apart(num_rounds):
    rng = np.random.default_rng(num_rounds)
    found = [session_of(rng, 0.03, num_rounds) for _ in range(4000)]
    told = np.mean([between_measurements([session]).deviation ** 2 for session, _ in found]) ** 0.5
    measured = np.std([one - other for (_, one), (_, other) in pairwise(found)])
    assert told == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize("num_rounds", [3, 5, 10])
@pytest.mark.parametrize("share", [0.8, 0.95])
def test_another_session_lies_as_far_off_as_is_said_of_each(num_rounds, share):
    rng = np.random.default_rng(num_rounds)
    found = [session_of(rng, 0.03, num_rounds) for _ in range(4000)]
    told = [between_measurements([session]).quantile((1 + share) / 2) for session, _ in found]
    off = np.abs([one - other for (_, one), (_, other) in pairwise(found)])
    assert np.mean(off <= told[:-1]) == pytest.approx(share, abs=0.03)  # a range tells a little too much


def test_sessions_that_were_merged_are_nearer_to_one_more():
    one = Session(0.05, 5)
    alone, both = between_measurements([one]), between_measurements([one, one])
    assert both.deviation == pytest.approx(alone.deviation * (1.5 / 2) ** 0.5)
    assert (alone.freedom, both.freedom) == (4, 8)


@pytest.mark.parametrize("sessions", [(), (Session(0.0, 1),), (Session(0.0, 5),)])
def test_what_shows_no_drift_adds_nothing(sessions):
    assert between_measurements(sessions).quantile(0.9) == 0


def ends(errors, between, share=80):
    found = calibration_of("forward", np.array(errors), Between(between, 1000), NETWORKS, 1.0, "a test")
    return np.log([getattr(found, f"low{share}"), getattr(found, f"high{share}")])


@pytest.mark.parametrize(("share", "places"), [(80, (0.1, 0.9)), (95, (0.025, 0.975))])
def test_without_drift_the_ends_are_quantiles_of_the_errors(share, places):
    errors = np.random.default_rng(0).gamma(2.0, 0.02, 19999)
    np.testing.assert_allclose(ends(errors, 0.0, share), np.quantile(errors, places), rtol=0.01)


@pytest.mark.parametrize("share", [80, 95])
def test_networks_of_another_measurement_lie_within_as_often_as_is_said(share):
    rng = np.random.default_rng(1)
    low, high = ends(0.03 * rng.standard_normal(4000), 0.02, share)
    further = 0.03 * rng.standard_normal(40000) + 0.02 * rng.standard_normal(40000)
    assert np.mean((low <= further) & (further <= high)) == pytest.approx(share / 100, abs=0.015)


def test_a_few_errors_bound_less_than_the_interval():
    low, high = ends([-0.01, 0.0, 0.02], 0.0)
    assert low < -0.01
    assert high > 0.02
