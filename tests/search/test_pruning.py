"""Pruning: which blocks there are, and how narrow they become."""

from dataclasses import replace

import pytest

from search.architecture import Architecture, Cell, Edge, Stage, Stem
from search.candidate import Candidate, HyperParameters
from search.layers import layers_of, num_parameters
from search.options import HyperParameterOptions, StageOptions, StemOptions
from search.pruning import (
    blocks_of,
    narrowed,
    narrower,
    prune,
    reduce_one_able_block,
    reduce_one_block,
    scale_widths,
    width_of,
    with_width,
)
from search.slicing import is_part
from search.space import SearchSpace

PLAIN = Architecture((1, 8, 8), 10, Stem(24), (Stage("depthwise", 32), Stage("depthwise", 20, depth=2, stride=2)))
TIED = replace(
    PLAIN, stem=Stem(16), stages=(Stage("inverted", 16), Stage("inverted", 16, depth=2), Stage("inverted", 8))
)


@pytest.mark.parametrize(
    ("width", "smaller"), [(32, [24, 16, 8, 4]), (20, [16, 8, 4]), (9, [8, 4]), (8, [4]), (6, [4]), (4, []), (3, [])]
)
def test_widths_are_multiples_of_eight_and_at_last_four(width, smaller):
    assert list(narrower(width)) == smaller


def test_stages_joined_by_a_skip_are_one_block():
    assert blocks_of(PLAIN) == ((0,), (1,), (2,))
    assert blocks_of(TIED) == ((0, 1, 2), (3,))
    narrow = with_width(TIED, (0, 1, 2), 8)
    assert (narrow.stem.width, [stage.width for stage in narrow.stages]) == (8, [8, 8, 8])
    skips = [layer.name for layer in layers_of(TIED) if layer.kind == "add"]
    assert skips == [layer.name for layer in layers_of(narrow) if layer.kind == "add"][: len(skips)]


def test_a_block_is_pruned_as_little_as_the_target_asks_for():
    loads = {width: num_parameters(with_width(PLAIN, (1,), width)) for width in (24, 16, 8, 4)}
    for target, expected in ((loads[24], 24), (loads[24] - 1, 16), (loads[4], 4)):
        pruned = prune(PLAIN, (1,), num_parameters, target)
        assert width_of(pruned, (1,)) == expected
        assert with_width(pruned, (1,), 32) == PLAIN  # and nothing else


def test_a_block_that_cannot_reach_the_target_alone_is_pruned_to_what_needs_least():
    needs = {width: num_parameters(with_width(PLAIN, (1,), width)) for width in (24, 16, 8, 4)}
    assert prune(PLAIN, (1,), num_parameters, needs[4] - 1) == with_width(PLAIN, (1,), 4)
    needs[4] = needs[8]  # as where a kernel's time is that of full vectors

    def load(network):
        return needs.get(width_of(network, (1,)), 10**6)

    assert prune(PLAIN, (1,), load, 0) == with_width(PLAIN, (1,), 8)
    assert prune(PLAIN, (1,), lambda _: 1.0, 0) is None  # lowers nothing


def test_uniform_scaling_takes_the_nearest_width_there_is():
    scaled = scale_widths(PLAIN, 0.5)
    assert (scaled.stem.width, [stage.width for stage in scaled.stages]) == (16, [16, 8])
    assert scale_widths(PLAIN, 1.0) == PLAIN
    assert {scale_widths(PLAIN, 0.01).stem.width} == {4}
    with pytest.raises(ValueError, match="factor must be > 0, got 0"):
        scale_widths(PLAIN, 0)


def test_a_step_has_one_network_a_block_and_those_that_can_take_the_reduction_alone_do():
    now, blocks = num_parameters(PLAIN), blocks_of(PLAIN)
    narrowest = [with_width(PLAIN, block, 4) for block in blocks]
    saved = [now - num_parameters(one) for one in narrowest]
    for reduction in (min(saved), sorted(saved)[1], max(saved), 10 * now):
        step = reduce_one_block(PLAIN, num_parameters, reduction)
        assert len(step) == len(blocks)
        for one, least, most in zip(step, narrowest, saved, strict=True):
            assert now - num_parameters(one) >= reduction or (one == least and most < reduction)
    for reduction, number in ((min(saved), 3), (min(saved) + 1, 2), (max(saved), 1)):
        able = reduce_one_able_block(PLAIN, num_parameters, reduction)
        assert len(able) == number
        assert set(able) <= set(reduce_one_block(PLAIN, num_parameters, reduction))
        assert all(num_parameters(one) <= now - reduction for one in able)
    for halvings in (1, 3, 19):  # none can: half of it is asked for, and so on
        halved = reduce_one_able_block(PLAIN, num_parameters, 2**halvings * max(saved))
        assert [num_parameters(one) for one in halved] == [now - max(saved)]
    assert reduce_one_able_block(PLAIN, num_parameters, 2**20 * max(saved)) == ()  # next to nothing of it
    one_left = with_width(with_width(PLAIN, blocks[0], 4), blocks[2], 4)
    assert len(reduce_one_block(one_left, num_parameters, 1)) == 1


def test_all_that_steps_and_scaling_leave_of_a_spaces_largest_network_is_in_its_narrowed_space():
    stages = StageOptions(("depthwise",), (20, 16), (1, 2))
    training = HyperParameterOptions((0.1,), local_steps=(1,))
    space = SearchSpace((1, 8, 8), 10, StemOptions((16,)), stages, training, max_stages=2)
    left = [space.largest()]
    for network in left:
        left += [one for one in reduce_one_block(network, num_parameters, 1) if one not in left]
    left += [scale_widths(space.largest(), percent / 100) for percent in range(1, 101)]
    assert {one.stem.width for one in left} == {16, 8, 4} == {*narrowed(space).stem.widths}
    assert {stage.width for one in left for stage in one.stages} == {20, 16, 8, 4} == {*narrowed(space).stages.widths}
    assert all(Candidate(one, HyperParameters(0.1, local_steps=1)) in narrowed(space) for one in left)


def test_a_network_without_a_width_left_to_narrow_has_no_step():
    least = PLAIN
    for block in blocks_of(PLAIN):
        least = with_width(least, block, 4)
    assert reduce_one_block(least, num_parameters, 1) == ()


def test_a_stage_of_cells_is_a_block_of_its_own():
    cell = Cell(((Edge(0, ("skip", "conv_3")), Edge(1, ("separable_3",))),))
    network = Architecture((1, 8, 8), 10, Stem(16), (Stage("cell", 16, 2, cell=cell), Stage("cell", 16, cell=cell)))
    assert blocks_of(network) == ((0,), (1,), (2,))
    for narrow in reduce_one_block(network, num_parameters, 0.1 * num_parameters(network)):
        assert is_part(network, narrow)
