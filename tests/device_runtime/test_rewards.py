"""What training was worth, on the validation split: sums by hand, bounds, draws, noise."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.descent import DivergedError
from device_runtime.lattice_noise import WIDENING, granularity
from device_runtime.loaded import Examples, LoadedAssignment
from device_runtime.private_random import PrivateRandom, Purpose
from device_runtime.scoring import measure_reward, num_evaluations
from device_runtime.terms import PrivacyTerms, RewardTerms, TrainTerms
from device_runtime.training import train
from tests.device_runtime.softmax_regression import PARAMETERS, draw_examples, private

RANDOM = PrivateRandom(bytes(32))
SPLITS = {"train": draw_examples(10, 1), "validation": draw_examples(7, 2)}
VALIDATION = SPLITS["validation"]
ORDINARY = TrainTerms(0.5, local_steps=3, batch_size=5)
EVERYBODY = PrivacyTerms("sum", 1.0, 1.0)  # no noise on the device: what is left is the sum
AFTER = PARAMETERS[::-1].copy()


def losses(parameters, x=VALIDATION.x, y=VALIDATION.y):
    logits = x.astype(np.float64) @ parameters[:9].reshape(3, 3).T.astype(np.float64) + parameters[9:]
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y]


def reward_of(session, terms, examples=VALIDATION, after=AFTER):
    return measure_reward(session, (PARAMETERS, after), terms, examples, RANDOM)


@pytest.mark.parametrize("bound", [None, 0.4, 5.0])
def test_it_is_the_sum_over_examples_in_units_of_the_bound(session, bound):
    gains, unit = losses(PARAMETERS) - losses(AFTER), bound or 1.0
    clipped = np.clip(gains, -unit, unit) if bound else gains
    assert bound != 0.4 or (np.abs(gains) > 0.4).any()
    found = reward_of(session, RewardTerms("gain", bound))
    assert (found.names, found.num_examples) == (("gain",), 7)
    assert found.sums == pytest.approx((clipped.sum() / unit,), rel=1e-5)
    worth = 1 - np.clip(losses(AFTER), 0, bound) / bound if bound else losses(AFTER)
    assert reward_of(session, RewardTerms("loss", bound)).sums == pytest.approx((worth.sum(),), rel=1e-5)


@pytest.mark.parametrize("release", ["gain", "loss"])
def test_a_train_assignment_tells_it_of_its_own_steps(session, release):
    terms = replace(ORDINARY, reward=RewardTerms(release, 2.0))
    update = train(LoadedAssignment(session, PARAMETERS, terms), SPLITS, RANDOM)
    alone = train(LoadedAssignment(session, PARAMETERS, ORDINARY), SPLITS, RANDOM)
    np.testing.assert_array_equal(update.vector, alone.vector)
    trained = losses(PARAMETERS + update.vector)
    gains = np.clip(losses(PARAMETERS) - trained, -2, 2) / 2
    worth = gains if release == "gain" else 1 - np.clip(trained, 0, 2) / 2
    assert update.metric_sums == {release: pytest.approx(worth.sum(), rel=1e-4)}
    assert (update.num_examples, update.num_scored) == (10, 7)
    # Two chunks of four hold seven examples, and a gain looks at them twice.
    assert update.num_chunks - alone.num_chunks == {"gain": 4, "loss": 2}[release] == 2 * num_evaluations(terms.reward)
    assert (alone.metric_sums, alone.num_scored) == (None, 0)


def test_in_private_training_it_has_its_own_draw_and_noise_and_moves_no_step(session):
    privacy = PrivacyTerms("device", 0.6, 3.0)
    terms = private(local_steps=2)
    update = train(
        LoadedAssignment(session, PARAMETERS, replace(terms, reward=RewardTerms("gain", 2.0, privacy))), SPLITS, RANDOM
    )
    np.testing.assert_array_equal(
        update.vector, train(LoadedAssignment(session, PARAMETERS, terms), SPLITS, RANDOM).vector
    )
    is_drawn = RANDOM.uniforms(Purpose.VOTES_AND_METRICS, 0, 7) < 0.6
    assert 0 < is_drawn.sum() < 7
    gains = (losses(PARAMETERS) - losses(PARAMETERS + update.vector))[is_drawn]
    noise = 3.0 * (1 + WIDENING) * RANDOM.normals(Purpose.VOTES_AND_METRICS, 1, 1)[0]
    expected = np.clip(gains, -2, 2).sum() / 2 + noise
    assert update.metric_sums["gain"] == pytest.approx(expected, abs=2 * granularity(1, 1, 3))
    assert update.num_scored == 7  # public; the number drawn is not


def test_an_empty_draw_is_noise_alone(session):
    privacy = PrivacyTerms("device", 1e-9, 1.0)
    (found,) = reward_of(session, RewardTerms("gain", 2.0, privacy)).sums
    noise = (1 + WIDENING) * RANDOM.normals(Purpose.VOTES_AND_METRICS, 1, 1)[0]
    assert found == pytest.approx(noise, abs=granularity(1, 1, 1))


class TestNotFinite:
    NONE = np.full(12, np.nan, np.float32)  # as training that diverged in the client unit leaves them

    def test_a_loss_counts_as_above_every_other(self, session):
        assert reward_of(session, RewardTerms("loss", 2.0), after=self.NONE).sums == (0.0,)
        assert reward_of(session, RewardTerms("gain", 2.0), after=self.NONE).sums == (-7.0,)
        back = measure_reward(session, (self.NONE, AFTER), RewardTerms("gain", 2.0), VALIDATION, RANDOM)
        assert back.sums == (7.0,)

    def test_before_and_after_nothing_was_gained(self, session):
        both = measure_reward(session, (self.NONE, self.NONE), RewardTerms("gain", 2.0), VALIDATION, RANDOM)
        assert both.sums == (0.0,)

    @pytest.mark.parametrize("release", ["gain", "loss"])
    def test_where_nothing_bounds_it_the_cure_is_named(self, session, release):
        with pytest.raises(DivergedError, match="7 of 7 losses are not finite: lower learning_rate or set loss_bound"):
            reward_of(session, RewardTerms(release), after=self.NONE)


def test_nothing_told_counts_as_the_worst_loss_and_as_no_gain(session):
    """A null record, or a client that did not report, must not make a configuration look good."""
    nothing = Examples(np.full_like(VALIDATION.x, np.nan), VALIDATION.y)
    for release in ("gain", "loss"):
        assert reward_of(session, RewardTerms(release, 2.0, EVERYBODY), nothing).sums == (0.0,)
    (worst,) = reward_of(session, RewardTerms("loss", 1e-12, EVERYBODY)).sums
    assert worst == 0.0


@pytest.mark.parametrize("release", ["gain", "loss"])
@pytest.mark.parametrize("privacy", [None, EVERYBODY])
def test_a_null_record_adds_nothing(session, release, privacy):
    x = VALIDATION.x.copy()
    x[3] = np.nan
    rest = Examples(np.delete(VALIDATION.x, 3, axis=0), np.delete(VALIDATION.y, 3))
    terms = RewardTerms(release, 2.0, privacy)
    found = reward_of(session, terms, Examples(x, VALIDATION.y))
    assert found.sums == pytest.approx(reward_of(session, terms, rest).sums, rel=1e-6)
    assert found.num_examples == 7


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["gain", "loss"]),
    st.lists(
        st.one_of(st.floats(-10, 10, width=32), st.sampled_from([np.inf, np.nan, 1e20, -1e38])), min_size=3, max_size=3
    ),
    st.integers(0, 2),
    st.sampled_from([1.0, 1e10, 1e38]),
)
def test_an_example_that_becomes_a_null_record_moves_it_by_one_at_most(session, release, values, label, size):
    sums, after = [], (PARAMETERS * -size).astype(np.float32)
    for row in (values, [np.nan] * 3):
        x, y = VALIDATION.x.copy(), VALIDATION.y.copy()
        x[2], y[2] = row, label
        sums.append(reward_of(session, RewardTerms(release, 0.5, EVERYBODY), Examples(x, y), after).sums[0])
    assert abs(sums[0] - sums[1]) <= 1 + 1e-9
