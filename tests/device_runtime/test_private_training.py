from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.descent import DivergedError
from device_runtime.lattice_noise import WIDENING, granularity
from device_runtime.loaded import Examples, LoadedAssignment
from device_runtime.private_random import PrivateRandom, Purpose
from device_runtime.scoring import evaluate
from device_runtime.terms import BOUNDS, NOISE_MULTIPLIERS, EvaluateTerms, PrivacyTerms, TrainTerms
from device_runtime.training import train
from tests.device_runtime.softmax_regression import EXAMPLES, PARAMETERS, clip, example_gradients, private

RANDOM = PrivateRandom(bytes(32))
TINY_NOISE = 2.0**-20
WIDENED = 1 + WIDENING


def test_without_noise_and_with_everybody_it_is_plain_clipped_gradient_descent(session):
    terms = private(sample_rate=1.0, noise_multiplier=TINY_NOISE, local_steps=3, momentum=0.5, proximal=0.1)
    expected, velocity = PARAMETERS.astype(np.float64), 0.0
    for _ in range(3):
        mean = clip(example_gradients(expected, EXAMPLES.x, EXAMPLES.y), 0.8).mean(axis=0)
        velocity = 0.5 * velocity + mean + 0.1 * (expected - PARAMETERS)
        expected = expected - 0.5 * velocity
    update = train(LoadedAssignment(session, PARAMETERS, terms), {"train": EXAMPLES}, RANDOM)
    np.testing.assert_allclose(PARAMETERS + update.vector, expected, atol=2e-6)
    assert (update.num_steps, update.num_chunks) == (3, 9)


def test_every_step_has_its_own_draw_and_noise_over_the_expected_batch_size(session):
    terms = private(sample_rate=0.3, local_steps=3, momentum=0.5)
    expected, velocity = PARAMETERS.astype(np.float64), 0.0
    for step in range(3):
        is_drawn = RANDOM.uniforms(Purpose.SAMPLING, step, 10) < 0.3
        assert 0 < is_drawn.sum() < 10
        clipped = clip(example_gradients(expected, EXAMPLES.x[is_drawn], EXAMPLES.y[is_drawn]), 0.8)
        noise = 0.8 * WIDENED * RANDOM.normals(Purpose.NOISE, step, 12)
        velocity = 0.5 * velocity + (clipped.sum(axis=0) + noise) / (0.3 * 10)
        expected = expected - 0.5 * velocity
    update = train(LoadedAssignment(session, PARAMETERS, terms), {"train": EXAMPLES}, RANDOM)
    # A granule is 6e-5 here; the widening alone would be ten times that.
    np.testing.assert_allclose(PARAMETERS + update.vector, expected, atol=1e-4)


def test_noise_has_the_promised_deviation(session):
    # Null records only, so that what is released is noise and nothing else.
    nothing = Examples(np.full((10, 3), np.nan, np.float32), EXAMPLES.y)
    terms = private(noise_multiplier=2.0, learning_rate=1.0)
    keys = [PrivateRandom.derived(b"seed", str(i)) for i in range(400)]
    assignment = LoadedAssignment(session, PARAMETERS, terms)
    noise = np.stack([train(assignment, {"train": nothing}, key).vector for key in keys])
    promised = 2.0 * 0.8 / (0.5 * 10)
    assert abs(noise.std() / promised - 1) < 4 / sqrt(2 * noise.size)
    assert abs(noise.mean() / promised) < 4 / sqrt(noise.size)


def test_noise_is_new_at_every_step(session):
    nothing = Examples(np.full((10, 3), np.nan, np.float32), EXAMPLES.y)
    assignment = LoadedAssignment(session, np.zeros(12, np.float32), private(local_steps=2, learning_rate=1.0))
    steps = [0.8 * WIDENED * RANDOM.normals(Purpose.NOISE, step, 12) / 5 for step in range(2)]
    np.testing.assert_allclose(train(assignment, {"train": nothing}, RANDOM).vector, -(steps[0] + steps[1]), atol=3e-5)


