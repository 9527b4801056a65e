from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from search.algorithm import SearchAlgorithm
from search.algorithms import RandomSearch, RegularizedEvolution
from search.algorithms.regularized_evolution import EvolutionState
from search.budget import Feasibility, Limits
from search.candidate import Candidate, Observation, Trial
from search.space import SearchSpace

FREE = Feasibility((), {}, 8)


def told(candidates: Sequence[Candidate], accuracies: Sequence[float], start: int = 0) -> list[Observation]:
    pairs = zip(candidates, accuracies, strict=True)
    return [Observation(Trial(start + i, candidate, 1), accuracy) for i, (candidate, accuracy) in enumerate(pairs)]


def are_neighbours(space: SearchSpace, one: Candidate, other: Candidate) -> bool:
    rng = np.random.default_rng(0)
    return any(space.mutate(one, rng) == other for _ in range(300))


def best_found(algorithm: SearchAlgorithm[Any], objective: Callable[[Candidate], float], seed: int) -> float:
    state, best = algorithm.init(seed), -np.inf
    while trials := algorithm.ask(state, 4):
        observations = [Observation(trial, objective(trial.candidate)) for trial in trials]
        best = max(best, *(observation.accuracy for observation in observations))
        state = algorithm.tell(state, observations)
    return best


def closeness(candidate: Candidate) -> float:
    """0 at best: two inverted stages of widths 32 and 8 behind the widest stem, trained at 0.4 with momentum 0.9."""
    network, training = candidate.architecture, candidate.hyper_parameters
    widths = [*(stage.width for stage in network.stages), 0, 0, 0][:3]
    distance = sum(abs(width - wanted) / 8 for width, wanted in zip(widths, (32, 8, 0), strict=True))
    distance += sum(stage.kind != "inverted" for stage in network.stages) + (network.stem.width != 16)
    distance += abs(np.log2(training.learning_rate / 0.4)) + (training.momentum != 0.9)
    return -float(distance)


def test_evolution_beats_random_search_on_a_smooth_objective(large_space):
    evolution = RegularizedEvolution(large_space, FREE, 200, 1, population_size=20, tournament_size=5)
    random_search = RandomSearch(large_space, FREE, 200, 1)
    gains = [best_found(evolution, closeness, seed) - best_found(random_search, closeness, seed) for seed in range(8)]
    assert np.mean(gains) > 0.5


def test_the_oldest_is_forgotten_even_if_it_is_the_best(small_space):
    evolution = RegularizedEvolution(small_space, FREE, 100, 1, population_size=3, tournament_size=1)
    candidates = list(small_space.enumerate_candidates())[:5]
    state = evolution.tell(evolution.init(0), told(candidates[:3], [0.9, 0.1, 0.2]))
    state = evolution.tell(state, told(candidates[3:], [0.0, 0.3], start=3))
    assert [observation.trial.index for observation in state.population] == [2, 3, 4]
    assert state.step == 2


def test_the_population_is_drawn_at_random_until_it_is_full(large_space):
    evolution = RegularizedEvolution(large_space, FREE, 100, 1, population_size=6, tournament_size=6)
    state = evolution.init(0)
    first = evolution.ask(state, 5)
    state = evolution.tell(state, told([trial.candidate for trial in first], [0.1] * 5))
    drawn = [trial.candidate for trial in evolution.ask(state, 20)]
    assert len({len(candidate.architecture.stages) for candidate in drawn}) == 4  # no neighbours of five parents
    assert len(set(drawn)) == 20


def test_the_best_of_the_tournament_is_the_parent(large_space):
    evolution = RegularizedEvolution(large_space, FREE, 100, 1, population_size=4, tournament_size=4)
    parents = [large_space.sample(np.random.default_rng(i)) for i in range(4)]
    state = evolution.tell(evolution.init(0), told(parents, [0.1, 0.2, 0.8, 0.3]))
    children = [trial.candidate for trial in evolution.ask(state, 5)]
    assert parents[2] not in children
    assert all(are_neighbours(large_space, child, parents[2]) for child in children)


def test_a_tournament_of_one_is_a_random_walk_that_no_accuracy_steers(large_space):
    evolution = RegularizedEvolution(large_space, FREE, 100, 1, population_size=4, tournament_size=1)
    parents = [large_space.sample(np.random.default_rng(i)) for i in range(4)]
    states = [
        evolution.tell(evolution.init(0), told(parents, accuracies))
        for accuracies in ([0.9, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.9])
    ]
    children = [[trial.candidate for trial in evolution.ask(state, 40)] for state in states]
    assert children[0] == children[1]
    stage_counts = {len(parent.architecture.stages) for parent in parents}
    assert len(stage_counts) > 1  # the parents can be told apart
    reached = [parent for parent in parents if any(are_neighbours(large_space, parent, c) for c in children[0])]
    assert reached == parents


def test_failed_trials_are_spent_and_never_parents(small_space):
    evolution = RegularizedEvolution(small_space, FREE, 100, 1, population_size=3, tournament_size=1)
    observations = told(list(small_space.enumerate_candidates())[:3], [0.1, 0.9, 0.2])
    observations[1] = replace(observations[1], failed="too few reports")
    state = evolution.tell(evolution.init(0), observations)
    assert [observation.trial.index for observation in state.population] == [0, 2]
    assert state.num_told == 3


def test_where_no_neighbour_is_feasible_the_search_begins_elsewhere(small_space, make_profile):
    # Only the one smallest network fits, and one learning rate leaves it no neighbour.
    options = replace(small_space.hyper_parameters, learning_rate=(0.1,))
    space = replace(small_space, hyper_parameters=options)
    feasibility = Feasibility((make_profile("phone", "mid", 1.0),), {"default": Limits(size_kib=0.36)}, 8)
    feasible = [c for c in space.enumerate_candidates() if feasibility.is_feasible(c.architecture)]
    assert [candidate.architecture for candidate in feasible] == [space.smallest()]
    evolution = RegularizedEvolution(space, feasibility, 6, 1, population_size=2, tournament_size=2)
    state = evolution.init(0)
    for _ in range(3):
        trials = evolution.ask(state, 2)
        assert [trial.candidate for trial in trials] == feasible * 2
        state = evolution.tell(state, told(feasible * 2, [0.1, 0.2], start=trials[0].index))


@pytest.mark.parametrize(("population_size", "tournament_size"), list(product([3], [0, 4])))
def test_a_tournament_that_does_not_fit_the_population_is_refused(small_space, population_size, tournament_size):
    with pytest.raises(ValueError, match=f"tournament_size must be >= 1 and <= .* = 3, got {tournament_size}"):
        RegularizedEvolution(small_space, FREE, 10, 1, population_size, tournament_size)


def test_the_first_state_holds_the_seed_alone(small_space):
    assert RegularizedEvolution(small_space, FREE, 1, 1).init(7) == EvolutionState(seed=7)
