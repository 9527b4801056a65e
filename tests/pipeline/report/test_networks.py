from dataclasses import replace
from itertools import pairwise

from hypothesis import given

from pipeline.report.networks import network_in_words, operation_of, picture_of
from search.architecture import Stage, Stem
from search.layers import layers_of, num_parameters


def test_words_name_every_choice_of_the_space(made):
    stages = (Stage("inverted", 8, depth=2, kernel=5, stride=2, expansion=3), Stage("depthwise", 16))
    network = replace(made.small, stem=Stem(4, 5, 2), stages=stages, activation="hard_swish")
    words = network_in_words(network).replace("\N{MULTIPLICATION SIGN}", "x")
    assert words == (
        "stem 4 (5x5, stride 2) → inverted 8 x2 (5x5, stride 2, expansion 3) → depthwise 16 (3x3) → global average; "
        "group norm, hard-swish"
    )


def test_blocks_are_stem_every_block_of_every_stage_and_head(made):
    blocks = picture_of(made.large).blocks
    assert [block.title for block in blocks] == [
        "stem",
        "stage 1, block 1: depthwise",
        "stage 2, block 1: inverted",
        "stage 2, block 2: inverted",
        "head",
    ]
    assert [block.output_shape for block in blocks] == [(4, 8, 8), (8, 4, 4), (8, 4, 4), (8, 4, 4), (2,)]


def test_a_skip_is_where_the_network_adds(made):
    assert [block.has_skip for block in picture_of(made.large).blocks] == [False, False, True, True, False]


def test_operations_are_told_in_words(made):
    told = [operation_of(layer).replace("\N{MULTIPLICATION SIGN}", "x") for layer in layers_of(made.large)]
    assert told[:6] == [
        "conv 3x3, 1 → 4",
        "group norm",
        "ReLU",
        "conv 3x3, stride 2, depthwise",
        "group norm",
        "ReLU",
    ]
    assert told[-1] == "linear 8 → 2"


def test_every_network_is_drawn_whole_without_overlap(architectures):
    @given(architectures)
    def check(architecture):
        picture = picture_of(architecture)
        total = num_parameters(architecture)
        assert picture.num_parameters == total == sum(block.num_parameters for block in picture.blocks)
        steps = [step for block in picture.blocks for step in block.steps]
        assert sum(step.num_parameters for step in steps) == total
        assert all(a.top + a.height < b.top for a, b in pairwise(picture.blocks))
        assert picture.blocks[-1].top + picture.blocks[-1].height < picture.height
        assert network_in_words(architecture)

    check()
