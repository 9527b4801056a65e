from dataclasses import replace
from math import inf, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.terms import (
    BOUNDS,
    NOISE_MULTIPLIERS,
    ArchitectureTerms,
    ClientPrivacyTerms,
    EvaluateTerms,
    PrivacyTerms,
    RewardTerms,
    TrainTerms,
)
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


ON_SUM = PrivacyTerms("sum", 0.5, 1.0)
ON_CLIENTS = ClientPrivacyTerms("device", 1.0, 20)
CLIENT = replace(ON_CLIENTS, max_norm=1.0)
STEPS = ArchitectureTerms(0.01)
ORDINARY = TrainTerms(0.1, local_epochs=1, batch_size=4)
PRIVATE = train_terms(1.0)
PRIVATE_SUM = train_terms(1.0, ON_SUM)
BY_CLIENT = replace(ORDINARY, privacy=CLIENT)
APART = replace(STEPS, max_grad_norm=0.5, privacy=PRIVACY)
ALTERNATE = replace(PRIVATE, moves="alternate", architecture=APART)
ALONE = replace(PRIVATE, max_grad_norm=None, moves="architecture", architecture=replace(STEPS, max_grad_norm=0.5))
REWARD = RewardTerms("gain", 2.0, PRIVACY)


@pytest.mark.parametrize(
    "terms",
    [
        replace(ORDINARY, weight_decay=0.1, architecture=STEPS, reward=RewardTerms("loss")),
        replace(ORDINARY, moves="weights", momentum=0.9),
        replace(ORDINARY, moves="architecture", architecture=replace(STEPS, weight_decay=0.1)),
        replace(ORDINARY, moves="alternate", architecture=STEPS),
        replace(PRIVATE, architecture=STEPS, weight_decay=0.1, reward=REWARD),
        ALTERNATE,
        replace(ALTERNATE, reward=REWARD),
        ALONE,
        replace(ALONE, privacy=ON_SUM),
        replace(PRIVATE_SUM, moves="weights"),
        replace(PRIVATE_SUM, architecture=STEPS),
        replace(BY_CLIENT, moves="alternate", architecture=STEPS, momentum=0.9, proximal=0.1, weight_decay=0.1),
        replace(BY_CLIENT, privacy=replace(CLIENT, noise_at="sum"), local_epochs=None, local_steps=3),
        replace(BY_CLIENT, reward=RewardTerms("gain", 2.0, ON_CLIENTS)),
    ],
)
def test_terms_survive_the_wire(terms):
    assert decode_record(TrainTerms, encode_record(terms)) == terms


def test_older_terms_are_written_as_they_were():
    assert encode_record(ORDINARY) == (
        b'{"batch_size":4,"learning_rate":0.1,"local_epochs":1,"local_steps":null,"max_grad_norm":null,"momentum":0,'
        b'"privacy":null,"proximal":0}'
    )


