"""Ordinary training, what is refused before any training, and that real digits are learnt."""

import numpy as np
import pytest

from device_runtime.descent import DivergedError
from device_runtime.examples.splits import split_ids
from device_runtime.loaded import Examples, LoadedAssignment, TooFewExamplesError
from device_runtime.private_random import PrivateRandom, Purpose
from device_runtime.scoring import evaluate
from device_runtime.terms import EvaluateTerms, TrainTerms
from device_runtime.training import train
from pipeline.digits import open_digits
from tests.device_runtime.softmax_regression import (
    EXAMPLES,
    PARAMETERS,
    clip,
    draw_examples,
    example_gradients,
    private,
)

RANDOM = PrivateRandom(bytes(32))


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

        update = train(LoadedAssignment(session, PARAMETERS, terms), {"train": EXAMPLES}, RANDOM)

        np.testing.assert_allclose(PARAMETERS + update.vector, expected, atol=3e-6)
        assert (update.name, update.vector.dtype) == ("parameter_update", np.float32)
        assert (update.num_examples, update.num_steps, update.num_chunks) == (10, 6, 6)

    def test_local_steps_go_on_where_an_epoch_would_end(self, session):
        by_epochs = TrainTerms(0.3, local_epochs=2, batch_size=5)
        by_steps = TrainTerms(0.3, local_steps=4, batch_size=5)
        both = [LoadedAssignment(session, PARAMETERS, terms) for terms in (by_epochs, by_steps)]
        updates = [train(assignment, {"train": EXAMPLES}, RANDOM) for assignment in both]
        np.testing.assert_array_equal(updates[0].vector, updates[1].vector)
        # Batches of 5 in graphs of 4: the memory choice shows in the cost and nowhere else.
        assert [update.num_chunks for update in updates] == [8, 8]

    def test_training_lowers_the_loss_and_leaves_the_parameters_as_they_were(self, session):
        terms = TrainTerms(0.5, local_epochs=20, batch_size=10)
        before = PARAMETERS.copy()
        update = train(LoadedAssignment(session, PARAMETERS, terms), {"train": EXAMPLES}, RANDOM)
        np.testing.assert_array_equal(PARAMETERS, before)
        losses = [session.evaluate(p, EXAMPLES.x, EXAMPLES.y)[0].mean() for p in (before, before + update.vector)]
        assert losses[1] < 0.8 * losses[0]

    def test_the_same_key_gives_the_same_update_and_another_one_another(self, session):
        assignment = LoadedAssignment(session, PARAMETERS, TrainTerms(0.3, local_epochs=1, batch_size=3))
        first, again = (train(assignment, {"train": EXAMPLES}, RANDOM).vector for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert (train(assignment, {"train": EXAMPLES}, PrivateRandom(b"k" * 32)).vector != first).any()

    def test_a_step_out_of_the_finite_numbers_names_the_cure(self, session):
        assignment = LoadedAssignment(session, PARAMETERS, TrainTerms(1e38, local_steps=9, batch_size=5, momentum=0.9))
        examples = Examples(EXAMPLES.x * 100, EXAMPLES.y)
        with pytest.raises(DivergedError, match=r"not finite after local step \d: lower learning_rate, now 1e\+38"):
            train(assignment, {"train": examples}, RANDOM)


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
        examples = {"train": Examples(*source.get(split["train"]))}
        update = train(LoadedAssignment(session, start, terms), examples, RANDOM)
        tests = Examples(*source.get(split["test"]))
        terms = EvaluateTerms("test", ("accuracy",))
        sums = evaluate(LoadedAssignment(session, start + update.vector, terms), tests, RANDOM)
        assert least <= sums.sums[0] / len(tests) <= most


class TestRefusal:
    @pytest.mark.parametrize("terms", [TrainTerms(0.1, local_epochs=1, batch_size=4), private(), private("sum")])
    def test_a_client_without_examples_is_told_before_any_work(self, session, monkeypatch, terms):
        monkeypatch.setattr(session, "gradient_graph", None)
        with pytest.raises(
            TooFewExamplesError, match=r"has 0 examples in its train split.* at least 1 is needed; collect more"
        ):
            train(LoadedAssignment(session, PARAMETERS, terms), {"train": draw_examples(0)}, RANDOM)

    def test_an_empty_split_is_not_evaluated(self, session):
        terms = EvaluateTerms("validation", ("accuracy",))
        with pytest.raises(TooFewExamplesError, match="0 examples"):
            evaluate(LoadedAssignment(session, PARAMETERS, terms), draw_examples(0), RANDOM)

    def test_examples_of_another_shape_are_refused_before_a_draw_could_hide_them(self, session):
        examples = Examples(np.zeros((5, 2), np.float32), np.zeros(5, np.int64))
        with pytest.raises(ValueError, match="x must be float32"):
            train(LoadedAssignment(session, PARAMETERS, private(sample_rate=1e-9)), {"train": examples}, RANDOM)

    def test_parameters_of_another_length_are_refused(self, session):
        with pytest.raises(ValueError, match=r"parameters must be float32 \[12\], got float32 \[11\]"):
            LoadedAssignment(session, PARAMETERS[:11], private())
