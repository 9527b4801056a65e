"""How often clients refute a network that is as good as the others, and one that is not."""

from dataclasses import replace

import numpy as np
import pytest

from search.algorithms import NestedRace
from search.algorithms.nested_race import Runner
from search.algorithms.nested_race_bounds import Score, is_behind
from search.budget import Feasibility
from search.clients import Client
from tests.search.conftest import ONE_NETWORK

SPACE = replace(ONE_NETWORK, max_stages=9, heads=("flatten",))
NO_LIMITS = Feasibility((), {}, 8)
CLIENTS = tuple(Client(f"client {i}", 40) for i in range(10))


def survivors(race, accuracies, num_examples, rng, num_turns=None):
    """Which of the networks are left when all rounds are over; each answers every example on its own.

    Args:
        num_turns: Of cohorts, after which the same examples are answered as before; None for others in every round.
    """
    largest = SPACE.largest()
    networks = [replace(largest, stages=largest.stages[:i]) for i in range(len(accuracies))]
    true = dict(zip(networks, accuracies, strict=True))
    runners = tuple(Runner(network) for network in networks)
    answers = [
        {one: rng.binomial(num_examples, true[one]) / num_examples for one in networks}
        for _ in range(num_turns or race.rounds)
    ]
    for i in range(race.rounds):
        told = answers[i % len(answers)]
        runners = tuple(
            replace(one, scores=(*one.scores, Score(i, told[one.network], num_examples))) for one in runners
        )
        runners = race._unrefuted("", runners, i)
    return [runner.network for runner in runners], networks


@pytest.mark.parametrize(("accuracy", "num_examples"), [(0.75, 70), (0.6, 200), (0.9, 70)])
def test_of_equal_networks_nearly_nobody_is_refuted(accuracy, num_examples):
    race, rng = NestedRace(SPACE, NO_LIMITS, CLIENTS), np.random.default_rng(1)
    assert (race.num_entrants, race.rounds) == (10, 7)
    races = [survivors(race, [accuracy] * 10, num_examples, rng)[0] for _ in range(200)]
    assert sum(len(left) < 10 for left in races) < 0.25 * len(races)
    assert sum(10 - len(left) for left in races) < 0.05 * 10 * len(races)
    assert sum(replace(SPACE.largest(), stages=()) not in left for left in races) < 0.05 * len(races)


@pytest.mark.parametrize("rounds", [6, 20])
@pytest.mark.parametrize("num_clients", [1, 2, 3, 4, 5])
def test_clients_who_answer_the_same_again_are_no_further_evidence(num_clients, rounds):
    """Fewer clients than `cohorts` are as many cohorts as they are; looking back further would count each twice."""
    race, rng = NestedRace(SPACE, NO_LIMITS, CLIENTS[:num_clients], rounds=rounds), np.random.default_rng(1)
    races = [survivors(race, [0.75] * 4, 14, rng, num_clients)[0] for _ in range(300)]
    assert sum(len(left) < 4 for left in races) < 0.08 * len(races)


@pytest.mark.parametrize(("num_clients", "num_left"), [(2, 4), (3, 1)])
def test_with_fewer_than_three_cohorts_nobody_is_refuted(num_clients, num_left):
    race, rng = NestedRace(SPACE, NO_LIMITS, CLIENTS[:num_clients], rounds=20), np.random.default_rng(1)
    left, _ = survivors(race, [0.9, 0.1, 0.1, 0.1], 70, rng, num_clients)
    assert len(left) == num_left


def test_a_network_that_is_much_worse_is_refuted_mostly_and_a_better_one_never():
    race, rng = NestedRace(SPACE, NO_LIMITS, CLIENTS), np.random.default_rng(1)
    refuted = 0
    for _ in range(100):
        left, (best, *_, worst) = survivors(race, [0.8, 0.78, 0.75, 0.4], 70, rng)
        assert best in left
        refuted += worst not in left
    assert refuted > 80


def test_the_error_is_no_less_than_that_of_answers_given_independently():
    behind = [Score(i, 0.5, 100) for i in range(4)]
    leader = [Score(i, 0.6, 200) for i in range(4)]
    error = ((0.25 / 100 + 0.24 / 200) / 4) ** 0.5
    assert is_behind(behind, leader, 0.99 * 0.1 / error)
    assert not is_behind(behind, leader, 1.01 * 0.1 / error)
