"""FEATHERS by hand: the bandit's rewards, which rounds explore, what is thrown away, what the second phase trains."""

from dataclasses import replace

import numpy as np
import pytest

from search.algorithms import Feathers
from search.algorithms.configurations import entropy_of
from search.algorithms.feathers import Gain, moved_rewards, num_explored, probabilities_of
from search.budget import Feasibility
from search.candidate import NOT_ASKED, Observation
from search.cells import found_network

FREE = Feasibility((), {}, 8)
WEIGHTS = tuple(i % 7 / 7 for i in range(50))


def play(search, gain, seed=0, failed=()):
    """All rounds' trials and the states after them; `gain` of a learning rate."""
    state, rounds, states = search.init(seed), [], []
    while trials := search.ask(state, 100):
        told = [
            Observation(
                trial,
                0.5,
                metrics={"gain": gain(trial.candidate.hyper_parameters.learning_rate)} if trial.reward else {},
                architecture_weights=WEIGHTS if trial.candidate.architecture.is_supernet else (),
                failed="diverged" if trial.index in failed else "" if trial.is_scored else NOT_ASKED,
            )
            for trial in trials
        ]
        told = [replace(one, metrics={}) if one.failed == "diverged" else one for one in told]
        state = search.tell(state, told)
        rounds.append(trials)
        states.append(state)
    return rounds, states


@pytest.mark.parametrize(
    ("gamma", "entropy", "expected"), [(4.0, 1.2, 5), (4.0, 0.1, 1), (4.0, 4.7, 12), (1e308, 4.7, 12), (1e308, 0.0, 1)]
)
def test_a_round_explores_at_least_one_and_at_most_all_whatever_gamma_is(gamma, entropy, expected):
    assert num_explored(gamma, entropy, 12) == expected


def test_three_arms_move_as_worked_out_by_hand():
    assert probabilities_of((0.0, 0.0, 0.0)) == pytest.approx([1 / 3] * 3)
    first = moved_rewards((0.0, 0.0, 0.0), (Gain(0, 0.4), Gain(1, -0.2)), 0.3)
    assert first == pytest.approx((0.12, -0.06, 0.0))
    # softmax of 1, -0.5, 0: e, 0.60653 and 1 over 4.32481
    assert probabilities_of(first) == pytest.approx([0.62853, 0.14024, 0.23122], abs=1e-5)
    assert entropy_of(probabilities_of(first)) == pytest.approx(0.90595, abs=1e-5)
    second = moved_rewards(first, (Gain(1, 0.1), Gain(2, 0.3)), 0.3)
    # the first, which was not drawn, goes to 0.3 of itself; the others 0.3 of the way
    assert second == pytest.approx((0.036, -0.012, 0.09))
    # an arm that was not drawn comes to the top when the drawn ones lose: the rule as it is published
    assert moved_rewards((-0.1, -0.2, -0.3), (Gain(0, -1.0), Gain(1, -1.0)), 0.3)[2] == pytest.approx(-0.09)


def test_a_configuration_that_nobody_could_train_with_counts_as_the_worst_of_the_round():
    assert moved_rewards((0.0,) * 3, (Gain(0, None), Gain(1, 0.2), Gain(2, 0.1)), 0.5) == (0.05, 0.1, 0.05)
    assert moved_rewards((0.0,) * 2, (Gain(0, None),), 0.5) == (-0.5, 0.0)


def test_the_first_of_every_period_explores_from_frozen_weights_and_the_others_train_the_best(cell_space):
    search = Feathers(cell_space, FREE, rounds=6, num_configurations=8, gamma=2.0, period=3)
    rounds, states = play(search, gain=lambda rate: rate)
    sizes = [len(trials) for trials in rounds]
    assert sizes[0] == round(2.0 * np.log(8))
    assert [size > 1 for size in sizes] == [True, False, False, True, False, False, False]
    for trials, is_exploring in zip(rounds[:-1], [True, False, False, True, False, False], strict=True):
        assert all(trial.is_kept != is_exploring for trial in trials)
        assert all((trial.reward == "gain") == is_exploring for trial in trials)
        assert all(trial.supernet == trial.candidate.architecture == cell_space.supernet() for trial in trials)
        assert all((trial.moves, trial.rounds, trial.clients) == ("alternate", 1, None) for trial in trials)
        assert len({trial.candidate.hyper_parameters for trial in trials}) == len(trials)
    configurations = search.configurations(states[0])
    drawn = [configurations.index(trial.candidate.hyper_parameters) for trial in rounds[0]]
    best = max(drawn, key=lambda i: configurations[i].learning_rate)
    assert rounds[1][0].candidate.hyper_parameters == rounds[2][0].candidate.hyper_parameters == configurations[best]
    assert states[0].rewards[best] == pytest.approx(0.3 * configurations[best].learning_rate)
    assert [one.round for one in states[-1].explorations] == [0, 3]
    assert states[-1].explorations[0].drawn == tuple(drawn)


