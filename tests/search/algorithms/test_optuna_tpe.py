"""TPE: what it makes of what it was told; Optuna's densities are its own."""

import numpy as np
import pytest

from search.algorithms.optuna_tpe import Tpe
from search.budget import Feasibility
from search.candidate import Observation

FREE = Feasibility((), {}, 8)


def test_genes_make_the_candidate_that_they_were_read_from(cell_space):
    search, rng = Tpe(cell_space, FREE, 20, 1), np.random.default_rng(0)
    for _ in range(50):
        candidate = cell_space.sample(rng)
        assert search._candidate(search._genes(candidate)) == candidate


def test_after_the_random_ones_it_draws_near_the_best_learning_rates(cell_space):
    search = Tpe(cell_space, FREE, 40, 1, num_random=10)
    state, rates = search.init(0), []
    while trials := search.ask(state, 2):
        rates += [trial.candidate.hyper_parameters.learning_rate for trial in trials]
        told = [Observation(t, 1 - abs(t.candidate.hyper_parameters.learning_rate - 0.8)) for t in trials]
        state = search.tell(state, told)
    assert len(rates) == 40
    assert np.mean(np.abs(np.array(rates[-15:]) - 0.8)) < 0.5 * np.mean(np.abs(np.array(rates[:10]) - 0.8))


def test_a_failed_candidate_counts_as_useless(cell_space):
    search = Tpe(cell_space, FREE, 20, 1)
    state = search.init(0)
    trials = search.ask(state, 2)
    state = search.tell(state, [Observation(trials[0], 0.7), Observation(trials[1], 0.0, failed="diverged")])
    assert [point.accuracy for point in state.points] == [0.7, 0.0]


def test_so_many_random_ones_that_nothing_is_learnt_are_refused(cell_space):
    with pytest.raises(ValueError, match="num_random must be >= 1 and < trials = 10, got 10"):
        Tpe(cell_space, FREE, 10, 1)
