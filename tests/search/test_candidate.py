import hashlib
from dataclasses import replace

import pytest

from profiles.records import decode_record, encode_record
from search.architecture import Architecture, Stage, Stem
from search.candidate import Candidate, HyperParameters, Observation, Trial, candidate_id

TRAINING = HyperParameters(0.5, local_steps=2, max_grad_norm=0.25)
CANDIDATE = Candidate(Architecture((1, 8, 8), 10, Stem(4), (Stage("inverted", 8, expansion=2),)), TRAINING)
TRIAL = Trial(3, CANDIDATE, rounds=5, start_from=1, clients=("a", "b"))


@pytest.mark.parametrize(
    "observation",
    [
        Observation(TRIAL, accuracy=0.75),
        Observation(replace(TRIAL, start_from=None, clients=None), 0.0, failed="no reports"),
        Observation(TRIAL, -0.1, 2.5, 60, {"top5": 1.0}, 12.5, 1000, 2000, epsilon_spent=1.5),
        Observation(TRIAL, 0.5, metrics={"gain": 0.1}, num_rewarded=9, architecture_weights=(0.0, 0.5)),
    ],
)
def test_an_observation_survives_the_round_trip_with_trial_and_candidate(observation):
    decoded = decode_record(Observation, encode_record(observation))
    assert decoded == observation
    assert hash(decoded) == hash(observation)


def test_a_trial_without_a_score_is_not_scored():
    assert Observation(TRIAL, 0.0).is_scored
    assert not Observation(TRIAL, 0.0, failed="no reports").is_scored


def test_the_id_of_a_candidate_never_changes():
    # Databases and results go by it.
    written = (
        f'{{"architecture_id":"{"a" * 64}","hyper_parameters":{{"batch_size":null,"learning_rate":0.5,'
        '"local_epochs":null,"local_steps":2,"max_grad_norm":0.25,"momentum":0,"server_learning_rate":1,'
        '"server_momentum":0}}'
    )
    assert candidate_id("a" * 64, TRAINING) == hashlib.sha256(written.encode()).hexdigest()


def test_the_id_of_a_candidate_hangs_on_the_architecture_and_on_every_hyper_parameter():
    changed = {
        "learning_rate": 1.0,
        "local_steps": 3,
        "local_epochs": 1,
        "batch_size": 8,
        "momentum": 0.5,
        "max_grad_norm": None,
        "server_learning_rate": 0.5,
        "server_momentum": 0.5,
        "proximal": 0.5,
        "server_beta2": 0.5,
        "server_epsilon": 0.5,
        "weight_decay": 0.5,
        "architecture_learning_rate": 0.5,
        "architecture_weight_decay": 0.5,
    }
    assert changed.keys() == vars(TRAINING).keys()
    others = [replace(TRAINING, **{name: value}) for name, value in changed.items()]
    ids = {candidate_id("a" * 64, training) for training in (TRAINING, *others)} | {candidate_id("b" * 64, TRAINING)}
    assert len(ids) == len(changed) + 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HyperParameters(0.0), "learning_rate must be > 0 and finite, got 0.0"),
        (lambda: HyperParameters(float("inf")), "learning_rate must be > 0 and finite, got inf"),
        (lambda: HyperParameters(float("nan")), "learning_rate must be > 0 and finite, got nan"),
        (lambda: HyperParameters(0.1, max_grad_norm=-1.0), "max_grad_norm must be > 0 and finite, got -1.0"),
        (lambda: HyperParameters(0.1, server_learning_rate=0.0), "server_learning_rate must be > 0"),
        (lambda: HyperParameters(0.1, local_steps=0), "local_steps must be >= 1, got 0"),
        (lambda: HyperParameters(0.1, local_epochs=0), "local_epochs must be >= 1, got 0"),
        (lambda: HyperParameters(0.1, batch_size=-2), "batch_size must be >= 1, got -2"),
        (lambda: HyperParameters(0.1, momentum=1.0), "^momentum must be >= 0 and < 1, got 1.0"),
        (lambda: HyperParameters(0.1, server_momentum=-0.1), "server_momentum must be >= 0 and < 1, got -0.1"),
        (lambda: HyperParameters(0.1, proximal=-0.1), "proximal must be >= 0 and finite, got -0.1"),
        (lambda: HyperParameters(0.1, proximal=float("inf")), "proximal must be >= 0 and finite, got inf"),
        (lambda: HyperParameters(0.1, weight_decay=-1.0), "^weight_decay must be >= 0 and finite, got -1.0"),
        (lambda: HyperParameters(0.1, architecture_weight_decay=-1.0), "^architecture_weight_decay must be >= 0"),
        (lambda: HyperParameters(0.1, architecture_learning_rate=0.0), "architecture_learning_rate must be > 0"),
        (lambda: HyperParameters(0.1, server_beta2=1.0), "server_beta2 must be >= 0 and < 1, got 1.0"),
        (lambda: HyperParameters(0.1, server_epsilon=0.0), "server_epsilon must be > 0 and finite, got 0.0"),
        (lambda: Trial(-1, CANDIDATE, 1), "index must be >= 0, got -1"),
        (lambda: Trial(0, CANDIDATE, -1), "rounds must be >= 0, got -1"),
        (lambda: Trial(0, CANDIDATE, 2, reward="gain"), "a reward is of one round, got 2 rounds"),
        (lambda: Trial(0, CANDIDATE, 1, is_kept=False), "only what a trial of a supernet learns"),
        (lambda: Trial(1, CANDIDATE, 1, start_from=1), "start_from must be an earlier trial than 1, got 1"),
        (lambda: Trial(0, CANDIDATE, 1, clients=()), "clients must name at least one"),
        (lambda: Trial(0, CANDIDATE, 2, supernet=CANDIDATE.architecture), "trains at most one round"),
        (lambda: Observation(TRIAL, float("nan")), "accuracy must be finite, got nan; say in `failed`"),
        (lambda: Observation(TRIAL, 0.5, float("inf")), "loss must be finite, got inf"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_rule(make, message):
    with pytest.raises(ValueError, match=message):
        make()