@pytest.mark.parametrize(
    ("terms", "changes", "message"),
    [
        (ORDINARY, {"moves": "architecture"}, "architecture must say how .* with moves = 'architecture'"),
        (ORDINARY, {"moves": "alternate"}, "architecture must say how .* with moves = 'alternate'"),
        (ORDINARY, {"moves": "weights", "architecture": STEPS}, "left out with moves = 'weights': no architecture"),
        (
            ORDINARY,
            {"architecture": replace(STEPS, max_grad_norm=1.0)},
            r"architecture\.max_grad_norm must be left out with moves = 'all': max_grad_norm clips one vector",
        ),
        (ALONE, {"momentum": 0.9}, "momentum, proximal, weight_decay and max_grad_norm are of steps on weights"),
        (ALONE, {"proximal": 0.1}, "are of steps on weights"),
        (ALONE, {"weight_decay": 0.1}, "are of steps on weights"),
        (ALONE, {"max_grad_norm": 1.0}, "are of steps on weights"),
        (ALONE, {"architecture": STEPS}, r"architecture\.max_grad_norm must be given in private training"),
        (ALONE, {"architecture": APART}, r"architecture\.privacy must be given exactly .* got moves = 'architecture'"),
        (PRIVATE, {"architecture": replace(APART, max_grad_norm=None)}, r"architecture\.privacy .* moves = 'all'"),
        (ORDINARY, {"moves": "alternate", "architecture": APART}, r"architecture\.privacy must be given exactly"),
        (BY_CLIENT, {"moves": "alternate", "architecture": APART}, r"architecture\.privacy must be given exactly"),
        (ALTERNATE, {"architecture": replace(APART, privacy=None)}, r"architecture\.privacy must be given exactly"),
        (ALTERNATE, {"max_grad_norm": None}, "^max_grad_norm must be given in private training"),
        (
            ALTERNATE,
            {"architecture": replace(APART, max_grad_norm=None)},
            r"architecture\.max_grad_norm must be given in private training",
        ),
        (ALTERNATE, {"architecture": replace(APART, max_grad_norm=1e31)}, r"architecture\.max_grad_norm must be in"),
        (ALTERNATE, {"architecture": replace(APART, privacy=ON_SUM)}, "must be 'device' as the update's is, got 'sum'"),
        (ALTERNATE, {"privacy": ON_SUM}, "must be 'sum' as the update's is, got 'device'"),
        (
            ALTERNATE,
            {"privacy": ON_SUM, "architecture": replace(APART, privacy=ON_SUM)},
            "moves must be 'all', 'weights' or 'architecture'",
        ),
        (PRIVATE_SUM, {"weight_decay": 0.1}, "momentum, proximal and weight_decay must be 0 on the phone"),
        (PRIVATE_SUM, {"momentum": 0.1}, "must be 0 on the phone"),
        (PRIVATE_SUM, {"proximal": 0.1}, "must be 0 on the phone"),
        (PRIVATE_SUM, {"architecture": replace(STEPS, weight_decay=0.1)}, "must be 0 on the phone"),
        (PRIVATE_SUM, {"local_steps": 2}, "exactly one logical step a round, got local_steps=2"),
        (PRIVATE_SUM, {"reward": replace(REWARD, privacy=ON_SUM)}, "evaluate what the server's step gave"),
        (PRIVATE, {"reward": RewardTerms("gain", 2.0)}, "reward.privacy must be given exactly where privacy is"),
        (ORDINARY, {"reward": REWARD}, "reward.privacy must be given exactly where privacy is"),
        (BY_CLIENT, {"reward": REWARD}, "and be of the same unit"),
        (PRIVATE, {"reward": RewardTerms("gain", 2.0, ON_CLIENTS)}, "and be of the same unit"),
        (PRIVATE, {"reward": replace(REWARD, privacy=ON_SUM)}, r"reward\.privacy\.noise_at must be 'device'"),
        (BY_CLIENT, {"privacy": ON_CLIENTS}, r"privacy\.max_norm must be given in the client unit"),
        (BY_CLIENT, {"batch_size": None}, "batch_size must be >= 1 in ordinary training"),
        (ORDINARY, {"local_epochs": 0}, "local_epochs must be >= 1, got 0"),
        (ORDINARY, {"local_epochs": None, "local_steps": 0}, "local_steps must be >= 1, got 0"),
        (BY_CLIENT, {"local_epochs": None, "local_steps": 0}, "local_steps must be >= 1, got 0"),
        (PRIVATE, {"local_steps": 0}, "local_steps must be >= 1, got 0"),
        (ORDINARY, {"weight_decay": -0.1}, "^weight_decay must be >= 0 and finite, got -0.1"),
        (ORDINARY, {"weight_decay": inf}, "^weight_decay must be >= 0 and finite, got inf"),
    ],
)
def test_terms_that_cannot_be_are_refused(terms, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(terms, **changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ArchitectureTerms(0.0), r"architecture\.learning_rate must be > 0, got 0\.0"),
        (lambda: ArchitectureTerms(nan), r"architecture\.learning_rate must be > 0, got nan"),
        (lambda: ArchitectureTerms(0.1, -1.0), r"architecture\.weight_decay must be >= 0 and finite, got -1\.0"),
        (lambda: ArchitectureTerms(0.1, max_grad_norm=0.0), r"architecture\.max_grad_norm must be > 0, got 0\.0"),
        (lambda: RewardTerms("gain", 0.0), r"loss_bound must be > 0, got 0\.0; leave it out for none"),
        (lambda: RewardTerms("gain", None, PRIVACY), "no unclipped loss leaves a phone"),
        (lambda: RewardTerms("loss", None, ON_CLIENTS), "no unclipped loss leaves a phone"),
        (lambda: RewardTerms("gain", 1e31, PRIVACY), "loss_bound must be in .* in private work, got 1e"),
        (lambda: RewardTerms("gain", 2.0, CLIENT), r"privacy\.max_norm must be left out of metrics.* got 1"),
        (lambda: EvaluateTerms("test", ("accuracy",), None, CLIENT), r"privacy\.max_norm must be left out of metrics"),
        (lambda: EvaluateTerms("test", ("loss",), None, ON_CLIENTS), "no unclipped loss leaves a phone"),
        (lambda: replace(CLIENT, noise_multiplier=nan), "noise_multiplier must be in"),
        (lambda: replace(CLIENT, expected_reports=0), "expected_reports must be >= 1, got 0"),
        (lambda: replace(CLIENT, max_norm=1e-13), "max_norm must be in .* got 1e-13"),
        (lambda: replace(CLIENT, max_norm=inf), "max_norm must be in .* got inf"),
    ],
)
def test_parts_of_terms_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("terms", "splits", "clip", "is_raw_sum"),
    [
        (PRIVATE, ("train",), 1.0, False),
        (PRIVATE_SUM, ("train",), 1.0, True),
        (replace(PRIVATE, reward=REWARD), ("train", "validation"), 1.0, False),
        (ALTERNATE, ("train", "validation"), 1.0, False),
        (ALONE, ("validation",), 0.5, False),
        (replace(ALONE, privacy=ON_SUM), ("validation",), 0.5, True),
        (replace(BY_CLIENT, privacy=replace(CLIENT, noise_at="sum")), ("train",), None, False),
    ],
)
def test_what_terms_read_and_release(terms, splits, clip, is_raw_sum):
    assert (terms.splits, terms.step_clip, terms.is_raw_sum) == (splits, clip, is_raw_sum)
    assert EvaluateTerms("test", ("accuracy",)).splits == ("test",)
