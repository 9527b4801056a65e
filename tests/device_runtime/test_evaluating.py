from dataclasses import replace
from math import sqrt

import numpy as np
import pytest

from device_runtime.descent import DivergedError
from device_runtime.lattice_noise import WIDENING, granularity
from device_runtime.loaded import Examples, LoadedAssignment
from device_runtime.private_random import PrivateRandom, Purpose
from device_runtime.scoring import evaluate
from device_runtime.terms import EvaluateTerms, PrivacyTerms
from tests.device_runtime.softmax_regression import EXAMPLES, PARAMETERS, draw_examples

RANDOM = PrivateRandom(bytes(32))
WIDENED = 1 + WIDENING


def test_plain_sums_are_the_sums(session):
    terms = EvaluateTerms("test", ("accuracy", "loss"))
    sums = evaluate(LoadedAssignment(session, PARAMETERS, terms), EXAMPLES, RANDOM)
    losses, metrics = session.evaluate(PARAMETERS, EXAMPLES.x, EXAMPLES.y)
    assert sums.names == ("accuracy", "loss")
    assert sums.sums == pytest.approx((metrics.sum(), losses.sum()), rel=1e-6)
    assert (sums.num_examples, sums.num_chunks) == (10, 3)


def test_losses_are_clipped_to_the_bound_and_divided_by_it(session):
    terms = EvaluateTerms("test", ("loss",), loss_bound=0.7, privacy=PrivacyTerms("sum", 1.0, 1.0))
    sums = evaluate(LoadedAssignment(session, PARAMETERS, terms), EXAMPLES, RANDOM)
    losses, _ = session.evaluate(PARAMETERS, EXAMPLES.x, EXAMPLES.y)
    assert losses.max() > 0.7
    assert sums.sums == pytest.approx((np.minimum(losses, 0.7).sum() / 0.7,), rel=1e-6)


def test_private_sums_have_the_draw_and_noise_of_their_own_purpose(session):
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


def test_an_empty_draw_still_releases_noise(session):
    terms = EvaluateTerms("test", ("accuracy",), privacy=PrivacyTerms("device", 1e-9, 1.0))
    sums = evaluate(LoadedAssignment(session, PARAMETERS, terms), EXAMPLES, RANDOM)
    noise = WIDENED * RANDOM.normals(Purpose.VOTES_AND_METRICS, 1, 1)
    assert sums.sums == pytest.approx(tuple(noise), abs=2.0**-12)
    assert (np.array(sums.sums) * 2.0**11).tolist() == np.rint(np.array(sums.sums) * 2.0**11).tolist()


@pytest.mark.parametrize("outlier", [1e6, 1e30, np.inf, np.nan])
def test_one_example_moves_each_sum_by_at_most_one(session, outlier):
    terms = EvaluateTerms("test", ("loss", "accuracy"), loss_bound=2.0, privacy=PrivacyTerms("sum", 1.0, 1.0))
    x = EXAMPLES.x.copy()
    x[3] = outlier
    moved = evaluate(LoadedAssignment(session, PARAMETERS, terms), Examples(x, EXAMPLES.y), RANDOM)
    rest = Examples(np.delete(x, 3, axis=0), np.delete(EXAMPLES.y, 3))
    without = evaluate(LoadedAssignment(session, PARAMETERS, terms), rest, RANDOM)
    difference = np.subtract(moved.sums, without.sums)
    assert (difference >= -1e-6).all()
    assert (difference <= 1 + 1e-6).all()


def test_a_metric_out_of_its_range_is_clipped(session, monkeypatch):
    values = np.array([[-5.0], [0.25], [7.0]], np.float32)
    monkeypatch.setattr(session, "evaluate", lambda *_: (np.zeros(3, np.float32), values))
    terms = EvaluateTerms("test", ("accuracy",))
    assert evaluate(LoadedAssignment(session, PARAMETERS, terms), draw_examples(3), RANDOM).sums == (1.25,)


def test_a_diverged_network_never_looks_good(session):
    huge = np.full(12, 3e38, np.float32)
    bounded = EvaluateTerms("test", ("loss", "accuracy"), loss_bound=2.0)
    sums = evaluate(LoadedAssignment(session, huge, bounded), EXAMPLES, RANDOM)
    assert sums.sums[0] > 8
    unbounded = replace(bounded, loss_bound=None)
    with pytest.raises(DivergedError, match="of 10 losses are not finite: lower learning_rate or set loss_bound"):
        evaluate(LoadedAssignment(session, huge, unbounded), EXAMPLES, RANDOM)


def test_an_example_that_is_not_finite_is_a_null_record(session):
    x = EXAMPLES.x.copy()
    x[3] = np.nan
    terms = EvaluateTerms("test", ("loss", "accuracy"))
    sums = evaluate(LoadedAssignment(session, PARAMETERS, terms), Examples(x, EXAMPLES.y), RANDOM)
    rest = Examples(np.delete(x, 3, axis=0), np.delete(EXAMPLES.y, 3))
    assert sums.sums == pytest.approx(
        evaluate(LoadedAssignment(session, PARAMETERS, terms), rest, RANDOM).sums, rel=1e-6
    )


def test_an_unknown_metric_is_named(session):
    terms = EvaluateTerms("test", ("accurcy",))
    with pytest.raises(ValueError, match=r"release asks for \['accurcy'\], the artifact has loss, accuracy"):
        evaluate(LoadedAssignment(session, PARAMETERS, terms), EXAMPLES, RANDOM)
