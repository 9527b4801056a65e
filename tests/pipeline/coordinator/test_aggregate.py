import numpy as np
import pytest

from device_runtime.lattice_noise import WIDENING, granularity
from device_runtime.private_random import PrivateRandom
from device_runtime.terms import EvaluateTerms, PrivacyTerms
from pipeline.coordinator.aggregate import aggregate_sums, aggregate_updates

RANDOM = PrivateRandom(bytes(32))
GENERATOR = np.random.default_rng(0)
VECTORS = GENERATOR.normal(size=(5, 1000)).astype(np.float32)
COUNTS = [3, 10, 1, 7, 20]
UPDATES = list(zip(VECTORS, COUNTS, strict=True))


def test_the_uniform_mean_is_numpys(world):
    mean = aggregate_updates(world.plan(), iter(UPDATES), 1000, RANDOM)
    assert np.allclose(mean, VECTORS.astype(np.float64).mean(axis=0), rtol=0, atol=1e-12)


def test_the_mean_by_examples_is_numpys(world):
    mean = aggregate_updates(world.plan(weighting="examples"), iter(UPDATES), 1000, RANDOM)
    assert np.allclose(mean, np.average(VECTORS.astype(np.float64), axis=0, weights=COUNTS), rtol=0, atol=1e-12)


@pytest.mark.parametrize("weighting", ["uniform", "examples"])
def test_updates_that_are_noised_on_the_phone_get_no_more_noise(world, weighting):
    plain, private = world.plan(weighting=weighting), world.private_training("device") | {"weighting": weighting}
    assert np.array_equal(
        aggregate_updates(world.plan(**private), UPDATES, 1000, RANDOM), aggregate_updates(plain, UPDATES, 1000, RANDOM)
    )


def noise_on_the_sum(world, noise_multiplier, key=0):
    """What `noise_at = "sum"` adds to the gradient sum: the step, undone."""
    plan = world.plan(**world.private_training("sum", noise_multiplier))
    step = aggregate_updates(plan, UPDATES, 1000, PrivateRandom(key.to_bytes(32)))
    gradient_sum = step * (0.25 * sum(COUNTS)) / -plan.train.learning_rate
    return gradient_sum - VECTORS.astype(np.float64).sum(axis=0)


def test_without_noise_the_private_step_is_the_sum_over_the_expected_batch(world):
    assert np.allclose(noise_on_the_sum(world, 2.0**-20), 0, atol=5e-6)


@pytest.mark.parametrize("noise_multiplier", [1.0, 8.0])
def test_noise_on_the_sum_has_the_deviation_that_the_ledger_counts(world, noise_multiplier):
    """Once for the whole sum, not once a client: multiplier times clip norm, over 20,000 draws."""
    noise = np.concatenate([noise_on_the_sum(world, noise_multiplier, key) for key in range(20)])
    assert noise.std() == pytest.approx(noise_multiplier * 0.5, rel=0.02)
    assert abs(noise.mean()) < noise_multiplier * 0.5 * 0.03


def test_a_noised_sum_lies_on_the_lattice_whatever_the_clients_sent(world):
    noised = noise_on_the_sum(world, 2.0) + VECTORS.astype(np.float64).sum(axis=0)
    counts = noised / granularity(1000, 0.5, 2.0 * 0.5 * (1 + WIDENING))
    assert np.allclose(counts, np.rint(counts), rtol=0, atol=1e-4)
    assert np.abs(counts).max() > 1000


def test_another_key_draws_other_noise(world):
    assert not np.allclose(noise_on_the_sum(world, 1.0, 0), noise_on_the_sum(world, 1.0, 1))


def test_the_order_given_is_the_order_summed_so_equal_reports_give_equal_bytes(world):
    plan = world.plan(weighting="examples")
    first = aggregate_updates(plan, iter(UPDATES), 1000, RANDOM)
    assert first.tobytes() == aggregate_updates(plan, list(UPDATES), 1000, RANDOM).tobytes()


def test_updates_are_taken_one_at_a_time(world):
    alive = []

    def stream():
        for vector, count in UPDATES:
            alive.append(1)
            yield vector.copy(), count
            alive.pop()
            assert not alive

    aggregate_updates(world.plan(), stream(), 1000, RANDOM)


def test_nothing_to_aggregate_is_an_error(world):
    with pytest.raises(ValueError, match="'first' has no update to aggregate"):
        aggregate_updates(world.plan(), [], 1000, RANDOM)
    with pytest.raises(ValueError, match="'first' does not train"):
        aggregate_updates(world.plan(**world.evaluation()), UPDATES, 1000, RANDOM)


REPORTS = [{"accuracy": 1.0, "loss": 0.5}, {"loss": 2.0, "accuracy": 3.0}]


@pytest.mark.parametrize("privacy", [None, PrivacyTerms("device", 0.5, 2.0)], ids=["plain", "noised on the phone"])
def test_metric_sums_add_up_by_name(privacy):
    terms = EvaluateTerms("validation", ("loss", "accuracy"), 4.0, privacy)
    assert aggregate_sums(terms, REPORTS, RANDOM) == {"loss": 2.5, "accuracy": 4.0}


def test_noise_on_metric_sums_has_the_deviation_of_their_joint_sensitivity():
    terms = EvaluateTerms("validation", ("loss", "accuracy"), 4.0, PrivacyTerms("sum", 0.5, 3.0))
    draws = [aggregate_sums(terms, REPORTS, PrivateRandom(key.to_bytes(32))) for key in range(4000)]
    noise = np.array([[draw["loss"] - 2.5, draw["accuracy"] - 4.0] for draw in draws])
    assert noise.std(axis=0) == pytest.approx([3.0 * np.sqrt(2)] * 2, rel=0.05)
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.06
