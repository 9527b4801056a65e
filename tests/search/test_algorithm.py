import pytest

from profiles.records import RecordError
from search.algorithm import load_state, next_index, save_state, sort_told, told_by_index
from search.algorithms import RandomSearch, RegularizedEvolution
from search.architecture import Architecture, Stem
from search.budget import Feasibility
from search.candidate import Candidate, HyperParameters, Observation, Trial

CANDIDATE = Candidate(Architecture((1, 8, 8), 10, Stem(4)), HyperParameters(0.1))
FREE = Feasibility((), {}, 8)


def told(*indices: int) -> list[Observation]:
    return [Observation(Trial(index, CANDIDATE, 1), 0.5) for index in indices]


def test_observations_are_put_in_the_order_of_their_trials():
    assert [o.trial.index for o in sort_told(told(5, 3, 4), num_told=3)] == [3, 4, 5]


@pytest.mark.parametrize(("indices", "num_told", "again"), [((3, 3), 0, 3), ((2, 4), 3, 2)])
def test_a_trial_that_is_told_twice_is_refused_by_its_number(indices, num_told, again):
    with pytest.raises(ValueError, match=f"got trial {again} again"):
        sort_told(told(*indices), num_told)


@pytest.mark.parametrize(("indices", "following"), [((3, 4), 5), ((5,), 6), ((), 4)])
def test_the_next_trial_comes_after_the_last_told_and_after_nothing_one_later(indices, following):
    assert next_index(told(*indices), num_told=3) == following


def test_what_came_of_a_stage_has_a_place_for_every_trial_up_to_the_last_told():
    first, third = told(4, 6)
    assert told_by_index([third, first], begin=4, end=9) == {4: first, 5: None, 6: third}
    assert told_by_index([], begin=4, end=9) == {4: None}
    assert told_by_index([], begin=4, end=4) == {}


@pytest.mark.parametrize(("begin", "asked"), [(3, "trials 3 to 5 were"), (6, "the search is over and nothing was")])
def test_a_trial_that_was_not_asked_for_is_refused_with_those_that_were(begin, asked):
    with pytest.raises(ValueError, match=f"asked for can be told: {asked}, got trial 6"):
        told_by_index(told(6), begin, end=6)


def test_a_state_of_another_algorithm_is_refused(small_space):
    search = RandomSearch(small_space, FREE, num_trials=2, rounds=1)
    evolution = RegularizedEvolution(small_space, FREE, num_trials=2, rounds=1)
    with pytest.raises(RecordError, match="EvolutionState has an unknown key 'seen'"):
        load_state(evolution, save_state(search.init(0)))
