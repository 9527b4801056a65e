"""From hyper-parameters and [privacy] to the terms of a round."""

import tomllib
from dataclasses import replace

import pytest

from device_runtime.accounting import Release, releases_of_terms
from device_runtime.terms import ArchitectureTerms, ClientPrivacyTerms, PrivacyTerms, RewardTerms
from pipeline.privacy_sections import PrivacySection
from pipeline.searching.schedule import ScheduleError
from pipeline.searching.terms import evaluate_terms, mean_of, train_terms
from search.candidate import HyperParameters
from tests.pipeline.searching.conftest import CLIENT_PRIVACY, PRIVACY

MORE = """
architecture = { sample_rate = 0.6, noise_multiplier = 1.3 }
reward = { sample_rate = 0.7, noise_multiplier = 1.4, loss_bound = 3.0 }
"""
ORDINARY = HyperParameters(
    0.1,
    local_epochs=2,
    batch_size=8,
    momentum=0.9,
    max_grad_norm=0.5,
    proximal=0.1,
    weight_decay=0.01,
    architecture_learning_rate=0.003,
    architecture_weight_decay=0.001,
)
PRIVATE = replace(ORDINARY, local_epochs=None, local_steps=4, batch_size=None)


def section(text, **changes):
    given = tomllib.loads(text)["privacy"] | changes
    return PrivacySection.model_validate({key: value for key, value in given.items() if value is not None})


BY_EXAMPLE = section(PRIVACY + MORE)
BY_CLIENT = section(CLIENT_PRIVACY + "reward = { noise_multiplier = 1.4, loss_bound = 3.0 }", noise_at="device")


@pytest.mark.parametrize("moves", ["all", "weights", "alternate"])
def test_steps_on_weights_have_all_that_a_candidate_says_of_them(moves):
    terms = train_terms(None, ORDINARY, moves, None, 5)
    for name in (
        "learning_rate",
        "local_epochs",
        "batch_size",
        "momentum",
        "max_grad_norm",
        "proximal",
        "weight_decay",
    ):
        assert getattr(terms, name) == getattr(ORDINARY, name), name
    assert (terms.moves, terms.privacy, terms.reward) == (moves, None, None)


@pytest.mark.parametrize(
    ("moves", "clip"), [("all", None), ("alternate", 0.5), ("architecture", 0.5)], ids=["all", "alternate", "alone"]
)
def test_steps_on_architecture_weights_have_their_own_rate_and_a_clip_where_theirs_is_apart(moves, clip):
    assert train_terms(None, ORDINARY, moves, None, 5).architecture == ArchitectureTerms(0.003, 0.001, clip)


def test_without_a_rate_of_their_own_architecture_weights_move_as_the_others():
    assert train_terms(None, replace(ORDINARY, architecture_learning_rate=None), "all", None, 5).architecture is None
    assert train_terms(None, ORDINARY, "weights", None, 5).architecture is None
    with pytest.raises(ValueError, match="architecture must say how architecture weights move"):
        train_terms(None, replace(ORDINARY, architecture_learning_rate=None), "alternate", None, 5)


def test_steps_on_architecture_weights_alone_leave_out_what_is_of_weights():
    terms = train_terms(None, ORDINARY, "architecture", None, 5)
    assert (terms.momentum, terms.proximal, terms.weight_decay, terms.max_grad_norm) == (0, 0, 0, None)


UPDATE = Release("update", "train", 0.5, 1.0, 4)
REWARD = Release("reward", "validation", 0.7, 1.4)
ARCHITECTURE = Release("architecture", "validation", 0.6, 1.3, 4)


@pytest.mark.parametrize(
    ("moves", "reward", "releases"),
    [
        ("all", None, (UPDATE,)),
        ("weights", "loss", (UPDATE, REWARD)),
        ("architecture", "gain", (ARCHITECTURE, REWARD)),
        ("alternate", "gain", (UPDATE, ARCHITECTURE, REWARD)),
    ],
)
def test_each_release_has_the_rates_of_its_table(moves, reward, releases):
    terms = train_terms(BY_EXAMPLE, PRIVATE, moves, reward, 5)
    assert releases_of_terms(terms) == releases
    if reward is not None:
        assert terms.reward == RewardTerms(reward, 3.0, PrivacyTerms("device", 0.7, 1.4))


@pytest.mark.parametrize("moves", ["all", "weights", "alternate"])
def test_in_the_client_unit_training_is_ordinary_and_its_update_one_release(moves):
    terms = train_terms(BY_CLIENT, ORDINARY, moves, "gain", 5)
    assert terms.privacy == ClientPrivacyTerms("device", 3.0, 5, max_norm=0.5)
    assert terms.reward == RewardTerms("gain", 3.0, ClientPrivacyTerms("device", 1.4, 5))
    assert [(one.kind, one.unit, one.noise_multiplier) for one in releases_of_terms(terms)] == [
        ("update", "client", 3.0),
        ("reward", "client", 1.4),
    ]


@pytest.mark.parametrize(("split", "rate", "noise"), [("validation", 0.8, 1.1), ("test", 0.9, 1.2)])
def test_scores_have_the_table_of_their_split(split, rate, noise):
    assert evaluate_terms(BY_EXAMPLE, split, 5).privacy == PrivacyTerms("device", rate, noise)
    noises = {"validation": 4.0, "test": 5.0}
    assert evaluate_terms(BY_CLIENT, split, 7).privacy == ClientPrivacyTerms("device", noises[split], 7)
    assert evaluate_terms(None, split, 5).privacy is None


@pytest.mark.parametrize(
    ("table", "moves", "reward"),
    [("architecture", "architecture", None), ("architecture", "alternate", None), ("reward", "all", "loss")],
)
def test_what_has_no_table_is_not_released(table, moves, reward):
    privacy = BY_EXAMPLE.model_copy(update={table: None})
    with pytest.raises(ScheduleError, match=rf"\[privacy\] lacks the table \[privacy.{table}\]"):
        train_terms(privacy, PRIVATE, moves, reward, 5)


def test_an_ordinary_reward_has_no_bound():
    assert train_terms(None, ORDINARY, "all", "loss", 5).reward == RewardTerms("loss")


@pytest.mark.parametrize(
    ("privacy", "mean"),
    [(None, 0.6), (PrivacyTerms("sum", 0.5, 1.0), 1.2), (ClientPrivacyTerms("sum", 1.0, 4), 1.5)],
    ids=["plain", "by example", "by client"],
)
def test_a_mean_is_over_the_examples_that_were_drawn_or_the_clients_that_were_expected(privacy, mean):
    assert mean_of(6.0, 10, privacy) == pytest.approx(mean)
