"""Merged halving by hand: who enters, who trains whom, whose weights are merged, and who wins."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from search.algorithms import MergedHalving
from search.algorithms.merged_halving import Contender, merged_shares, ranked_networks
from search.algorithms.nested_race_entrants import multiply_accumulates
from search.budget import Feasibility, Limits
from search.candidate import NOT_ASKED, Candidate, Observation
from search.clients import Client

FREE = Feasibility((), {}, 8)
CLIENTS = tuple(Client(f"client {i}", 10) for i in range(12))


def play(search, accuracy, seed=0, failed=(), unscored=()):
    state, parts = search.init(seed), []
    while trials := search.ask(state, 100):
        told = []
        for trial in trials:
            reason = "" if trial.is_scored else NOT_ASKED
            if trial.index in failed or (trial.is_scored and trial.start_from in unscored):
                reason = "too few reports"
            told.append(Observation(trial, accuracy(trial.candidate.hyper_parameters.learning_rate), failed=reason))
        state = search.tell(state, told)
        parts.append(trials)
    return parts, state


def test_a_third_goes_on_for_three_times_the_rounds_from_the_merged_weights(cell_space):
    search = MergedHalving(cell_space, FREE, CLIENTS, num_candidates=9, num_networks=2, num_drawn=20)
    (first, scores, second, more, named), state = play(search, lambda rate: rate)
    assert [(t.rounds, t.is_scored, t.supernet, t.merged) for t in first] == [(1, False, None, ())] * 9
    assert [(t.rounds, t.start_from, t.clients) for t in scores] == [(0, i, None) for i in range(9)]
    ranking = sorted(first, key=lambda t: -t.candidate.hyper_parameters.learning_rate)
    assert [t.candidate for t in second] == [t.candidate for t in ranking[:3]]
    assert {t.rounds for t in second} == {3}
    assert {(t.supernet, t.is_kept) for t in second} == {(cell_space.supernet(), False)}
    for trial in second:
        assert trial.merged == second[0].merged
    assert [index for index, _ in second[0].merged] == [t.index for t in ranking]  # the losers' weights are in it
    shares = [share for _, share in second[0].merged]
    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)
    assert len(more) == 3
    (winner,) = named
    assert (winner.candidate, winner.rounds, winner.is_scored) == (ranking[0].candidate, 0, True)
    assert {index for index, _ in winner.merged} == {t.index for t in second}
    assert search.winners(state, ()) == {"": winner.index}
    assert [len(rung) for rung in state.rungs] == [9, 3]


def test_each_pair_has_a_configuration_of_its_own_and_the_networks_take_turns(cell_space):
    search = MergedHalving(cell_space, FREE, CLIENTS, num_candidates=6, num_networks=2, num_drawn=20)
    first = search.ask(search.init(0), 100)
    networks = Counter(trial.candidate.architecture for trial in first)
    assert sorted(networks.values()) == [3, 3]
    assert len({trial.candidate.hyper_parameters for trial in first}) == 6


def test_all_clients_train_before_anybody_trains_again(cell_space):
    search = MergedHalving(cell_space, FREE, CLIENTS, 6, 2, group_size=4, num_drawn=8)
    trials = search.ask(search.init(0), 100)
    for turn in (trials[:3], trials[3:]):
        assert Counter(name for t in turn for name in t.clients) == Counter(one.name for one in CLIENTS)
    assert trials[0].clients != trials[3].clients
    uneven = MergedHalving(cell_space, FREE, CLIENTS, 2, 2, group_size=5, num_drawn=8)
    assert Counter(len(t.clients) for t in uneven.ask(uneven.init(0), 9)) == {6: 2}  # nobody is left out
    assert MergedHalving(cell_space, FREE, CLIENTS[:1], 2, 2, num_drawn=8).ask(uneven.init(0), 1)[0].clients


def test_networks_within_the_limits_that_compute_most_enter(cell_space, make_profile):
    limits = Feasibility((make_profile("phone", "mid", 0.01),), {"mid": Limits(size_kib=6.3)}, 8)
    networks = ranked_networks(cell_space, limits, 4, 64, seed=0)
    work = [multiply_accumulates(network) for network in networks]
    assert len(set(networks)) == 4
    assert work == sorted(work, reverse=True)
    assert all(map(limits.is_feasible, networks))
    assert work[-1] < multiply_accumulates(ranked_networks(cell_space, FREE, 4, 64, seed=0)[0])


def test_a_pair_that_could_not_be_trained_or_scored_is_out_and_not_in_the_mean(cell_space):
    search = MergedHalving(cell_space, FREE, CLIENTS, num_candidates=4, num_networks=1, eta=2, num_drawn=8)
    parts, _ = play(search, lambda rate: rate, failed=(0,), unscored=(1,))
    assert [t.start_from for t in parts[1]] == [1, 2, 3]
    assert {index for index, _ in parts[2][0].merged} == {2, 3}
    assert {t.candidate for t in parts[2]} == {parts[0][2].candidate, parts[0][3].candidate}


def test_shares_are_a_softmax_of_accuracies(cell_space):
    pair = Candidate(cell_space.smallest(), cell_space.hyper_parameters.sample(np.random.default_rng(0)))
    contenders = [Contender(pair, 3, 0.75), Contender(pair, 5, 0.5)]
    assert merged_shares(contenders, 0.0) == ((3, 0.5), (5, 0.5))
    (_, better), (_, worse) = merged_shares(contenders, 4.0)
    assert better / worse == pytest.approx(2.718281828)
    assert merged_shares([], 4.0) == ()


@pytest.mark.parametrize(
    ("sharpness", "accuracies", "expected"),
    [
        (1000.0, (0.95, 0.10), {3: 1.0}),
        (800.0, (0.95, 0.10), {3: 1.0, 4: np.exp(-680.0)}),
        (1420.0, (0.5, 0.0), {3: 1.0}),  # e^-710 is a number, and not a normal one
        (1e308, (0.5, 0.5, 0.4999), {3: 0.5, 4: 0.5}),
        (1e308, (-9.0, 9.0, 5.0), {4: 1.0}),  # noised, and farther apart than numbers reach
    ],
)
def test_what_is_too_far_behind_for_a_share_is_not_in_the_mean(cell_space, sharpness, accuracies, expected):
    pair = Candidate(cell_space.smallest(), cell_space.hyper_parameters.sample(np.random.default_rng(0)))
    shares = merged_shares([Contender(pair, 3 + i, one) for i, one in enumerate(accuracies)], sharpness)
    assert dict(shares) == pytest.approx(expected, rel=1e-9, abs=0)


@pytest.mark.parametrize("sharpness", [1000.0, 1e308])
def test_a_search_whose_best_weighs_all_goes_on_to_its_end(cell_space, sharpness):
    search = MergedHalving(cell_space, FREE, CLIENTS, 9, 2, num_drawn=20, sharpness=sharpness)
    parts, state = play(search, lambda rate: 40 * rate - 20)
    assert [len(trials) for trials in parts] == [9, 9, 3, 3, 1]
    best = max(parts[0], key=lambda trial: trial.candidate.hyper_parameters.learning_rate)
    assert parts[2][0].merged == ((best.index, 1.0),)
    assert [max(row) for row in search.tuning_history(state).probabilities[1:]] == [1.0, 1.0]
    assert search.winners(state, ()) == {"": parts[-1][0].index}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_candidates": 0}, "num_candidates must be >= 1, got 0"),
        ({"num_networks": 0}, "num_networks must be >= 1, got 0"),
        ({"eta": 1}, "eta must be >= 2, got 1"),
        ({"rounds": 0}, "rounds must be >= 1, got 0"),
        ({"group_size": 13}, "group_size must be <= 12 clients, got 13"),
        ({"sharpness": -1.0}, "sharpness must be finite and >= 0, got -1"),
        ({"sharpness": np.inf}, "sharpness must be finite and >= 0, got inf"),
        ({"num_drawn": 3}, "num_networks must be <= num_drawn = 3, got 9"),
    ],
)
def test_settings_are_refused_by_name(cell_space, settings, message):
    with pytest.raises(ValueError, match=message):
        MergedHalving(cell_space, FREE, CLIENTS, **settings)


def test_the_history_of_tuning_has_the_shares_of_each_rung(cell_space):
    search = MergedHalving(cell_space, FREE, CLIENTS, num_candidates=9, num_networks=2, num_drawn=20)
    (first, _, second, _, named), state = play(search, lambda rate: rate)
    history = search.tuning_history(state)
    assert history.labels == ("start", "rung 1", "rung 2")
    of_trial = {trial.index: trial.candidate.hyper_parameters for trial in (*first, *second)}
    for row, (trial, *_) in zip(history.probabilities[1:], (second, named), strict=True):
        expected = {of_trial[index]: share for index, share in trial.merged}
        assert row == pytest.approx([expected.get(one, 0.0) for one in history.configurations])
    assert history.probabilities[0] == pytest.approx([1 / 9] * 9)
    assert history.probabilities[2].count(0.0) == 6


def test_pairs_of_one_configuration_share_its_place_in_the_history(cell_space):
    space = replace(cell_space, hyper_parameters=replace(cell_space.hyper_parameters, learning_rate=(0.1,)))
    search = MergedHalving(space, FREE, CLIENTS, num_candidates=3, num_networks=3, num_drawn=20)
    _, state = play(search, lambda rate: rate)
    history = search.tuning_history(state)
    assert len(history.configurations) == 1
    assert [row[0] for row in history.probabilities] == pytest.approx([1.0, 1.0])


def test_groups_are_dealt_anew_in_each_rung(cell_space):
    search = MergedHalving(cell_space, FREE, CLIENTS, 6, 2, group_size=4, num_drawn=8)
    state = search.init(0)
    rungs = [search._groups(replace(state, rung=rung)) for rung in range(3)]
    assert search._groups(state) == rungs[0]
    assert rungs[0] != rungs[1] != rungs[2] != rungs[0]
    assert rungs[0] != search._groups(search.init(1))


def test_configurations_are_drawn_by_the_seed(cell_space):
    search = MergedHalving(cell_space, FREE, CLIENTS, 6, 2, num_drawn=8)
    drawn = [[one.candidate.hyper_parameters for one in search.init(seed).contenders] for seed in (0, 1, 0)]
    assert drawn[0] == drawn[2]
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize(("sharpness", "ratio"), [(0.0, 1.0), (2.0, np.exp(2 * 0.25)), (16.0, np.exp(16 * 0.25))])
def test_pairs_weigh_by_the_sharpness_that_is_set(cell_space, sharpness, ratio):
    search = MergedHalving(cell_space, FREE, CLIENTS, 2, 1, eta=2, num_drawn=8, sharpness=sharpness)
    rates = [one.candidate.hyper_parameters.learning_rate for one in search.init(0).contenders]
    parts, _ = play(search, lambda rate: 0.75 if rate == max(rates) else 0.5)
    (_, better), (_, worse) = parts[2][0].merged
    assert better / worse == pytest.approx(ratio)


def test_a_pair_that_cannot_be_scored_in_a_later_rung_has_no_accuracy_left_of_the_one_before(cell_space):
    search = MergedHalving(cell_space, FREE, CLIENTS, 4, 1, eta=2, num_drawn=8)
    parts, state = play(search, lambda rate: rate, unscored=(8,))
    assert [trial.start_from for trial in parts[3]] == [8, 9]
    assert [one.trained for one in state.rungs[1]] == [9]
    assert parts[-1][0].candidate == parts[2][1].candidate
    assert [index for index, _ in parts[-1][0].merged] == [9]
