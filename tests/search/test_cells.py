"""Networks read off architecture weights: against an example worked by hand, and against trying every network."""

from dataclasses import replace
from itertools import islice
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search import cells
from search.architecture import Architecture, Cell, Edge
from search.budget import Feasibility, InfeasibleError, Limits
from search.cell_space import CellSpace
from search.cells import found_network, found_within, probabilities
from search.cost import cost_of
from search.options import HyperParameterOptions

SPACE = CellSpace(
    input_shape=(1, 6, 6),
    num_classes=3,
    operations=("none", "skip", "conv_3"),
    nodes=2,
    width=4,
    strides=(1,),
    hyper_parameters=HyperParameterOptions((0.1,)),
)
NUM_WEIGHTS = 5 * 3
EVERY = [candidate.architecture for candidate in SPACE.enumerate_candidates()]
weights = st.lists(st.floats(-3, 3), min_size=NUM_WEIGHTS, max_size=NUM_WEIGHTS)


def likelihood(network: Architecture, architecture_weights: list[float], space: CellSpace = SPACE) -> float:
    """Product of the probabilities of all the network's operations."""
    by_edge = {
        (one.stage, one.node, one.source): one.operations
        for one in probabilities(space.supernet(), architecture_weights)
    }
    return prod(
        by_edge[stage, node, edge.source][edge.operations[0]]
        for stage, found in enumerate(network.stages)
        for node, edges in enumerate(found.cell.nodes)
        for edge in edges
    )


def test_a_found_cell_is_the_one_worked_out_by_hand():
    # exp of the weights are odds: of none, skip and conv_3.
    odds = [
        [8, 1, 1],  # node 0 from input 0: none is likeliest and never kept; the first of equals is
        [1, 1, 2],  # node 0 from input 1
        [1, 6, 3],  # node 1 from input 0: skip, 60%
        [2, 3, 5],  # node 1 from input 1: conv_3, 50%, the third
        [1, 2, 7],  # node 1 from node 0: conv_3, 70%
    ]
    found = found_network(SPACE, np.log(odds).ravel().tolist())
    assert found.stages[0].cell == Cell(
        ((Edge(0, ("skip",)), Edge(1, ("conv_3",))), (Edge(0, ("skip",)), Edge(2, ("conv_3",))))
    )
    told = probabilities(SPACE.supernet(), np.log(odds).ravel().tolist())
    assert [(one.stage, one.node, one.source) for one in told] == [
        (0, 0, 0),
        (0, 0, 1),
        (0, 1, 0),
        (0, 1, 1),
        (0, 1, 2),
    ]
    assert told[0].operations == pytest.approx({"none": 0.8, "skip": 0.1, "conv_3": 0.1})
    assert told[4].operations == pytest.approx({"none": 0.1, "skip": 0.2, "conv_3": 0.7})


def test_undecided_weights_give_the_first_edges_and_operations():
    found = found_network(SPACE, [0.0] * NUM_WEIGHTS)
    assert {edge for edges in found.stages[0].cell.nodes for edge in edges} == {Edge(0, ("skip",)), Edge(1, ("skip",))}


def test_each_stage_reads_its_own_weights_in_layout_order():
    space = replace(SPACE, strides=(1, 2), nodes=1, depth=2)
    drawn = np.random.default_rng(0).normal(size=2 * 2 * 3)
    for stage in (0, 1):
        alone = found_network(replace(space, strides=(1,)), drawn[6 * stage : 6 * stage + 6])
        assert found_network(space, drawn).stages[stage].cell == alone.stages[0].cell


@given(weights)
def test_each_edge_keeps_its_likeliest_operation_and_each_node_its_likeliest_edges(architecture_weights):
    (stage,) = found_network(SPACE, architecture_weights).stages
    strength = {
        (one.node, one.source): max(share for name, share in one.operations.items() if name != "none")
        for one in probabilities(SPACE.supernet(), architecture_weights)
    }
    for node, edges in enumerate(stage.cell.nodes):
        kept = [strength[node, edge.source] for edge in edges]
        assert sorted(kept) == pytest.approx(sorted(strength[node, source] for source in range(2 + node))[-2:])
    best = likelihood(found_network(SPACE, architecture_weights), architecture_weights)
    assert best == pytest.approx(max(likelihood(network, architecture_weights) for network in EVERY))


@given(weights, st.sets(st.sampled_from(EVERY), min_size=1))
def test_the_likeliest_feasible_network_is_found(architecture_weights, feasible):
    found = found_within(SPACE, architecture_weights, lambda network: network not in feasible)
    assert found in feasible
    best = max(likelihood(network, architecture_weights) for network in feasible)
    assert likelihood(found, architecture_weights) == pytest.approx(best, rel=1e-12)


