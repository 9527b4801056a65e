"""Who enters a nested race: parts within the limits, one for each number of stages, as wide as limits allow."""

from dataclasses import replace
from itertools import product

import pytest

from search.algorithms import uniform_width
from search.algorithms.nested_race_entrants import entrants, multiply_accumulates
from search.architecture import Architecture, Stage, Stem
from search.budget import Feasibility, Limits
from search.cost import cost_of
from search.options import StageOptions, StemOptions
from tests.search.conftest import ONE_NETWORK

SPACE = ONE_NETWORK


@pytest.fixture
def make_limits(make_profile):
    def make(**limits):
        return Feasibility((make_profile("phone", "mid", 0.01),), {"mid": Limits(**limits)}, 8)

    return make


@pytest.fixture
def limits(make_limits):
    return make_limits(size_kib=6.0)


def test_entrants_are_within_the_limits_and_have_different_numbers_of_stages(limits):
    found = entrants(SPACE, limits, 10)
    assert all(limits.is_feasible(network) for network in found)
    assert sorted(len(network.stages) for network in found) == [0, 1, 2, 3]
    assert entrants(SPACE, limits, 2) == found[:2]


def test_entrants_are_in_the_order_of_what_they_compute_which_the_cost_model_counts_alike(limits, make_profile):
    found = entrants(SPACE, limits, 10)
    macs = [cost_of(network, make_profile("phone", "mid", 1.0), 8).macs for network in found]
    assert macs == sorted(macs, reverse=True)
    assert macs == [multiply_accumulates(network) for network in found]


def test_no_block_of_an_entrant_can_be_a_step_wider(limits):
    for network in entrants(SPACE, limits, 10):
        stem = network.stem
        assert stem.width == 32 or not limits.is_feasible(replace(network, stem=replace(stem, width=stem.width + 8)))
        for i, stage in enumerate(network.stages):
            wider = (*network.stages[:i], replace(stage, width=stage.width + 8), *network.stages[i + 1 :])
            assert stage.width == 32 or not limits.is_feasible(replace(network, stages=wider))


@pytest.mark.parametrize(
    ("limit", "widths"),
    [
        ({"size_kib": 4.0}, (16, 16, 8)),  # from even widths
        ({"size_kib": 2.5}, (16, 8, 4)),  # from shrinking ones
        ({"latency_ms": 3.0}, (4, 8, 24)),  # from growing ones
    ],
)
def test_under_tight_limits_an_entrant_computes_more_than_any_other_of_its_stages(make_limits, limit, widths):
    limits, largest = make_limits(**limit), replace(SPACE, max_stages=2).largest()
    others = [
        replace(largest, stem=Stem(stem), stages=(Stage("depthwise", first), Stage("depthwise", second)))
        for stem, first, second in product((4, 8, 16, 24, 32), repeat=3)
    ]
    best = max((one for one in others if limits.is_feasible(one)), key=multiply_accumulates)
    assert (best.stem.width, *(stage.width for stage in best.stages)) == widths
    assert best in entrants(SPACE, limits, 10)


def test_the_first_entrant_computes_more_than_uniform_width_scaling_within_the_same_limits(limits):
    (uniform,) = uniform_width(SPACE.largest(), limits, 0).values()
    assert multiply_accumulates(entrants(SPACE, limits, 1)[0]) > multiply_accumulates(uniform)


def test_without_limits_entrants_are_the_whole_of_the_largest_network_and_its_beginnings():
    whole = SPACE.largest()
    beginnings = tuple(replace(whole, stages=whole.stages[:stages]) for stages in (3, 2, 1, 0))
    assert entrants(SPACE, Feasibility((), {}, 8), 10) == beginnings


def test_entrants_have_the_kernels_and_depths_that_the_space_has(make_profile):
    stages = StageOptions(("depthwise",), (16,), depths=(1, 2), kernels=(3, 5))
    space = replace(SPACE, stem=StemOptions((16,), (3, 5)), stages=stages, max_stages=1, min_stages=1)
    largest = space.largest()
    kernels, depths = set(), set()
    for size in (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0):
        limits = Feasibility((make_profile("phone", "mid", 1.0),), {"mid": Limits(size_kib=size)}, 8)
        (network,) = entrants(space, limits, 10)  # none without a stage
        kernels.add(network.stages[0].kernel)
        depths.add(network.stages[0].depth)
        assert network.stem.kernel == largest.stem.kernel
    assert kernels == {3, 5}
    assert depths == {1, 2}


def test_an_entrant_is_a_network_of_the_space_but_for_its_widths(limits):
    for network in entrants(SPACE, limits, 10):
        stages = tuple(Stage("depthwise", 32) for _ in network.stages)
        assert replace(network, stem=Stem(32), stages=stages) == Architecture(
            (1, 8, 8), 10, Stem(32), stages, "global_average"
        )
