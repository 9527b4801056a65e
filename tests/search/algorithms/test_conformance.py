"""What holds for every search algorithm."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from search.algorithm import SearchAlgorithm, load_state, save_state
from search.algorithms import (
    ByRule,
    Feathers,
    FedEx,
    FedNas,
    MergedHalving,
    NestedRace,
    RandomSearch,
    RegularizedEvolution,
    SuccessiveHalving,
    random_pruning,
    uniform_width,
)
from search.algorithms.optuna_nsga2 import Nsga2
from search.algorithms.optuna_tpe import Tpe
from search.architecture import Architecture
from search.budget import Feasibility, InfeasibleError, Limits
from search.candidate import NOT_ASKED, Observation, Trial
from search.clients import Client
from search.options import HyperParameterOptions, StageOptions, StemOptions
from search.space import SearchSpace, Space

NUM_TRIALS = 14
CLIENTS = tuple(Client(f"client {i}", 10) for i in range(6))
DRAWING = {
    "random_search": lambda space, feasibility: RandomSearch(space, feasibility, NUM_TRIALS, rounds=3),
    "regularized_evolution": lambda space, feasibility: RegularizedEvolution(
        space, feasibility, NUM_TRIALS, rounds=3, population_size=5, tournament_size=2
    ),
    "nsga2": lambda space, feasibility: Nsga2(space, feasibility, NUM_TRIALS, rounds=3, population_size=4),
    "successive_halving": lambda space, feasibility: SuccessiveHalving(space, feasibility, num_candidates=8, rounds=1),
}
PRUNING = {
    "uniform_width": lambda space, feasibility: ByRule(space, feasibility, uniform_width, rounds=3),
    "random_pruning": lambda space, feasibility: ByRule(space, feasibility, random_pruning(0.1, 0.96), rounds=3),
    "fednas": lambda space, feasibility: FedNas(space, feasibility, CLIENTS, groups=3, keep=2),
    "nested_race": lambda space, feasibility: NestedRace(space, feasibility, CLIENTS, num_entrants=3, rounds=4),
}
TUNING = {
    "feathers": lambda space, feasibility: Feathers(
        space, feasibility, rounds=3, evaluation_rounds=2, num_configurations=5, gamma=1.0, period=2
    ),
    "fedex": lambda space, feasibility: FedEx(space, feasibility, CLIENTS, rounds=4, num_configurations=5),
    "nas_then_tuning": lambda space, feasibility: FedEx(
        space, feasibility, CLIENTS, 4, 5, "nas_then_tuning", space.hyper_parameters.sample(np.random.default_rng(0))
    ),
    "tuning_then_nas": lambda space, feasibility: FedEx(space, feasibility, CLIENTS, 4, 5, "tuning_then_nas"),
    "tuning": lambda space, feasibility: FedEx(space, feasibility, CLIENTS, 3, 5, "tuning"),
    "merged_halving": lambda space, feasibility: MergedHalving(
        space, feasibility, CLIENTS, num_candidates=6, num_networks=2, eta=2, num_drawn=8
    ),
}
CELL_DRAWING = {"tpe": lambda space, feasibility: Tpe(space, feasibility, NUM_TRIALS, rounds=3, num_random=4)}
MAKERS = DRAWING | PRUNING | TUNING | CELL_DRAWING
ONE_EACH = {"uniform_width": 1, "random_pruning": 1}  # trials of a control with one platform and nothing to tune
WIDE_SPACE = SearchSpace(
    input_shape=(1, 8, 8),
    num_classes=10,
    stem=StemOptions((24,)),
    stages=StageOptions(("depthwise",), (24,)),
    hyper_parameters=HyperParameterOptions((0.1,), local_steps=(1,)),
    max_stages=3,
    heads=("global_average",),
)


@pytest.fixture
def feasibility(make_profile) -> Feasibility:
    return Feasibility((make_profile("phone", "mid", 0.01),), {"mid": Limits(size_kib=3.0)}, 8)


@pytest.fixture(params=sorted(MAKERS))
def name(request) -> str:
    return request.param


@pytest.fixture
def space_of(small_space, cell_space) -> Callable[[str], Space]:
    def of(name: str) -> Space:
        if name in TUNING or name in CELL_DRAWING:
            return cell_space
        return small_space if name in DRAWING else WIDE_SPACE

    return of


@pytest.fixture
def algorithm(name, space_of, feasibility) -> SearchAlgorithm[Any]:
    if name in TUNING or name in CELL_DRAWING:
        feasibility = replace(feasibility, budgets={"mid": Limits(size_kib=6.5)})
    return MAKERS[name](space_of(name), feasibility)


def weights_of(network: Architecture) -> tuple[float, ...]:
    """Some architecture weights of a supernet; a network without a choice has none."""
    cells = [stage.cell for stage in network.stages if stage.cell is not None]
    sizes = [len(edge.operations) for cell in cells for node in cell.nodes for edge in node]
    return tuple(i % 7 / 7 for i in range(sum(size for size in sizes if size > 1)))


def observe(trials: Sequence[Trial]) -> list[Observation]:
    """Narrow networks and high learning rates are best; the sixth trial fails."""
    return [
        Observation(
            trial,
            accuracy=trial.candidate.hyper_parameters.learning_rate / trial.candidate.architecture.stem.width,
            failed="too few reports" if trial.index == 5 else "" if trial.is_scored else NOT_ASKED,
            metrics={trial.reward: trial.candidate.hyper_parameters.learning_rate} if trial.reward else {},
            num_rewarded=10,
            architecture_weights=weights_of(trial.candidate.architecture),
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


def test_a_seed_gives_one_search_and_another_seed_another_where_anything_is_drawn(algorithm, name):
    trials = run(algorithm, algorithm.init(0))
    assert run(algorithm, algorithm.init(0)) == trials
    assert (run(algorithm, algorithm.init(1)) == trials) == (name == "uniform_width")


@pytest.mark.parametrize("parallel", [1, 4, 100])
def test_a_search_ends_after_its_trials_numbered_in_order(algorithm, name, parallel):
    trials = run(algorithm, algorithm.init(0), parallel)
    assert [trial.index for trial in trials] == list(range(len(trials)))
    assert len(trials) == ONE_EACH.get(name, NUM_TRIALS if name in {*DRAWING, *CELL_DRAWING} else len(trials))
    assert {client for trial in trials for client in trial.clients or ()} <= {client.name for client in CLIENTS}


@pytest.mark.parametrize("name", sorted({*PRUNING, *TUNING, "successive_halving"}))
def test_a_search_in_stages_has_the_same_trials_however_many_are_asked_for_at_a_time(algorithm):
    assert run(algorithm, algorithm.init(0), 1) == run(algorithm, algorithm.init(0), 100)


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


def test_every_platform_ships_a_network_within_its_limits(algorithm):
    state = algorithm.init(0)
    observations: list[Observation] = []
    while trials := algorithm.ask(state, 4):
        told = observe(trials)
        observations += told
        state = algorithm.tell(state, told)
    winners = algorithm.winners(state, observations)
    assert set(winners) == {"phone"}
    assert observations[winners["phone"]].is_scored
    assert algorithm.feasibility.is_feasible(observations[winners["phone"]].trial.candidate.architecture)


@pytest.mark.parametrize("name", sorted({*DRAWING, *CELL_DRAWING, "merged_halving"}))
def test_no_candidate_is_infeasible_where_candidates_are_drawn(algorithm):
    trials = [trial for seed in range(5) for trial in run(algorithm, algorithm.init(seed))]
    assert all(algorithm.feasibility.is_feasible(trial.candidate.architecture) for trial in trials)
    assert all(trial.candidate in algorithm.space for trial in trials)


@pytest.mark.parametrize("kept", [slice(0, 2), slice(2, None), slice(0, 0), slice(1, None, 2)])
def test_a_search_that_loses_trials_goes_on_and_ends(algorithm, kept):
    state, told, asked = algorithm.init(0), [], 0
    while trials := algorithm.ask(state, 4):
        observations = observe(trials)[kept]
        told += [observation.trial.index for observation in observations]
        state = algorithm.tell(state, observations)
        asked = max(asked, trials[-1].index)
        assert len(told) <= asked + 1 < 200
    assert len(set(told)) == len(told)


def test_a_trial_is_told_once(algorithm):
    state = algorithm.init(0)
    observations = observe(algorithm.ask(state, 2))
    state = algorithm.tell(state, observations)
    with pytest.raises(ValueError, match="got trial 0 again"):
        algorithm.tell(state, observations)


def test_a_search_that_is_over_stays_over_when_told_of_nothing_and_takes_no_trial_again(algorithm):
    state, told = algorithm.init(0), []
    while trials := algorithm.ask(state, 4):
        told = observe(trials)
        state = algorithm.tell(state, told)
    over = algorithm.tell(state, ())
    assert algorithm.ask(over, 4) == ()
    for ended in (state, over):
        with pytest.raises(ValueError, match=rf"got trial {told[0].trial.index} again"):
            algorithm.tell(ended, told)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "tpe")) for name in sorted(MAKERS)]
)
def test_an_impossible_budget_is_an_error_and_not_a_loop(name, space_of, make_profile):
    feasibility = Feasibility((make_profile("slow-phone", "mid", 0.01),), {"default": Limits(latency_ms=0.25)}, 8)
    algorithm = MAKERS[name](space_of(name), feasibility)
    with pytest.raises(InfeasibleError, match=r"latency_ms=0\.25 on slow-phone"):
        run(algorithm, algorithm.init(0))


@pytest.mark.parametrize("name", ["feathers", "fedex", "nas_then_tuning", "tuning_then_nas", "tuning"])
def test_limits_that_the_smallest_network_breaks_are_refused_before_anybody_trains(name, space_of, make_profile):
    feasibility = Feasibility((make_profile("phone", "mid", 0.01),), {"default": Limits(size_kib=0.1)}, 8)
    with pytest.raises(InfeasibleError, match=r"of the smallest size_kib=0\.1 on phone needs .*; raise it"):
        MAKERS[name](space_of(name), feasibility).init(0)