@pytest.mark.parametrize("sample_rate", [0.5, 1e-9], ids=["some drawn", "nobody drawn"])
def test_a_noised_sum_lies_on_the_lattice_whatever_the_examples_are(session, sample_rate):
    terms = private(sample_rate=sample_rate, learning_rate=2.0**-3)
    start = np.zeros(12, np.float32)
    update = train(LoadedAssignment(session, start, terms), {"train": EXAMPLES}, RANDOM).vector
    sums = -8.0 * update.astype(np.float64) * (sample_rate * 10)
    counts = sums / granularity(12, 0.8, 0.8 * WIDENED)
    # Up to float32, in which the vector travels: counts are below 2^17.
    np.testing.assert_allclose(counts, np.rint(counts), atol=0.02)
    assert np.abs(counts).max() > 1000


def test_an_empty_draw_still_releases_noise(session):
    terms = private(sample_rate=1e-9, noise_multiplier=1.0)
    update = train(LoadedAssignment(session, PARAMETERS, terms), {"train": EXAMPLES}, RANDOM)
    expected = -0.5 * 0.8 * WIDENED * RANDOM.normals(Purpose.NOISE, 0, 12) / (1e-9 * 10)
    np.testing.assert_allclose(update.vector, expected, rtol=1e-5, atol=1e-4 / (1e-9 * 10))
    assert update.num_chunks == 0


@pytest.mark.parametrize("outlier", [1e6, np.inf, np.nan])
def test_one_example_moves_the_sum_by_at_most_the_clip_norm(session, outlier):
    terms = private("sum", sample_rate=1.0)
    sums = []
    for value in (0.0, outlier):
        x = EXAMPLES.x.copy()
        x[3] = value
        examples = {"train": Examples(x, EXAMPLES.y)}
        sums.append(train(LoadedAssignment(session, PARAMETERS, terms), examples, RANDOM).vector)
    null_record = clip(example_gradients(PARAMETERS, np.zeros((1, 3)), EXAMPLES.y[3:4]), 0.8)[0]
    without = sums[0] - null_record
    assert np.linalg.norm(sums[1] - without) <= 0.8 + 1e-6


def test_noise_on_the_sum_uploads_the_raw_clipped_sum_of_one_step(session):
    terms = private("sum", sample_rate=0.5, noise_multiplier=50.0)
    update = train(LoadedAssignment(session, PARAMETERS, terms), {"train": EXAMPLES}, RANDOM)
    is_drawn = RANDOM.uniforms(Purpose.SAMPLING, 0, 10) < 0.5
    clipped = clip(example_gradients(PARAMETERS, EXAMPLES.x[is_drawn], EXAMPLES.y[is_drawn]), 0.8)
    np.testing.assert_allclose(update.vector, clipped.sum(axis=0), atol=2e-6)
    assert (update.name, update.num_examples, update.num_steps) == ("gradient_sum", 10, 1)


def test_the_memory_choice_never_enters_the_result(open_session):
    terms = private(local_steps=4)
    sessions = [open_session(batch_size=size) for size in (1, 4, 32)]
    updates = [train(LoadedAssignment(each, PARAMETERS, terms), {"train": EXAMPLES}, RANDOM) for each in sessions]
    for update in updates[1:]:
        np.testing.assert_allclose(update.vector, updates[0].vector, atol=1e-6)
    assert updates[0].num_chunks > updates[1].num_chunks >= updates[2].num_chunks


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.sampled_from([1e-300, 1e-9, 0.5, 1.0]), st.sampled_from(NOISE_MULTIPLIERS)),
    st.sampled_from([*BOUNDS, 1.0]),
    st.sampled_from([5e-324, 0.1, 1e300]),
    st.sampled_from([0.0, 1e300]),
)
def test_the_most_extreme_terms_end_in_an_update_or_in_an_error_by_name(
    session, privacy, bound, learning_rate, proximal
):
    privacy = PrivacyTerms("device", *privacy)
    terms = TrainTerms(learning_rate, 2, max_grad_norm=bound, proximal=proximal, privacy=privacy)
    try:
        update = train(LoadedAssignment(session, PARAMETERS, terms), {"train": EXAMPLES}, RANDOM)
    except DivergedError:
        pass
    else:
        assert np.isfinite(update.vector).all()
    metrics = EvaluateTerms("test", ("loss", "accuracy"), bound, privacy)
    assert np.isfinite(evaluate(LoadedAssignment(session, PARAMETERS, metrics), EXAMPLES, RANDOM).sums).all()
