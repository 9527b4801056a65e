"""What holds for every search algorithm."""

from collections.abc import Sequence
from typing import Any

import pytest

from search.algorithm import SearchAlgorithm, load_state, save_state
from search.algorithms import RandomSearch, RegularizedEvolution
from search.budget import Feasibility, InfeasibleError, Limits
from search.candidate import Observation, Trial

NUM_TRIALS = 14
MAKERS = {
    "random_search": lambda space, feasibility: RandomSearch(space, feasibility, NUM_TRIALS, rounds=3),
    "regularized_evolution": lambda space, feasibility: RegularizedEvolution(
        space, feasibility, NUM_TRIALS, rounds=3, population_size=5, tournament_size=2
    ),
}


@pytest.fixture
def feasibility(make_profile) -> Feasibility:
    return Feasibility((make_profile("phone", "mid", 0.01),), {"mid": Limits(size_kib=3.0)}, 8)


@pytest.fixture(params=sorted(MAKERS))
def algorithm(request, small_space, feasibility) -> SearchAlgorithm[Any]:
    return MAKERS[request.param](small_space, feasibility)


def observe(trials: Sequence[Trial]) -> list[Observation]:
    """Narrow networks and high learning rates are best; the sixth trial fails."""
    return [
        Observation(
            trial,
            accuracy=trial.candidate.hyper_parameters.learning_rate / trial.candidate.architecture.stem.width,
            failed="too few reports" if trial.index == 5 else "",
        )
        for trial in trials
    ]


def run(algorithm: SearchAlgorithm[Any], state: Any, parallel: int = 4) -> list[Trial]:
    """All trials from a state on."""
    asked: list[Trial] = []
    while trials := algorithm.ask(state, parallel):
        asked += trials
        state = algorithm.tell(state, observe(trials))
    return asked


def test_a_seed_gives_one_search_and_another_seed_another(algorithm):
    trials = run(algorithm, algorithm.init(0))
    assert run(algorithm, algorithm.init(0)) == trials
    assert run(algorithm, algorithm.init(1)) != trials


@pytest.mark.parametrize("parallel", [1, 4, 100])
def test_a_search_ends_after_its_trials_numbered_in_order(algorithm, parallel):
    trials = run(algorithm, algorithm.init(0), parallel)
    assert [trial.index for trial in trials] == list(range(NUM_TRIALS))
    assert {(trial.rounds, trial.start_from, trial.clients) for trial in trials} == {(3, None, None)}


def test_asking_changes_nothing_and_asking_for_fewer_gives_the_first_of_them(algorithm):
    state = algorithm.init(0)
    for _ in range(3):
        saved = save_state(state)
        trials = algorithm.ask(state, 4)
        assert algorithm.ask(state, 4) == trials
        assert algorithm.ask(state, 2) == trials[:2]
        assert algorithm.ask(state, 0) == ()
        assert save_state(state) == saved
        state = algorithm.tell(state, observe(trials))


def test_telling_leaves_the_state_before_as_it_was(algorithm):
    state = algorithm.init(0)
    saved = save_state(state)
    algorithm.tell(state, observe(algorithm.ask(state, 4)))
    assert save_state(state) == saved


def test_a_search_that_stops_after_any_step_continues_from_its_saved_state(algorithm):
    state = algorithm.init(3)
    while trials := algorithm.ask(state, 3):
        state = algorithm.tell(state, observe(trials))
        restored = load_state(algorithm, save_state(state))
        assert restored == state
        assert run(algorithm, restored, 3) == run(algorithm, state, 3)


def test_the_order_of_observations_changes_nothing(algorithm):
    state = algorithm.init(0)
    observations = observe(algorithm.ask(state, 6))
    assert algorithm.tell(state, observations) == algorithm.tell(state, observations[::-1])


def test_no_candidate_is_infeasible(algorithm, small_space, feasibility):
    trials = [trial for seed in range(5) for trial in run(algorithm, algorithm.init(seed))]
    assert all(feasibility.is_feasible(trial.candidate.architecture) for trial in trials)
    assert all(trial.candidate in small_space for trial in trials)


@pytest.mark.parametrize("kept", [slice(0, 2), slice(2, None), slice(0, 0), slice(1, None, 2)])
def test_a_search_that_loses_trials_goes_on_and_ends(algorithm, kept):
    state, told = algorithm.init(0), []
    for _ in range(NUM_TRIALS):
        observations = observe(algorithm.ask(state, 4))[kept]
        told += [observation.trial.index for observation in observations]
        state = algorithm.tell(state, observations)
    assert algorithm.ask(state, 4) == ()
    assert len(set(told)) == len(told)
    assert max(told, default=0) < NUM_TRIALS


def test_a_trial_is_told_once(algorithm):
    state = algorithm.init(0)
    observations = observe(algorithm.ask(state, 2))
    state = algorithm.tell(state, observations)
    with pytest.raises(ValueError, match="got trial 0 again"):
        algorithm.tell(state, observations)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_an_impossible_budget_is_an_error_and_not_a_loop(name, small_space, make_profile):
    feasibility = Feasibility((make_profile("slow-phone", "mid", 0.01),), {"default": Limits(latency_ms=0.25)}, 8)
    algorithm = MAKERS[name](small_space, feasibility)
    with pytest.raises(InfeasibleError, match=r"no candidate met budget latency_ms=0.25 on slow-phone in 1000 draws"):
        algorithm.ask(algorithm.init(0), 1)