def test_every_network_comes_once_and_none_before_a_likelier_one():
    space = replace(SPACE, strides=(1, 2))
    drawn = np.random.default_rng(1).normal(size=2 * NUM_WEIGHTS).tolist()
    networks = list(cells._likeliest_first(space, drawn))
    assert len(networks) == len(set(networks)) == space.size()
    likelihoods = np.array([likelihood(network, drawn, space) for network in networks[:300]])
    assert (np.diff(likelihoods) <= 1e-12 * likelihoods[:-1]).all()


def test_a_large_space_is_not_listed():
    operations = ("none", "skip", "average_pool", "max_pool", "conv_1", "conv_3", "separable_3", "separable_5")
    space = replace(SPACE, operations=operations, nodes=4, strides=(1, 2))
    drawn = np.random.default_rng(0).normal(size=2 * 14 * 8).tolist()
    first = list(islice(cells._likeliest_first(space, drawn), 20))
    assert found_within(space, drawn, lambda network: network != first[-1]) == first[-1]


def test_weights_far_apart_still_have_an_order():
    far = [0.0, -2000.0, -3000.0] * 5
    found = found_within(SPACE, far, lambda network: any(edge.operations != ("conv_3",) for edge in _edges(network)))
    assert len(_edges(found)) == 4


def _edges(network: Architecture) -> list[Edge]:
    return [edge for edges in network.stages[0].cell.nodes for edge in edges]


def test_one_operation_leaves_no_weights_and_one_way_for_each_edge():
    space = replace(SPACE, operations=("skip",))
    assert probabilities(space.supernet(), ())[0].operations == {"skip": 1.0}
    assert [edge.source for edge in _edges(found_network(space, ()))] == [0, 1, 0, 1]


def test_limits_that_only_the_smallest_network_meets_are_met_by_it(monkeypatch):
    monkeypatch.setattr(cells, "_MOST_TRIED", 10)
    dear = [0.0, 0.0, 5.0] * 5
    assert found_within(SPACE, dear, lambda network: network != SPACE.smallest()) == SPACE.smallest()
    with pytest.raises(InfeasibleError, match=r"none of the supernet's 10 likeliest networks .*: raise a budget"):
        found_within(SPACE, dear, lambda network: 1.0)


def test_a_descent_swaps_what_saves_most_for_its_probability(monkeypatch):
    monkeypatch.setattr(cells, "_MOST_TRIED", 1)
    rows = [[0.0, 0.0, 5.0], [0.0, 0.0, 4.0], [0.0, 0.0, 5.0], [0.0, 2.0, 2.5], [-9.0, -9.0, -9.0]]
    found = found_within(SPACE, np.ravel(rows).tolist(), lambda network: max(0, _num_convolutions(network) - 2))
    assert [edge.operations[0] for edge in _edges(found)] == ["conv_3", "skip", "conv_3", "skip"]


def _num_convolutions(network: Architecture) -> int:
    return [edge.operations for edge in _edges(network)].count(("conv_3",))


@pytest.mark.parametrize("nodes", [2, 3])
@pytest.mark.parametrize("share", [0.02, 0.3])
def test_a_network_is_found_wherever_the_smallest_meets_the_limits(monkeypatch, make_profile, nodes, share):
    """Weights that favour the dearest operation everywhere, so that thousands of the likeliest break the limit."""
    monkeypatch.setattr(cells, "_MOST_TRIED", 20)
    operations = ("skip", "average_pool", "max_pool", "conv_1", "separable_3", "conv_3", "none")
    space = CellSpace((1, 8, 8), 10, operations, nodes, 4, (1, 2), HyperParameterOptions((0.1,)))
    phone = make_profile("phone", "mid", 0.01)
    least, most = (cost_of(one, phone, 8).latency_ms for one in (space.smallest(), space.largest()))
    limits = Feasibility((phone,), {"mid": Limits(latency_ms=least + share * (most - least))}, 8)
    drawn = np.random.default_rng(0).normal(0, 0.05, (2 * sum(2 + node for node in range(nodes)), 7))
    drawn[:, 5] += 0.2
    found = found_within(space, drawn.ravel().tolist(), limits.overshoot)
    assert limits.is_feasible(found)
    assert likelihood(found, drawn.ravel().tolist(), space) > likelihood(
        space.smallest(), drawn.ravel().tolist(), space
    )
    only = Feasibility((phone,), {"mid": Limits(latency_ms=least)}, 8)
    assert only.is_feasible(found_within(space, drawn.ravel().tolist(), only.overshoot))


@pytest.mark.parametrize("wrong", [[0.0] * 14, [0.0] * 16, [float("nan")] * 15, [[0.0] * 3] * 5])
def test_weights_that_are_not_the_supernets_are_refused(wrong):
    with pytest.raises(ValueError, match="architecture_weights must be 15 finite numbers, one for each operation"):
        found_network(SPACE, wrong)
