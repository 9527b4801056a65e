from dataclasses import replace

import pytest

from search.algorithms import RandomSearch
from search.algorithms.random_search import RandomState
from search.budget import Feasibility, Limits
from search.candidate import Observation, Trial

FREE = Feasibility((), {}, 8)


def observe(trials: tuple[Trial, ...]) -> list[Observation]:
    return [Observation(trial, 0.5) for trial in trials]


def run(search: RandomSearch, parallel: int) -> list[Trial]:
    state, asked = search.init(0), []
    while trials := search.ask(state, parallel):
        asked += trials
        state = search.tell(state, observe(trials))
    return asked


@pytest.mark.parametrize("parallel", [1, 7, 100])
def test_every_candidate_of_a_small_space_is_asked_for_once_and_then_the_search_is_over(small_space, parallel):
    trials = run(RandomSearch(small_space, FREE, num_trials=100, rounds=1), parallel)
    assert len(trials) == small_space.size()
    assert {trial.candidate for trial in trials} == set(small_space.enumerate_candidates())


def test_every_feasible_candidate_of_a_small_space_is_asked_for_and_no_other(small_space, make_profile):
    feasibility = Feasibility((make_profile("phone", "mid", 1.0),), {"default": Limits(size_kib=3.0)}, 8)
    trials = run(RandomSearch(small_space, feasibility, num_trials=100, rounds=1), 7)
    candidates = small_space.enumerate_candidates()
    feasible = {candidate for candidate in candidates if feasibility.is_feasible(candidate.architecture)}
    assert {trial.candidate for trial in trials} == feasible
    assert len(trials) == len(feasible) < small_space.size()


def test_a_large_space_is_not_looked_through(large_space):
    search = RandomSearch(large_space, FREE, num_trials=300, rounds=1)
    assert len({trial.candidate for trial in run(search, 50)}) == 300


def test_a_large_space_in_which_nothing_new_is_drawn_ends_the_search(small_space, make_profile, monkeypatch):
    monkeypatch.setattr("search.algorithms.random_search._SMALL_SPACE", 10)
    trials = run(RandomSearch(small_space, FREE, num_trials=100, rounds=1), 10)
    assert len({trial.candidate for trial in trials}) == len(trials) <= small_space.size()


def test_a_lost_candidate_may_be_asked_for_again_and_a_failed_one_is_not(small_space):
    space = replace(small_space, max_stages=0, heads=("flatten",))  # 2 stems and 3 learning rates
    search = RandomSearch(space, FREE, num_trials=100, rounds=1)
    state = search.init(0)
    trials = search.ask(state, 100)
    assert len(trials) == 6
    failed = Observation(trials[0], 0.0, failed="too few reports")
    state = search.tell(state, [failed, *observe(trials[2:])])  # of the second nothing is known
    assert [trial.candidate for trial in search.ask(state, 100)] == [trials[1].candidate]


def test_the_first_state_holds_the_seed_alone(small_space):
    assert RandomSearch(small_space, FREE, 1, 1).init(7) == RandomState(seed=7)
