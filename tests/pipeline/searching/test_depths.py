"""Networks of another depth than their supernet's, which are no part of it: none may fail once all have trained."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.searching.loop import _places
from search.algorithms import Feathers, FedEx, MergedHalving
from search.architecture import Architecture
from search.budget import Feasibility
from search.candidate import NOT_ASKED, Observation
from search.cell_space import CellSpace
from search.clients import Client
from search.layers import num_parameters
from search.options import HyperParameterOptions

FREE = Feasibility((), {}, 8)
CLIENTS = tuple(Client(f"client {i}", 10) for i in range(6))
HYPER = HyperParameterOptions((0.1, 0.2, 0.3), local_steps=(1,), architecture_learning_rate=(0.1,))
SPACE = CellSpace((1, 6, 6), 3, ("skip", "conv_1", "none"), 1, 4, (1,), HYPER, depth=1, final_depth=2)
SEARCHES = {
    "feathers": lambda space: Feathers(space, FREE, 2, num_configurations=2),
    "fedex": lambda space: FedEx(space, FREE, CLIENTS, 2, 2),
    "merged_halving": lambda space: MergedHalving(space, FREE, CLIENTS, 4, 2, eta=2, num_drawn=8),
}


def weights_of(network: Architecture) -> tuple[float, ...]:
    return (0.0, 0.5, 0.25) * 2 if network.is_supernet else ()


def play(search):
    state, asked = search.init(0), []
    while trials := search.ask(state, 100):
        told = [
            Observation(
                trial,
                trial.candidate.hyper_parameters.learning_rate,
                metrics={trial.reward: 0.1} if trial.reward else {},
                num_rewarded=10,
                architecture_weights=weights_of(trial.candidate.architecture),
                failed="" if trial.is_scored else NOT_ASKED,
            )
            for trial in trials
        ]
        state = search.tell(state, told)
        asked += trials
    return asked


@pytest.mark.parametrize("depths", [(1, 2), (2, 1), (2, 2)])
@pytest.mark.parametrize("name", SEARCHES)
def test_every_trial_has_a_place_in_the_weights_that_it_starts_from(name, depths):
    space = replace(SPACE, depth=depths[0], final_depth=depths[1])
    trials = play(SEARCHES[name](space))
    for trial in trials:
        network = trial.candidate.architecture
        if trial.supernet is not None:
            positions = _places(trial.supernet, network)
            held = np.arange(num_parameters(trial.supernet))[positions]
            assert len(np.unique(held)) == num_parameters(network)
    assert {stage.depth for stage in trials[-1].candidate.architecture.stages} == {depths[1]}


@pytest.mark.parametrize("name", ["feathers", "fedex"])
def test_a_found_network_that_is_no_part_of_its_supernet_starts_from_fresh_weights(name):
    named = play(SEARCHES[name](SPACE))[-1]
    assert named.supernet == named.candidate.architecture
    shared = play(SEARCHES[name](replace(SPACE, final_depth=1)))[-1]
    assert shared.supernet == SPACE.supernet()


def test_pairs_of_another_depth_are_merged_in_a_supernet_of_their_own():
    trials = play(SEARCHES["merged_halving"](SPACE))
    merged = [trial for trial in trials if trial.merged]
    assert {trial.supernet for trial in merged} == {SPACE.final_supernet()}
    assert {trial.rounds for trial in merged} == {2, 0}
