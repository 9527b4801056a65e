from math import inf, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.terms import BOUNDS, NOISE_MULTIPLIERS, EvaluateTerms, PrivacyTerms, TrainTerms
from device_runtime.wire import Assignment, CheckInReply
from profiles.records import RecordError, decode_record, encode_record

PRIVACY = PrivacyTerms("device", 0.5, 1.0)


def train_terms(max_grad_norm, privacy=PRIVACY):
    return TrainTerms(0.1, local_steps=1, max_grad_norm=max_grad_norm, privacy=privacy)


@pytest.mark.parametrize("noise_multiplier", NOISE_MULTIPLIERS)
@pytest.mark.parametrize("bound", BOUNDS)
def test_the_ends_of_the_ranges_are_allowed_and_survive_the_wire(noise_multiplier, bound):
    terms = train_terms(bound, PrivacyTerms("device", 0.5, noise_multiplier))
    assert decode_record(TrainTerms, encode_record(terms)) == terms
    EvaluateTerms("test", ("loss",), bound, PRIVACY)


@pytest.mark.parametrize("noise_multiplier", [0.0, -1.0, 1e-160, 9e-7, 1.1e6, 1e13, inf, nan])
def test_noise_outside_the_range_is_refused(noise_multiplier):
    with pytest.raises(ValueError, match="noise_multiplier must be"):
        PrivacyTerms("device", 0.5, noise_multiplier)


@pytest.mark.parametrize("bound", [0.0, -1.0, 1e-160, 9e-13, 1.1e30, 1e300, inf, nan])
def test_a_bound_that_bounds_nothing_is_refused_in_private_work(bound):
    with pytest.raises(ValueError, match="max_grad_norm must be"):
        train_terms(bound)
    with pytest.raises(ValueError, match="loss_bound must be"):
        EvaluateTerms("test", ("loss",), bound, PRIVACY)
    with pytest.raises(ValueError, match="loss_bound must be"):
        EvaluateTerms("test", ("accuracy",), bound, PRIVACY)


def test_ordinary_training_may_leave_clips_wide_open():
    assert TrainTerms(0.1, local_steps=1, batch_size=2, max_grad_norm=inf).max_grad_norm == inf
    with pytest.raises(ValueError, match=r"loss_bound must be > 0, got 0\.0; leave it out for none"):
        EvaluateTerms("test", ("loss",), 0.0)


def test_the_loss_is_never_released_without_a_bound():
    with pytest.raises(ValueError, match="no unclipped loss leaves a phone"):
        EvaluateTerms("test", ("loss",), privacy=PRIVACY)


@settings(max_examples=20)
@given(st.floats(0, 1e300).filter(lambda value: not NOISE_MULTIPLIERS[0] <= value <= NOISE_MULTIPLIERS[1]))
def test_a_server_that_asks_for_such_noise_is_refused_by_name_where_its_answer_is_read(noise_multiplier):
    assignment = Assignment("a", "run", "train", "0" * 64, "1" * 64, 60.0, train=train_terms(1.0))
    reply = encode_record(CheckInReply(assignment))
    changed = reply.replace(b'"noise_multiplier":1', b'"noise_multiplier":%b' % repr(noise_multiplier).encode())
    assert changed != reply
    with pytest.raises(RecordError, match=r"train\.privacy: noise_multiplier must be"):
        decode_record(CheckInReply, changed)