def test_the_found_network_goes_on_from_fresh_weights_with_the_bandit_on_and_is_named_at_the_end(cell_space):
    search = Feathers(cell_space, FREE, rounds=2, evaluation_rounds=3, num_configurations=4, gamma=1.5, period=2)
    rounds, states = play(search, gain=lambda rate: rate)
    found = found_network(cell_space, WEIGHTS)
    for trials in rounds[2:]:
        assert {(t.candidate.architecture, t.supernet, t.moves, t.phase) for t in trials} == {
            (found, found, "all", "final")
        }
        assert {t.candidate.hyper_parameters.architecture_learning_rate for t in trials} == {None}
    assert [trials[0].is_kept for trials in rounds] == [False, True, False, True, False, True]
    (named,) = rounds[-1]
    assert (named.rounds, named.is_scored) == (0, True)
    assert search.winners(states[-1], ()) == {"": named.index}


def test_without_a_second_phase_the_winner_is_a_part_of_the_supernet(cell_space):
    rounds, states = play(Feathers(cell_space, FREE, 2, num_configurations=2), gain=lambda rate: rate)
    (named,) = rounds[-1]
    assert (named.supernet, named.candidate.architecture) == (cell_space.supernet(), found_network(cell_space, WEIGHTS))
    assert named.index == states[-1].trial


def test_a_diverging_configuration_is_not_chosen(cell_space):
    search = Feathers(cell_space, FREE, 2, num_configurations=3, gamma=10.0)
    rounds, states = play(search, gain=lambda rate: rate, failed=(0,))
    assert states[0].rewards.index(max(states[0].rewards)) != search.configurations(states[0]).index(
        rounds[0][0].candidate.hyper_parameters
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rounds": 0}, "rounds must be >= 1, got 0"),
        ({"evaluation_rounds": -1}, "evaluation_rounds must be >= 0, got -1"),
        ({"num_configurations": 0}, "num_configurations must be >= 1"),
        ({"period": 0}, "period must be >= 1"),
        ({"gamma": 0.0}, "gamma must be > 0, got 0"),
        ({"step": 1.5}, r"step must be in \(0, 1\], got 1.5"),
    ],
)
def test_settings_are_refused_by_name(cell_space, settings, message):
    with pytest.raises(ValueError, match=message):
        Feathers(cell_space, FREE, **{"rounds": 1, **settings})


def test_the_history_of_tuning_has_p_before_each_round_of_exploration_and_at_the_end(cell_space):
    search = Feathers(cell_space, FREE, rounds=4, evaluation_rounds=3, num_configurations=5, gamma=1.5, period=3)
    _, states = play(search, gain=lambda rate: rate)
    history = search.tuning_history(states[-1])
    assert history.labels == ("round 1", "round 4", "round 5", "end")
    assert history.configurations == search.configurations(states[-1])
    assert history.probabilities[0] == pytest.approx((0.2,) * 5)
    assert history.probabilities[-1] == pytest.approx(probabilities_of(states[-1].rewards))
    after_first = next(state.rewards for state in states if any(state.rewards))
    assert history.probabilities[1] == pytest.approx(probabilities_of(after_first))
    assert len(set(history.probabilities)) == 4


def test_configurations_are_explored_by_their_probabilities(cell_space):
    search = Feathers(cell_space, FREE, 1, num_configurations=6, gamma=0.1, period=1)
    state = replace(search.init(0), rewards=(-1.0, -1.0, 1.0, -1.0, -1.0, -1.0))
    drawn = [search._drawn(replace(state, first_trial=index)) for index in range(400)]
    assert {len(one) for one in drawn} == {1}
    share = np.exp(2) / (np.exp(2) + 5)  # 0.6, where even draws would be 0.17; 4 standard errors are 0.1
    assert np.mean([one == (2,) for one in drawn]) == pytest.approx(share, abs=0.1)


def test_the_private_variant_takes_both_steps_by_one_gradient_in_both_kinds_of_rounds(cell_space):
    search = Feathers(cell_space, FREE, rounds=3, num_configurations=3, period=2, moves="all")
    rounds, _ = play(search, gain=lambda rate: rate)
    assert {trial.moves for trials in rounds for trial in trials} == {"all"}


def test_architecture_weights_of_what_is_thrown_away_are_not_taken(cell_space):
    search = Feathers(cell_space, FREE, rounds=2, num_configurations=3, period=2)
    _, states = play(search, gain=lambda rate: rate)
    assert not any(states[0].architecture_weights)
    assert states[1].architecture_weights == WEIGHTS
