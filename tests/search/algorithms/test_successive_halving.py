"""Successive halving by hand: who goes on, from whose weights, for how many rounds, and who wins."""

from dataclasses import replace

import pytest

from search.algorithms import SuccessiveHalving
from search.budget import Feasibility
from search.candidate import Observation

FREE = Feasibility((), {}, 8)


def play(search, accuracies, seed=0, failed=()):
    """All rungs' trials, the winner; `accuracies` by trial."""
    state, rungs, observations = search.init(seed), [], []
    while trials := search.ask(state, 100):
        told = [
            Observation(t, accuracies[t.index], failed="too few reports" if t.index in failed else "") for t in trials
        ]
        rungs.append(trials)
        observations += told
        state = search.tell(state, told)
    return rungs, search.winners(state, observations)[""]


def test_eight_candidates_are_halved_three_times_at_the_same_cost_a_rung(small_space):
    search = SuccessiveHalving(small_space, FREE, num_candidates=8, rounds=1)
    first = [0.1, 0.8, 0.3, 0.7, 0.2, 0.9, 0.6, 0.0]  # 5, 1, 3 and 6 go on, as trials 8 to 11
    second = [0.5, 0.4, 0.7, 0.6]  # 10 and 11 go on, as trials 12 and 13
    rungs, winner = play(search, [*first, *second, 0.3, 0.4])
    assert len({t.candidate for t in rungs[0]}) == 8
    assert [[(t.index, t.rounds, t.start_from) for t in rung] for rung in rungs] == [
        [(i, 1, None) for i in range(8)],
        [(8, 2, 5), (9, 2, 1), (10, 2, 3), (11, 2, 6)],
        [(12, 4, 10), (13, 4, 11)],
    ]
    for trial in (*rungs[1], *rungs[2]):
        assert trial.candidate == [t for rung in rungs for t in rung][trial.start_from].candidate
    assert [sum(t.rounds for t in rung) for rung in rungs] == [8, 8, 8]
    assert winner == 13  # though earlier rungs had higher scores


def test_with_eta_three_a_third_goes_on_for_three_times_the_rounds(small_space):
    search = SuccessiveHalving(small_space, FREE, num_candidates=9, rounds=2, eta=3)
    rungs, winner = play(search, [i / 20 for i in range(12)])
    assert [[(t.rounds, t.start_from) for t in rung] for rung in rungs] == [
        [(2, None)] * 9,
        [(6, 8), (6, 7), (6, 6)],
    ]
    assert winner == 11


def test_of_equals_the_earliest_goes_on(small_space):
    rungs, _ = play(SuccessiveHalving(small_space, FREE, 4, 1), [0.5] * 6)
    assert [t.start_from for t in rungs[1]] == [0, 1]


def test_a_failed_candidate_is_out_and_a_rung_of_failures_leaves_the_one_before(small_space):
    search = SuccessiveHalving(small_space, FREE, 4, 1)
    rungs, _ = play(search, [0.9, 0.1, 0.2, 0.3, 0.0, 0.0], failed=(0,))
    assert [t.start_from for t in rungs[1]] == [3, 2]
    rungs, winner = play(search, [0.9, 0.1, 0.2, 0.3, 0.0, 0.0], failed=(4, 5))
    assert (len(rungs), winner) == (2, 0)


def test_a_single_candidate_is_trained_once_and_a_small_space_gives_all_it_has(small_space):
    rungs, winner = play(SuccessiveHalving(small_space, FREE, 1, 3), [0.2])
    assert ([[t.rounds for t in rung] for rung in rungs], winner) == ([[3]], 0)
    two = replace(small_space, max_stages=0, heads=("flatten",))  # 2 stems and 3 learning rates
    assert len(SuccessiveHalving(two, FREE, 50, 1).init(0).going) == 6


@pytest.mark.parametrize(("name", "least"), [("num_candidates", 1), ("rounds", 1), ("eta", 2)])
def test_settings_are_refused_by_name(small_space, name, least):
    settings = {"num_candidates": 4, "rounds": 1, "eta": 2, name: least - 1}
    with pytest.raises(ValueError, match=f"{name} must be >= {least}, got {least - 1}"):
        SuccessiveHalving(small_space, FREE, **settings)
