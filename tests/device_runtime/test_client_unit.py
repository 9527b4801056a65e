"""The client as the unit: ordinary steps, then one clip and one noise over all of them; metrics as means."""

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.lattice_noise import WIDENING, granularity
from device_runtime.loaded import Examples, LoadedAssignment
from device_runtime.private_random import PrivateRandom, Purpose
from device_runtime.scoring import evaluate
from device_runtime.terms import ArchitectureTerms, ClientPrivacyTerms, EvaluateTerms, RewardTerms, TrainTerms
from device_runtime.training import train
from tests.device_runtime.softmax_regression import EXAMPLES, PARAMETERS, draw_examples

RANDOM = PrivateRandom(bytes(32))
ORDINARY = TrainTerms(0.5, local_epochs=2, batch_size=4, momentum=0.5, weight_decay=0.01)
ON_SUM, ON_DEVICE = (ClientPrivacyTerms(noise_at, 3.0, 20) for noise_at in ("sum", "device"))
SPLITS = {"train": EXAMPLES, "validation": draw_examples(7, 2)}


def norm(vector):
    return float(np.linalg.norm(vector.astype(np.float64)))


@pytest.fixture
def run(session):
    """Train with or without privacy of the client."""

    def run(privacy, splits=SPLITS, random=RANDOM, **changes):
        terms = replace(ORDINARY, privacy=privacy, **changes)
        return train(LoadedAssignment(session, PARAMETERS, terms), splits, random)

    return run


def test_a_small_update_is_that_of_ordinary_training(run):
    ordinary = run(None)
    clipped = run(replace(ON_SUM, max_norm=10.0))
    np.testing.assert_array_equal(clipped.vector, ordinary.vector)
    assert (clipped.name, clipped.num_examples, clipped.num_steps) == ("parameter_update", 10, 6)
    assert clipped.num_chunks == ordinary.num_chunks


def test_a_large_update_is_scaled_to_the_norm_as_a_whole(run):
    ordinary, clipped = run(None).vector, run(replace(ON_SUM, max_norm=0.1)).vector
    assert norm(ordinary) > 0.2
    np.testing.assert_allclose(clipped, ordinary * (0.1 / norm(ordinary)), rtol=1e-5)
    assert norm(clipped) == pytest.approx(0.1, rel=1e-6)


def test_on_the_device_the_noise_is_drawn_once_over_the_whole_update(run):
    clipped = run(replace(ON_SUM, max_norm=0.1)).vector
    noised = run(replace(ON_DEVICE, max_norm=0.1)).vector
    noise = 3.0 * 0.1 * (1 + WIDENING) * RANDOM.normals(Purpose.NOISE, 0, 12)
    np.testing.assert_allclose(noised, clipped + noise, atol=2 * granularity(12, 0.1, 0.3))
    counts = noised.astype(np.float64) / granularity(12, 0.1, 0.3)
    np.testing.assert_allclose(counts, np.rint(counts), atol=0.02)


def test_noise_has_the_promised_deviation(run):
    keys = [PrivateRandom.derived(b"seed", str(i)) for i in range(200)]
    nothing = {name: Examples(np.full_like(split.x, np.nan), split.y) for name, split in SPLITS.items()}
    noise = np.stack([run(replace(ON_DEVICE, max_norm=0.1), nothing, key, weight_decay=0.0).vector for key in keys])
    assert abs(noise.std() / 0.3 - 1) < 4 / sqrt(2 * noise.size)


@pytest.mark.parametrize("noise_at", ["sum", "device"])
def test_training_that_left_the_finite_numbers_is_not_told_and_adds_nothing(run, noise_at):
    """An abort would say without noise what is in this client's examples."""
    privacy = replace(ON_SUM, noise_at=noise_at, max_norm=0.1)
    reward = RewardTerms("gain", 2.0, replace(privacy, max_norm=None))
    update = run(privacy, learning_rate=3e38, reward=reward)
    noise = 3.0 * 0.1 * (1 + WIDENING) * RANDOM.normals(Purpose.NOISE, 0, 12) if noise_at == "device" else np.zeros(12)
    np.testing.assert_allclose(update.vector, noise, atol=2 * granularity(12, 0.1, 0.3))
    noise = 3.0 * (1 + WIDENING) * RANDOM.normals(Purpose.VOTES_AND_METRICS, 1, 1)[0] if noise_at == "device" else 0
    assert update.metric_sums["gain"] == pytest.approx(-1 + noise, abs=2 * granularity(1, 1, 3))


