"""Parts of one supernet: which networks may enter, and with which weights a race that was over early ships."""

from dataclasses import replace

import pytest

from search.algorithms import NestedRace
from search.algorithms.nested_race_entrants import entrants
from search.budget import Feasibility, InfeasibleError, Limits
from search.candidate import Observation
from search.clients import Client
from search.options import HyperParameterOptions, StageOptions, StemOptions
from search.slicing import is_part
from search.space import SearchSpace

SPACE = SearchSpace(
    input_shape=(1, 16, 16),
    num_classes=10,
    stem=StemOptions((32,)),
    stages=StageOptions(("depthwise",), (32,), strides=(2,)),
    hyper_parameters=HyperParameterOptions((0.1,), local_steps=(1,)),
    max_stages=3,
    heads=("flatten",),
)
AVERAGED = replace(SPACE, heads=("global_average",))
CLIENTS = tuple(Client(f"{i:02}", 10, f"{'mid' if i % 2 else 'entry'} phone") for i in range(12))


def test_a_classifier_of_positions_allows_only_networks_with_the_same_positions(make_profile):
    limits = Feasibility((make_profile("phone", "mid", 0.01),), {"mid": Limits(size_kib=6.0)}, 8)
    assert [len(network.stages) for network in entrants(SPACE, limits, 10)] == [3]
    assert sorted(len(network.stages) for network in entrants(AVERAGED, limits, 10)) == [0, 1, 2, 3]
    assert all(is_part(AVERAGED.largest(), network) for network in entrants(AVERAGED, limits, 10))


def test_limits_that_no_network_with_these_positions_meets_are_told(make_profile):
    limits = Feasibility((make_profile("phone", "mid", 0.01),), {"mid": Limits(size_kib=0.5)}, 8)
    with pytest.raises(InfeasibleError, match=r"every width 4 the network breaks size_kib=0\.5 on phone needs"):
        entrants(SPACE, limits, 4)


def test_a_race_that_is_over_early_ships_the_weights_that_the_others_left(make_profile):
    """The race of entry phones has one network whatever happens, that of mid phones several until the end."""
    phones = tuple(make_profile(f"{name} phone", name, 0.01) for name in ("entry", "mid"))
    limits = {"entry": Limits(size_kib=0.5), "mid": Limits(size_kib=6.0)}
    search = NestedRace(AVERAGED, Feasibility(phones, limits, 8), CLIENTS, rounds=4)
    state, trials = search.init(0), []
    assert [len(state.races[name]) for name in ("entry phone", "mid phone")] == [1, 4]
    while asked := search.ask(state, 100):
        trials += asked
        state = search.tell(state, [Observation(trial, 0.5, num_examples=100) for trial in asked])
    last_training = max(trial.index for trial in trials if trial.rounds)
    winners = search.winners(state, ())
    assert all(winner > last_training for winner in winners.values())
    scored = [trial for trial in trials if trial.index == winners["entry phone"]]
    assert set(scored[0].clients) <= {client.name for client in CLIENTS if client.profile == "entry phone"}
    assert sum(trial.candidate == scored[0].candidate and not trial.rounds for trial in trials) == 2
