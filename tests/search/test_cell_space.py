from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.records import decode_record, encode_record
from search.algorithms import RandomSearch, RegularizedEvolution, SuccessiveHalving
from search.architecture import Architecture, Cell, Edge, Stage, Stem
from search.budget import Feasibility
from search.candidate import Candidate, Observation
from search.cell_space import CellSpace
from search.layers import layers_of, num_parameters
from search.options import HyperParameterOptions

SMALL = CellSpace(
    input_shape=(1, 6, 6),
    num_classes=3,
    operations=("none", "skip", "conv_3"),
    nodes=2,
    width=4,
    strides=(1,),
    hyper_parameters=HyperParameterOptions((0.1, 0.3, 1.0)),
)
LARGE = replace(
    SMALL,
    operations=("none", "skip", "average_pool", "max_pool", "conv_1", "conv_3", "separable_3", "separable_5"),
    nodes=4,
    strides=(1, 2),
    depth=2,
    final_depth=3,
)
FREE = Feasibility((), {}, 8)


@st.composite
def draw_space(draw) -> CellSpace:
    operations = st.lists(st.sampled_from(LARGE.operations), min_size=1, max_size=4, unique=True)
    return CellSpace(
        input_shape=(draw(st.sampled_from([1, 3])), draw(st.integers(1, 9)), draw(st.integers(1, 9))),
        num_classes=draw(st.integers(2, 5)),
        operations=tuple(draw(operations.filter(lambda drawn: drawn != ["none"]))),
        nodes=draw(st.integers(1, 3)),
        width=draw(st.integers(1, 8)),
        strides=tuple(draw(st.lists(st.integers(1, 2), min_size=1, max_size=2))),
        hyper_parameters=draw(st.sampled_from([SMALL.hyper_parameters, HyperParameterOptions((0.1,))])),
        depth=draw(st.integers(1, 2)),
        final_depth=draw(st.integers(1, 3)),
        edges_kept=draw(st.integers(1, 2)),
        head=draw(st.sampled_from(["flatten", "global_average"])),
        normalization=draw(st.sampled_from(["none", "group"])),
        activation=draw(st.sampled_from(["relu", "hard_swish"])),
    )


def edges_of(network: Architecture) -> list[Edge]:
    return [edge for stage in network.stages for edges in stage.cell.nodes for edge in edges]


@given(draw_space(), st.integers(0, 2**32))
def test_samples_are_of_the_space_and_every_one_is_a_network(space, seed):
    candidate = space.sample(np.random.default_rng(seed))
    network = candidate.architecture
    assert candidate in space
    assert not network.is_supernet
    assert layers_of(network)[-1].output_shape == (space.num_classes,)
    assert [(stage.stride, stage.depth) for stage in network.stages] == [(s, space.final_depth) for s in space.strides]
    assert {len(edges) for stage in network.stages for edges in stage.cell.nodes} == {space.edges_kept}
    assert space.sample(np.random.default_rng(seed)) == candidate


@given(draw_space(), st.integers(0, 2**32))
def test_a_mutation_changes_one_edge_or_one_hyper_parameter_and_stays_in_the_space(space, seed):
    rng = np.random.default_rng(seed)
    candidate = space.sample(rng)
    for _ in range(5):
        mutated = space.mutate(candidate, rng)
        assert mutated in space
        gone = Counter(_placed(candidate.architecture)) - Counter(_placed(mutated.architecture))
        is_retuned = candidate.hyper_parameters != mutated.hyper_parameters
        assert gone.total() + is_retuned == (1 if space.size() > 1 else 0)
        for stage, node, edge in gone:
            come = set(mutated.architecture.stages[stage].cell.nodes[node]) - set(
                candidate.architecture.stages[stage].cell.nodes[node]
            )
            (other,) = come
            assert (other.source == edge.source) != (other.operations == edge.operations)
        candidate = mutated


def _placed(network: Architecture) -> list[tuple[int, int, Edge]]:
    return [
        (i, node, edge)
        for i, stage in enumerate(network.stages)
        for node, edges in enumerate(stage.cell.nodes)
        for edge in edges
    ]


def test_the_size_is_the_number_of_different_candidates():
    # Node 0 has one pair of sources, node 1 three; each edge one of two operations.
    assert SMALL.size() == (1 * 4) * (3 * 4) * 3
    candidates = list(SMALL.enumerate_candidates())
    assert len(candidates) == len(set(candidates)) == SMALL.size()
    assert all(candidate in SMALL for candidate in candidates)


def test_a_large_space_is_counted_without_listing_it():
    assert LARGE.size() == (1 * 3 * 6 * 10 * 7 ** (2 * 4)) ** 2 * 3
    assert next(LARGE.enumerate_candidates()) in LARGE


def test_sampling_and_mutating_reach_every_candidate():
    rng = np.random.default_rng(0)
    everything = set(SMALL.enumerate_candidates())
    assert {SMALL.sample(rng) for _ in range(1500)} == everything
    candidate = SMALL.sample(rng)
    assert {candidate := SMALL.mutate(candidate, rng) for _ in range(3000)} == everything


