from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.examples.splits import split_ids
from device_runtime.lattice_noise import WIDENING, granularity
from device_runtime.private_random import PrivateRandom, Purpose
from device_runtime.terms import BOUNDS, NOISE_MULTIPLIERS, EvaluateTerms, PrivacyTerms, TrainTerms
from device_runtime.training import (
    DivergedError,
    Examples,
    LoadedAssignment,
    TooFewExamplesError,
    evaluate,
    train,
)
from pipeline.digits import open_digits

RANDOM = PrivateRandom(bytes(32))
TINY_NOISE = 2.0**-20
WIDENED = 1 + WIDENING
PARAMETERS = np.linspace(-1, 1, 12, dtype=np.float32)


def draw_examples(num_examples: int, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    return Examples(rng.normal(size=(num_examples, 3)).astype(np.float32), rng.integers(0, 3, num_examples))


EXAMPLES = draw_examples(10)


def private(noise_at="device", sample_rate=0.5, noise_multiplier=1.0, **changes) -> TrainTerms:
    terms = TrainTerms(0.5, local_steps=1, max_grad_norm=0.8, privacy=PrivacyTerms("device", 1.0, 1.0))
    return replace(terms, privacy=PrivacyTerms(noise_at, sample_rate, noise_multiplier), **changes)


def example_gradients(parameters, x, y):
    """Closed form of softmax regression, f64[n, P]."""
    logits = x.astype(np.float64) @ parameters[:9].reshape(3, 3).T.astype(np.float64) + parameters[9:]
    residual = np.exp(logits - logits.max(axis=1, keepdims=True))
    residual = residual / residual.sum(axis=1, keepdims=True) - np.eye(3)[y]
    return np.concatenate([(residual[:, :, None] * x[:, None, :]).reshape(len(x), 9), residual], axis=1)


def clip(gradients, max_grad_norm):
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    return gradients * np.minimum(1, max_grad_norm / norms)


class TestOrdinary:
    @pytest.mark.parametrize("max_grad_norm", [None, 0.4])
    def test_local_epochs_are_plain_sgd_over_keyed_shuffles(self, session, max_grad_norm):
        terms = TrainTerms(0.3, local_epochs=2, batch_size=4, momentum=0.9, proximal=0.2, max_grad_norm=max_grad_norm)
        expected, velocity = PARAMETERS.astype(np.float64), 0.0
        for epoch in range(2):
            order = np.argsort(RANDOM.uniforms(Purpose.SAMPLING, epoch, 10), kind="stable")
            for batch in (order[:4], order[4:8], order[8:]):
                gradients = example_gradients(expected, EXAMPLES.x[batch], EXAMPLES.y[batch])
                gradient = clip(gradients, max_grad_norm or np.inf).mean(axis=0) + 0.2 * (expected - PARAMETERS)
                velocity = 0.9 * velocity + gradient
                expected = expected - 0.3 * velocity

        update = train(LoadedAssignment(session, PARAMETERS, terms), EXAMPLES, RANDOM)

        np.testing.assert_allclose(PARAMETERS + update.vector, expected, atol=3e-6)
        assert (update.name, update.vector.dtype) == ("parameter_update", np.float32)
        assert (update.num_examples, update.num_steps, update.num_chunks) == (10, 6, 6)

    def test_local_steps_go_on_where_an_epoch_would_end(self, session):
        by_epochs = TrainTerms(0.3, local_epochs=2, batch_size=5)
        by_steps = TrainTerms(0.3, local_steps=4, batch_size=5)
        updates = [train(LoadedAssignment(session, PARAMETERS, t), EXAMPLES, RANDOM) for t in (by_epochs, by_steps)]
        np.testing.assert_array_equal(updates[0].vector, updates[1].vector)
        # Batches of 5 in graphs of 4: the memory choice shows in the cost and nowhere else.
        assert [update.num_chunks for update in updates] == [8, 8]

    def test_training_lowers_the_loss_and_leaves_the_parameters_as_they_were(self, session):
        terms = TrainTerms(0.5, local_epochs=20, batch_size=10)
        before = PARAMETERS.copy()
        update = train(LoadedAssignment(session, PARAMETERS, terms), EXAMPLES, RANDOM)
        np.testing.assert_array_equal(PARAMETERS, before)
        losses = [session.evaluate(p, EXAMPLES.x, EXAMPLES.y)[0].mean() for p in (before, before + update.vector)]
        assert losses[1] < 0.8 * losses[0]

    def test_the_same_key_gives_the_same_update_and_another_one_another(self, session):
        assignment = LoadedAssignment(session, PARAMETERS, TrainTerms(0.3, local_epochs=1, batch_size=3))
        first, again = (train(assignment, EXAMPLES, RANDOM).vector for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert (train(assignment, EXAMPLES, PrivateRandom(b"k" * 32)).vector != first).any()

    def test_a_step_out_of_the_finite_numbers_names_the_cure(self, session):
        assignment = LoadedAssignment(session, PARAMETERS, TrainTerms(1e38, local_steps=9, batch_size=5, momentum=0.9))
        examples = Examples(EXAMPLES.x * 100, EXAMPLES.y)
        with pytest.raises(DivergedError, match=r"not finite after local step \d: lower learning_rate, now 1e\+38"):
            train(assignment, examples, RANDOM)


class TestPrivate:
    def test_without_noise_and_with_everybody_it_is_plain_clipped_gradient_descent(self, session):
        terms = private(sample_rate=1.0, noise_multiplier=TINY_NOISE, local_steps=3, momentum=0.5, proximal=0.1)
        expected, velocity = PARAMETERS.astype(np.float64), 0.0
        for _ in range(3):
            mean = clip(example_gradients(expected, EXAMPLES.x, EXAMPLES.y), 0.8).mean(axis=0)
            velocity = 0.5 * velocity + mean + 0.1 * (expected - PARAMETERS)
            expected = expected - 0.5 * velocity
        update = train(LoadedAssignment(session, PARAMETERS, terms), EXAMPLES, RANDOM)
        np.testing.assert_allclose(PARAMETERS + update.vector, expected, atol=2e-6)
        assert (update.num_steps, update.num_chunks) == (3, 9)

    def test_every_step_has_its_own_draw_and_noise_over_the_expected_batch_size(self, session):
        terms = private(sample_rate=0.3, local_steps=3, momentum=0.5)
        expected, velocity = PARAMETERS.astype(np.float64), 0.0
        for step in range(3):
            is_drawn = RANDOM.uniforms(Purpose.SAMPLING, step, 10) < 0.3
            assert 0 < is_drawn.sum() < 10
            clipped = clip(example_gradients(expected, EXAMPLES.x[is_drawn], EXAMPLES.y[is_drawn]), 0.8)
            noise = 0.8 * WIDENED * RANDOM.normals(Purpose.NOISE, step, 12)
            velocity = 0.5 * velocity + (clipped.sum(axis=0) + noise) / (0.3 * 10)
            expected = expected - 0.5 * velocity
        update = train(LoadedAssignment(session, PARAMETERS, terms), EXAMPLES, RANDOM)
        # A granule is 6e-5 here; the widening alone would be ten times that.
        np.testing.assert_allclose(PARAMETERS + update.vector, expected, atol=1e-4)

    def test_noise_has_the_promised_deviation(self, session):
        # Null records only, so that what is released is noise and nothing else.
        nothing = Examples(np.full((10, 3), np.nan, np.float32), EXAMPLES.y)
        terms = private(noise_multiplier=2.0, learning_rate=1.0)
        keys = [PrivateRandom.derived(b"seed", str(i)) for i in range(400)]
        assignment = LoadedAssignment(session, PARAMETERS, terms)
        noise = np.stack([train(assignment, nothing, key).vector for key in keys])
        promised = 2.0 * 0.8 / (0.5 * 10)
        assert abs(noise.std() / promised - 1) < 4 / sqrt(2 * noise.size)
        assert abs(noise.mean() / promised) < 4 / sqrt(noise.size)

    def test_noise_is_new_at_every_step(self, session):
        nothing = Examples(np.full((10, 3), np.nan, np.float32), EXAMPLES.y)
        assignment = LoadedAssignment(session, np.zeros(12, np.float32), private(local_steps=2, learning_rate=1.0))
        steps = [0.8 * WIDENED * RANDOM.normals(Purpose.NOISE, step, 12) / 5 for step in range(2)]
        np.testing.assert_allclose(train(assignment, nothing, RANDOM).vector, -(steps[0] + steps[1]), atol=3e-5)

    @pytest.mark.parametrize("sample_rate", [0.5, 1e-9], ids=["some drawn", "nobody drawn"])
    def test_a_noised_sum_lies_on_the_lattice_whatever_the_examples_are(self, session, sample_rate):
        terms = private(sample_rate=sample_rate, learning_rate=2.0**-3)
        start = np.zeros(12, np.float32)
        update = train(LoadedAssignment(session, start, terms), EXAMPLES, RANDOM).vector
        sums = -8.0 * update.astype(np.float64) * (sample_rate * 10)
        counts = sums / granularity(12, 0.8, 0.8 * WIDENED)
        # Up to float32, in which the vector travels: counts are below 2^17.
        np.testing.assert_allclose(counts, np.rint(counts), atol=0.02)
        assert np.abs(counts).max() > 1000

    def test_an_empty_draw_still_releases_noise(self, session):
        terms = private(sample_rate=1e-9, noise_multiplier=1.0)
        update = train(LoadedAssignment(session, PARAMETERS, terms), EXAMPLES, RANDOM)
        expected = -0.5 * 0.8 * WIDENED * RANDOM.normals(Purpose.NOISE, 0, 12) / (1e-9 * 10)
        np.testing.assert_allclose(update.vector, expected, rtol=1e-5, atol=1e-4 / (1e-9 * 10))
        assert update.num_chunks == 0

    @pytest.mark.parametrize("outlier", [1e6, np.inf, np.nan])
    def test_one_example_moves_the_sum_by_at_most_the_clip_norm(self, session, outlier):
        terms = private("sum", sample_rate=1.0)
        sums = []
        for value in (0.0, outlier):
            x = EXAMPLES.x.copy()
            x[3] = value
            sums.append(train(LoadedAssignment(session, PARAMETERS, terms), Examples(x, EXAMPLES.y), RANDOM).vector)
        null_record = clip(example_gradients(PARAMETERS, np.zeros((1, 3)), EXAMPLES.y[3:4]), 0.8)[0]
        without = sums[0] - null_record
        assert np.linalg.norm(sums[1] - without) <= 0.8 + 1e-6

    def test_noise_on_the_sum_uploads_the_raw_clipped_sum_of_one_step(self, session):
        terms = private("sum", sample_rate=0.5, noise_multiplier=50.0)
        update = train(LoadedAssignment(session, PARAMETERS, terms), EXAMPLES, RANDOM)
        is_drawn = RANDOM.uniforms(Purpose.SAMPLING, 0, 10) < 0.5
        clipped = clip(example_gradients(PARAMETERS, EXAMPLES.x[is_drawn], EXAMPLES.y[is_drawn]), 0.8)
        np.testing.assert_allclose(update.vector, clipped.sum(axis=0), atol=2e-6)
        assert (update.name, update.num_examples, update.num_steps) == ("gradient_sum", 10, 1)

    def test_the_memory_choice_never_enters_the_result(self, open_session):
        terms = private(local_steps=4)
        updates = [
            train(LoadedAssignment(open_session(batch_size=b), PARAMETERS, terms), EXAMPLES, RANDOM) for b in (1, 4, 32)
        ]
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
        self, session, privacy, bound, learning_rate, proximal
    ):
        privacy = PrivacyTerms("device", *privacy)
        terms = TrainTerms(learning_rate, 2, max_grad_norm=bound, proximal=proximal, privacy=privacy)
        try:
            update = train(LoadedAssignment(session, PARAMETERS, terms), EXAMPLES, RANDOM)
        except DivergedError:
            pass
        else:
            assert np.isfinite(update.vector).all()
        metrics = EvaluateTerms("test", ("loss", "accuracy"), bound, privacy)
        assert np.isfinite(evaluate(LoadedAssignment(session, PARAMETERS, metrics), EXAMPLES, RANDOM).sums).all()


class TestDigits:
    @pytest.mark.parametrize(
        ("terms", "least", "most"),
        [
            (TrainTerms(0.5, local_epochs=15, batch_size=16, momentum=0.9), 0.93, 1),
            (private(sample_rate=0.25, noise_multiplier=4.0, local_steps=150, max_grad_norm=1.0), 0.85, 1),
            (private(sample_rate=0.25, noise_multiplier=400.0, local_steps=150, max_grad_norm=1.0), 0, 0.5),
        ],
        ids=["ordinary", "private", "drowned in noise"],
    )
    def test_real_digits_are_learnt(self, open_session, terms, least, most):
        source = open_digits()
        split = split_ids(source, b"key")
        session = open_session((1, 8, 8), 10, 64)
        start = np.zeros(650, np.float32)
        update = train(LoadedAssignment(session, start, terms), Examples(*source.get(split["train"])), RANDOM)
        tests = Examples(*source.get(split["test"]))
        terms = EvaluateTerms("test", ("accuracy",))
        sums = evaluate(LoadedAssignment(session, start + update.vector, terms), tests, RANDOM)
        assert least <= sums.sums[0] / len(tests) <= most


class TestRefusal:
    @pytest.mark.parametrize("terms", [TrainTerms(0.1, local_epochs=1, batch_size=4), private(), private("sum")])
    def test_a_client_without_examples_is_told_before_any_work(self, session, monkeypatch, terms):
        monkeypatch.setattr(session, "_gradient", None)
        with pytest.raises(
            TooFewExamplesError, match=r"has 0 examples in the split .* at least 1 is needed; collect more"
        ):
            train(LoadedAssignment(session, PARAMETERS, terms), draw_examples(0), RANDOM)

    def test_an_empty_split_is_not_evaluated(self, session):
        terms = EvaluateTerms("validation", ("accuracy",))
        with pytest.raises(TooFewExamplesError, match="0 examples"):
            evaluate(LoadedAssignment(session, PARAMETERS, terms), draw_examples(0), RANDOM)

    def test_examples_of_another_shape_are_refused_before_a_draw_could_hide_them(self, session):
        examples = Examples(np.zeros((5, 2), np.float32), np.zeros(5, np.int64))
        with pytest.raises(ValueError, match="x must be float32"):
            train(LoadedAssignment(session, PARAMETERS, private(sample_rate=1e-9)), examples, RANDOM)

    def test_parameters_of_another_length_are_refused(self, session):
        with pytest.raises(ValueError, match=r"parameters must be float32 \[12\], got float32 \[11\]"):
            LoadedAssignment(session, PARAMETERS[:11], private())


class TestEvaluate:
    def test_plain_sums_are_the_sums(self, session):
        terms = EvaluateTerms("test", ("accuracy", "loss"))
        sums = evaluate(LoadedAssignment(session, PARAMETERS, terms), EXAMPLES, RANDOM)
        losses, metrics = session.evaluate(PARAMETERS, EXAMPLES.x, EXAMPLES.y)
        assert sums.names == ("accuracy", "loss")
        assert sums.sums == pytest.approx((metrics.sum(), losses.sum()), rel=1e-6)
        assert (sums.num_examples, sums.num_chunks) == (10, 3)

    def test_losses_are_clipped_to_the_bound_and_divided_by_it(self, session):
        terms = EvaluateTerms("test", ("loss",), loss_bound=0.7, privacy=PrivacyTerms("sum", 1.0, 1.0))
        sums = evaluate(LoadedAssignment(session, PARAMETERS, terms), EXAMPLES, RANDOM)
        losses, _ = session.evaluate(PARAMETERS, EXAMPLES.x, EXAMPLES.y)
        assert losses.max() > 0.7
        assert sums.sums == pytest.approx((np.minimum(losses, 0.7).sum() / 0.7,), rel=1e-6)

    def test_private_sums_have_the_draw_and_noise_of_their_own_purpose(self, session):
        privacy = PrivacyTerms("device", 0.6, 3.0)
        terms = EvaluateTerms("test", ("loss", "accuracy"), loss_bound=2.0, privacy=privacy)
        sums = evaluate(LoadedAssignment(session, PARAMETERS, terms), EXAMPLES, RANDOM)
        is_drawn = RANDOM.uniforms(Purpose.VOTES_AND_METRICS, 0, 10) < 0.6
        assert 0 < is_drawn.sum() < 10
        losses, metrics = session.evaluate(PARAMETERS, EXAMPLES.x[is_drawn], EXAMPLES.y[is_drawn])
        raw = [np.minimum(losses, 2).sum() / 2, metrics.sum()]
        noise = 3.0 * sqrt(2) * WIDENED * RANDOM.normals(Purpose.VOTES_AND_METRICS, 1, 2)
        assert sums.sums == pytest.approx(tuple(raw + noise), abs=granularity(2, sqrt(2), 3 * sqrt(2)))
        assert sums.num_examples == 10  # public; the number drawn is not

    def test_an_empty_draw_still_releases_noise(self, session):
        terms = EvaluateTerms("test", ("accuracy",), privacy=PrivacyTerms("device", 1e-9, 1.0))
        sums = evaluate(LoadedAssignment(session, PARAMETERS, terms), EXAMPLES, RANDOM)
        noise = WIDENED * RANDOM.normals(Purpose.VOTES_AND_METRICS, 1, 1)
        assert sums.sums == pytest.approx(tuple(noise), abs=2.0**-12)
        assert (np.array(sums.sums) * 2.0**11).tolist() == np.rint(np.array(sums.sums) * 2.0**11).tolist()

    @pytest.mark.parametrize("outlier", [1e6, 1e30, np.inf, np.nan])
    def test_one_example_moves_each_sum_by_at_most_one(self, session, outlier):
        terms = EvaluateTerms("test", ("loss", "accuracy"), loss_bound=2.0, privacy=PrivacyTerms("sum", 1.0, 1.0))
        x = EXAMPLES.x.copy()
        x[3] = outlier
        moved = evaluate(LoadedAssignment(session, PARAMETERS, terms), Examples(x, EXAMPLES.y), RANDOM)
        rest = Examples(np.delete(x, 3, axis=0), np.delete(EXAMPLES.y, 3))
        without = evaluate(LoadedAssignment(session, PARAMETERS, terms), rest, RANDOM)
        difference = np.subtract(moved.sums, without.sums)
        assert (difference >= -1e-6).all()
        assert (difference <= 1 + 1e-6).all()

    def test_a_metric_out_of_its_range_is_clipped(self, session, monkeypatch):
        values = np.array([[-5.0], [0.25], [7.0]], np.float32)
        monkeypatch.setattr(session, "evaluate", lambda *_: (np.zeros(3, np.float32), values))
        terms = EvaluateTerms("test", ("accuracy",))
        assert evaluate(LoadedAssignment(session, PARAMETERS, terms), draw_examples(3), RANDOM).sums == (1.25,)

    def test_a_diverged_network_never_looks_good(self, session):
        huge = np.full(12, 3e38, np.float32)
        bounded = EvaluateTerms("test", ("loss", "accuracy"), loss_bound=2.0)
        sums = evaluate(LoadedAssignment(session, huge, bounded), EXAMPLES, RANDOM)
        assert sums.sums[0] > 8
        unbounded = replace(bounded, loss_bound=None)
        with pytest.raises(DivergedError, match="of 10 losses are not finite: lower learning_rate or set loss_bound"):
            evaluate(LoadedAssignment(session, huge, unbounded), EXAMPLES, RANDOM)

    def test_an_example_that_is_not_finite_is_a_null_record(self, session):
        x = EXAMPLES.x.copy()
        x[3] = np.nan
        terms = EvaluateTerms("test", ("loss", "accuracy"))
        sums = evaluate(LoadedAssignment(session, PARAMETERS, terms), Examples(x, EXAMPLES.y), RANDOM)
        rest = Examples(np.delete(x, 3, axis=0), np.delete(EXAMPLES.y, 3))
        assert sums.sums == pytest.approx(
            evaluate(LoadedAssignment(session, PARAMETERS, terms), rest, RANDOM).sums, rel=1e-6
        )

    def test_an_unknown_metric_is_named(self, session):
        terms = EvaluateTerms("test", ("accurcy",))
        with pytest.raises(ValueError, match=r"release asks for \['accurcy'\], the artifact has loss, accuracy"):
            evaluate(LoadedAssignment(session, PARAMETERS, terms), EXAMPLES, RANDOM)
