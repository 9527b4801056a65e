"""What cannot be accounted for is refused before anything is released, with table, value and cure."""

import pytest

from pipeline.run_checks import broken_rules
from pipeline.run_sections import RunFile
from pipeline.search_sections import RandomSearchSection
from tests.pipeline.test_run_checks import CELLS, ON_SUM, ORDINARY, PRIVATE, RELEASE, lines

NOISE = {"noise_multiplier": 1.0}
DEFAULT = {"learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0, "architecture_learning_rate": 0.01}
CLIENTS = {
    **ORDINARY,
    "privacy": {
        "unit": "client",
        "noise_at": "sum",
        "delta": 1e-5,
        "target_epsilon": 8.0,
        "update": NOISE,
        "metrics": NOISE,
        "test": NOISE,
        "max_participations": 4,
        "max_norm": 1.0,
    },
}


def test_the_client_unit_breaks_no_rule():
    assert broken_rules(RunFile.model_validate(CLIENTS)) == []


@pytest.mark.parametrize(
    ("table", "changes", "line"),
    [
        ("privacy", {"max_participations": None}, "needs max_participations, e.g. max_participations = 10"),
        ("privacy", {"max_norm": None}, "unit = 'client' needs max_norm, e.g. max_norm = 1.0"),
        (
            "privacy",
            {"metrics": RELEASE},
            "[privacy.metrics] sample_rate = 0.5 has no meaning for unit = 'client': phones that check in",
        ),
        ("round", {"weighting": "examples"}, "counts every client alike; set weighting = 'uniform'"),
        ("round", {"over_selection": 1.2}, "[round] over_selection = 1.2 has no meaning for unit = 'client'"),
        ("training", {"batch_size": None}, "needs batch_size, the examples of one step"),
        ("training", {"local_steps": 3}, "exactly one of local_steps and local_epochs"),
        # 4 rounds of 5 clients are 20 places, 10 clients once are 10.
        (
            "privacy",
            {"max_participations": 1},
            "max_participations = 1 of 10 clients gives 10 reports, and the search's update releases are 4 rounds of 5",
        ),
    ],
)
def test_a_run_of_the_client_unit_is_told_what_to_change(table, changes, line):
    assert any(line in told for told in lines(CLIENTS, table, **changes)), lines(CLIENTS, table, **changes)


def test_clients_that_are_just_enough_are_enough():
    assert lines(CLIENTS, "privacy", max_participations=2) == []


def test_clients_that_are_named_are_asked_as_often_as_planned():
    """4 rounds that tune name all 10 clients each, whatever the cohort."""
    fedex = {
        **{name: table for name, table in CLIENTS.items() if name != "space"},
        "cells": CELLS["cells"],
        "search": {"algorithm": "fedex", "rounds": 4},
        "training": {**CLIENTS["training"], "architecture_learning_rate": 0.1},
        "privacy": {**CLIENTS["privacy"], "reward": {**NOISE, "loss_bound": 2.0}, "max_participations": 3},
    }
    update, reward = lines(fedex, "round", cohort_size=5)
    assert "max_participations = 3 is too few: fedex names the clients of its rounds" in update
    assert "up to 4 update releases in the search; set max_participations = 4" in update
    assert "up to 4 reward releases in the search" in reward
    assert lines(fedex, "privacy", max_participations=4) == []
    whoever = {"algorithm": "fedex", "rounds": 4, "order": "nas", "default": DEFAULT}
    assert lines({**fedex, "privacy": {**CLIENTS["privacy"], "max_participations": 2}}, "search", **whoever) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"max_participations": 3}, "max_participations belongs to unit = 'client'; remove it"),
        ({"max_norm": 1.0}, "max_norm belongs to unit = 'client'; remove it"),
        ({"update": NOISE}, "[privacy.update] lacks sample_rate"),
        ({"test": NOISE}, "[privacy.test] lacks sample_rate"),
        ({"architecture": RELEASE}, "[privacy.architecture] has no meaning: random_search makes no such release"),
        ({"reward": {**RELEASE, "loss_bound": 1.0}}, "[privacy.reward] has no meaning: random_search makes no such"),
    ],
)
def test_a_run_of_the_example_unit_is_told_what_to_change(changes, line):
    (told,) = lines(PRIVATE, "privacy", **changes)
    assert line in told


@pytest.fixture
def joint(monkeypatch):
    """A search that releases everything there is."""

    def planned(section, run_file):
        kinds = ("update", "architecture", "reward", "metrics")
        return tuple(("search", kind, section.trials) for kind in kinds)

    monkeypatch.setattr(RandomSearchSection, "planned", planned)


REWARD = {**RELEASE, "loss_bound": 2.0}


@pytest.mark.parametrize(
    ("left_out", "given"), [("architecture", {"reward": REWARD}), ("reward", {"architecture": RELEASE})]
)
def test_what_a_search_releases_needs_its_table(joint, left_out, given):
    (told,) = lines(PRIVATE, "privacy", **given)
    assert told == f"[privacy] lacks the table [privacy.{left_out}]: random_search makes such releases"
    assert lines(PRIVATE, "privacy", architecture=RELEASE, reward=REWARD) == []


def test_noise_on_the_sum_of_examples_has_no_reward_and_no_turns_and_on_that_of_clients_both(joint):
    turns, reward = lines(ON_SUM, "privacy", architecture=RELEASE, reward=REWARD)
    assert "noise_at = 'sum' is one step a round, and random_search takes steps of two kinds in turns" in turns
    assert "noise_at = 'sum' takes no step on the phone that a reward could be of" in reward
    assert lines(CLIENTS, "privacy", architecture=NOISE, reward={**NOISE, "loss_bound": 2.0}) == []


@pytest.mark.parametrize("name", ["weight_decay", "architecture_weight_decay"])
def test_noise_on_the_sum_has_no_decay(name):
    (told,) = lines(ON_SUM, "training", **{name: 0.1})
    assert "set weight_decay = 0 and architecture_weight_decay = 0" in told
    assert lines(PRIVATE, "training", **{name: 0.1}) == []


@pytest.mark.parametrize("name", ["momentum", "weight_decay", "architecture_weight_decay"])
def test_noise_on_the_sum_has_none_in_untuned_rounds_either(name):
    private = {
        **{table: values for table, values in ON_SUM.items() if table != "space"},
        "cells": CELLS["cells"],
        "training": {**ON_SUM["training"], "architecture_learning_rate": 0.1},
    }
    search = {"algorithm": "fedex", "rounds": 2, "order": "nas", "moves": "all"}
    assert lines(private, "search", **search, default=DEFAULT, trials=None) == []
    (told,) = lines(private, "search", **search, default={**DEFAULT, name: 0.25}, trials=None)
    assert told.startswith(f"[search.default] {name} = 0.25 must be 0 with noise_at = 'sum'")


def test_a_reward_has_a_bound():
    with pytest.raises(ValueError, match="loss_bound"):
        RunFile.model_validate({**PRIVATE, "privacy": {**PRIVATE["privacy"], "reward": RELEASE}})


def test_the_winner_may_be_tested_as_the_search_left_it_but_not_fresh():
    assert lines(ORDINARY, "final", rounds=0) == []
    (told,) = broken_rules(RunFile.model_validate({**ORDINARY, "final": {"rounds": 0, "start": "fresh"}}))
    assert told == "[final] rounds = 0 would test a network that nobody trained: remove start = 'fresh'"