def test_the_supernet_has_every_operation_on_every_edge():
    supernet = LARGE.supernet()
    assert supernet.is_supernet
    assert {edge.operations for edge in edges_of(supernet)} == {LARGE.operations}
    assert [len(edges) for edges in supernet.stages[0].cell.nodes] == [2, 3, 4, 5]
    assert {stage.depth for stage in supernet.stages} == {2}


@pytest.mark.parametrize("strides", [(1,), (2,)])
@pytest.mark.parametrize("operations", [("skip", "max_pool"), ("skip", "conv_1"), ("separable_3", "conv_3")])
def test_the_smallest_and_the_largest_network_bound_the_others(operations, strides):
    space = replace(SMALL, operations=operations, strides=strides, hyper_parameters=HyperParameterOptions((0.1,)))
    networks = [candidate.architecture for candidate in space.enumerate_candidates()]
    for measure in (num_parameters, _work):
        measured = [measure(network) for network in networks]
        assert (measure(space.smallest()), measure(space.largest())) == (min(measured), max(measured))


def _work(network: Architecture) -> int:
    return sum(layer.multiply_accumulates() for layer in layers_of(network))


@given(draw_space())
def test_a_space_survives_the_round_trip(space):
    assert decode_record(CellSpace, encode_record(space)) == space


FOUND = SMALL.sample(np.random.default_rng(0))
CELL = FOUND.architecture.stages[0].cell
CONV = (Edge(0, ("conv_3",)), Edge(1, ("conv_3",)))


@pytest.mark.parametrize(
    "change",
    [
        {"stem": Stem(5)},
        {"stages": ()},
        {"stages": (Stage("depthwise", 4),)},
        {"stages": (Stage("cell", 8, cell=CELL),)},
        {"stages": (Stage("cell", 4, 2, cell=CELL),)},
        {"stages": (Stage("cell", 4, stride=2, cell=CELL),)},
        {"stages": (Stage("cell", 4, cell=CELL),) * 2},
        {"stages": (Stage("cell", 4, cell=Cell((CONV,))),)},
        {"stages": (Stage("cell", 4, cell=Cell((CONV, CONV[:1]))),)},
        {"stages": (Stage("cell", 4, cell=Cell((CONV, (CONV[0], Edge(1, ("max_pool",)))))),)},
        {"stages": (Stage("cell", 4, cell=Cell((CONV, (CONV[0], Edge(1, ("skip", "conv_3")))))),)},
        {"head": "global_average"},
        {"normalization": "none"},
    ],
)
def test_a_candidate_of_elsewhere_is_not_mutated(change):
    other = replace(FOUND, architecture=replace(FOUND.architecture, **change))
    with pytest.raises(ValueError, match="must be of the search space"):
        SMALL.mutate(other, np.random.default_rng(0))


def test_a_space_of_one_candidate_gives_it_back():
    one = replace(SMALL, operations=("skip",), nodes=1, hyper_parameters=HyperParameterOptions((0.1,)))
    (candidate,) = one.enumerate_candidates()
    rng = np.random.default_rng(0)
    assert one.mutate(candidate, rng) == candidate == one.sample(rng)
    assert one.smallest() == one.largest() == candidate.architecture
    assert not one.supernet().is_supernet


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"operations": ()}, "operations needs at least one option"),
        ({"operations": ("skip", "skip")}, "operations must list each option once"),
        ({"operations": ("none",)}, "operations must have one beside none"),
        ({"nodes": 0}, "nodes must be >= 1, got 0"),
        ({"strides": ()}, "strides must give each stage's"),
        ({"strides": (0,)}, "stride must be >= 1, got 0"),
        ({"edges_kept": 3}, "edges_kept must be 1 or 2, as the first node reads two sources, got 3"),
        ({"width": 0}, "width must be >= 1, got 0"),
        ({"depth": 0}, "depth must be >= 1, got 0"),
        ({"final_depth": 0}, "depth must be >= 1, got 0"),
        ({"num_classes": 1}, "num_classes must be >= 2, got 1"),
    ],
)
def test_an_impossible_space_names_value_and_rule(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)


@pytest.mark.parametrize(
    "algorithm",
    [
        RandomSearch(LARGE, FREE, num_trials=12, rounds=1),
        RegularizedEvolution(LARGE, FREE, num_trials=12, rounds=1, population_size=4, tournament_size=2),
        SuccessiveHalving(LARGE, FREE, num_candidates=8, rounds=1),
    ],
    ids=lambda algorithm: type(algorithm).__name__,
)
def test_searches_that_need_no_widths_search_cells_too(algorithm):
    state, asked = algorithm.init(0), list[Candidate]()
    while trials := algorithm.ask(state, 4):
        assert all(trial.candidate in LARGE for trial in trials)
        asked += [trial.candidate for trial in trials]
        state = algorithm.tell(state, [Observation(trial, trial.index / 100) for trial in trials])
    assert len(asked) >= 12
    assert len(set(asked)) >= 8


def test_a_small_space_of_cells_is_searched_to_its_end():
    search = RandomSearch(replace(SMALL, nodes=1), FREE, num_trials=100, rounds=1)
    assert len({trial.candidate for trial in search.ask(search.init(0), 100)}) == 12