@pytest.mark.parametrize("spoilt", [np.nan, np.inf, 1e30])
def test_whatever_a_client_holds_it_is_no_error_and_its_update_keeps_the_norm(run, spoilt):
    x = EXAMPLES.x.copy()
    x[3] = spoilt
    update = run(replace(ON_SUM, max_norm=0.1), SPLITS | {"train": Examples(x, EXAMPLES.y)})
    assert norm(update.vector) <= 0.1 * (1 + 1e-6)


def test_a_label_that_there_is_not_is_a_null_record_and_no_error_that_would_tell_of_it(run):
    labels = {name: np.where(np.arange(len(split)) == 3, 7, split.y) for name, split in SPLITS.items()}
    spoilt = {name: Examples(split.x, labels[name]) for name, split in SPLITS.items()}
    reward = RewardTerms("loss", 2.0, ON_SUM)
    update = run(replace(ON_SUM, max_norm=0.1), spoilt, reward=reward)
    assert 0 < norm(update.vector) <= 0.1 * (1 + 1e-6)
    assert (update.num_examples, update.num_scored) == (10, 7)
    with pytest.raises(ValueError, match=r"y must be in \[0, 3\), got"):
        run(None, spoilt)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1e-3, 1.0, 1e4, 1e38]), st.sampled_from([1e-12, 0.3, 1e30]))
def test_no_client_moves_a_sum_by_more_than_the_norm(session, seed, learning_rate, max_norm):
    terms = replace(ORDINARY, learning_rate=learning_rate, privacy=replace(ON_SUM, max_norm=max_norm))
    splits = {"train": draw_examples(10, seed)}
    update = train(LoadedAssignment(session, PARAMETERS, terms), splits, RANDOM)
    assert norm(update.vector) <= max_norm * (1 + 1e-6)


def test_turns_are_ordinary_and_clipped_together(searched_session):
    steps = ArchitectureTerms(0.1, 0.1)
    terms = replace(ORDINARY, moves="alternate", architecture=steps)
    assignment = LoadedAssignment(searched_session, PARAMETERS, terms)
    ordinary = train(assignment, SPLITS, RANDOM).vector
    private = replace(terms, privacy=replace(ON_SUM, max_norm=0.1))
    clipped = train(replace(assignment, terms=private), SPLITS, RANDOM).vector
    np.testing.assert_allclose(clipped, ordinary * (0.1 / norm(ordinary)), rtol=1e-5)


class TestMetrics:
    TERMS = EvaluateTerms("test", ("loss", "accuracy"), loss_bound=2.0)

    def scores(self, session, privacy, examples=EXAMPLES):
        assignment = LoadedAssignment(session, PARAMETERS, replace(self.TERMS, privacy=privacy))
        return evaluate(assignment, examples, RANDOM)

    def test_a_clients_mean_is_its_record(self, session):
        plain, of_client = self.scores(session, None), self.scores(session, ON_SUM)
        assert of_client.sums == pytest.approx([total / 10 for total in plain.sums])
        assert of_client.num_examples == 10

    def test_null_records_count_among_its_examples(self, session):
        x = EXAMPLES.x.copy()
        x[:4] = np.nan
        rest = self.scores(session, ON_SUM, Examples(x[4:], EXAMPLES.y[4:])).sums
        found = self.scores(session, ON_SUM, Examples(x, EXAMPLES.y)).sums
        assert found == pytest.approx([0.6 * mean for mean in rest])

    def test_the_noise_is_that_of_one_record_of_two_numbers(self, session):
        noise = 3.0 * sqrt(2) * (1 + WIDENING) * RANDOM.normals(Purpose.VOTES_AND_METRICS, 1, 2)
        expected = np.array(self.scores(session, ON_SUM).sums) + noise
        grain = granularity(2, sqrt(2), 3 * sqrt(2))
        assert self.scores(session, ON_DEVICE).sums == pytest.approx(tuple(expected), abs=2 * grain)

    def test_a_reward_is_a_mean_too(self, run):
        reward = RewardTerms("gain", 2.0)
        plain = run(None, reward=reward).metric_sums["gain"]
        update = run(replace(ON_SUM, max_norm=10.0), reward=replace(reward, privacy=ON_SUM))
        assert update.metric_sums == {"gain": pytest.approx(plain / 7)}
        assert update.num_scored == 7
