from math import exp, log

import numpy as np
import pytest
from scipy.stats import binom, norm

from bench import audit
from bench.audit_bounds import (
    epsilon_at_least,
    gaussian_epsilon,
    gaussian_mu_at_least,
    guessed_epsilon_at_least,
    guesses_p_value,
    rate_at_most,
)


@pytest.mark.parametrize(("hits", "trials"), [(0, 50), (3, 200), (180, 200)])
def test_a_rate_at_the_upper_end_gives_so_few_hits_exactly_at_the_level(hits, trials):
    assert binom.cdf(hits, trials, rate_at_most(hits, trials, 0.025)) == pytest.approx(0.025)
    assert rate_at_most(trials, trials, 0.025) == 1


@pytest.mark.parametrize("mu", [0.25, 1.0, 3.0])
def test_known_gaussians_are_bounded_from_below_and_closely(mu):
    rng = np.random.default_rng(0)
    bounds = []
    for _ in range(40):
        out, inside = rng.normal(0, 1, 20_000), rng.normal(mu, 1, 20_000)
        counts = int((out > mu / 2).sum()), int((inside <= mu / 2).sum()), 20_000
        bounds.append(gaussian_mu_at_least(*counts, 0.05))
        assert epsilon_at_least(*counts, 1e-5, 0.05) <= gaussian_epsilon(mu, 1e-5)
    assert np.mean(np.array(bounds) <= mu) >= 0.9  # 95% each, of 40
    assert np.mean(bounds) == pytest.approx(mu, abs=0.08)


@pytest.mark.parametrize(("mu", "delta"), [(0.5, 1e-5), (1.0, 1e-5), (2.0, 1e-3)])
def test_epsilon_of_a_gaussian_is_where_the_divergence_is_delta(mu, delta):
    epsilon = gaussian_epsilon(mu, delta)
    grid = np.linspace(-20, 20, 400_001)
    excess = np.maximum(0, norm.pdf(grid, mu) - exp(epsilon) * norm.pdf(grid))
    assert excess.sum() * (grid[1] - grid[0]) == pytest.approx(delta, rel=1e-3)
    assert gaussian_epsilon(0.0, delta) == 0


def test_randomised_response_is_bounded_by_its_epsilon():
    truth = log(0.75 / 0.25)
    assert epsilon_at_least(2_500, 2_500, 10_000, 0.0, 0.05) == pytest.approx(truth, abs=0.1)
    assert epsilon_at_least(2_500, 2_500, 10_000, 0.0, 0.05) < truth
    assert epsilon_at_least(5_000, 5_000, 10_000, 0.0, 0.05) == 0


def test_guesses_of_randomised_response_refute_a_smaller_epsilon_and_not_their_own():
    truth, rng = log(3), np.random.default_rng(0)
    bounds = [guessed_epsilon_at_least(1000, 1000, int(rng.binomial(1000, 0.75)), 1e-5, 0.05) for _ in range(40)]
    assert np.mean(np.array(bounds) <= truth) >= 0.9
    assert np.mean(bounds) == pytest.approx(truth, abs=0.25)


def test_the_p_value_is_the_binomial_tail_and_what_delta_adds():
    assert guesses_p_value(100, 50, 40, 1.0, 0.0) == pytest.approx(binom.sf(39, 50, 1 / (1 + exp(-1))))
    shares = [sum(binom.pmf(40 - j, 50, 1 / (1 + exp(-1))) for j in range(1, i + 1)) / i for i in range(1, 41)]
    added = guesses_p_value(100, 50, 40, 1.0, 1e-4) - guesses_p_value(100, 50, 40, 1.0, 0.0)
    assert added == pytest.approx(2 * 100 * 1e-4 * max(shares))
    assert guessed_epsilon_at_least(100, 50, 25, 1e-5, 0.05) == 0


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return audit.make_scene(tmp_path_factory.mktemp("audit"))


@pytest.mark.parametrize("variant", list(audit.VARIANTS))
def test_the_audit_passes_the_shipped_step_and_catches_both_broken_ones(scene, variant):
    row = audit.two_worlds(scene, variant, 1.5, 1000)
    (bar,) = audit.bars_of(row)
    assert bar.met
    assert (row["lower_bound"] > row["claimed_epsilon"]) == (variant != "as shipped")
    assert (row["false_positives"] + row["false_negatives"] == 0) == (variant == "no noise")


def test_one_run_sees_that_there_is_no_noise(scene):
    rows = [audit.one_run(scene, variant, 3.0) for variant in ("as shipped", "no noise")]
    assert [bar.met for row in rows for bar in audit.bars_of(row)] == [True, True]
    assert rows[0]["correct"] < rows[1]["correct"]


def test_what_was_broken_for_a_row_is_whole_after_it(scene):
    terms = audit._terms(1.0, 2.0, 1)
    before = scene.train(terms, scene.digits, "key")
    for broken in ("no noise", "clip twice too loose"):
        with audit.VARIANTS[broken](scene):
            assert (scene.train(terms, scene.digits, "key") != before).any()
    assert (scene.train(terms, scene.digits, "key") == before).all()
