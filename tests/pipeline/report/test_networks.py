from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.networks import network_in_words, operation_of, picture_of
from search.architecture import Cell, Edge, Stage, Stem
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


CELL = Cell(
    (
        (Edge(0, ("skip",)), Edge(1, ("separable_5",))),
        (Edge(1, ("max_pool",)), Edge(2, ("conv_1", "none", "dilated_3"))),
    )
)


def test_a_cell_is_told_node_by_node(made):
    network = replace(made.small, stages=(Stage("cell", 8, 2, stride=2, cell=CELL),))
    words = network_in_words(network).replace("\N{MULTIPLICATION SIGN}", "x")
    assert (
        "→ cell 8 x2 (stride 2; node 1: skip of input 1 + separable 5x5 of input 2; "
        "node 2: max pool of input 2 + 3 operations of node 1) →"
    ) in words


def test_a_cell_has_a_line_for_each_input_and_each_edge_and_no_skip_around_it(made):
    network = replace(made.small, stages=(Stage("cell", 8, 2, cell=CELL),))
    _, first, second, _ = picture_of(network).blocks
    assert not first.has_skip
    assert (first.title, first.output_shape[0]) == ("stage 1, block 1: cell", 16)
    texts = [step.text.replace("\N{MULTIPLICATION SIGN}", "x") for step in first.steps]
    assert texts == [
        "architecture weights, for all cells of the stage",
        "input 1: conv 1x1, 4 → 8 · group norm · ReLU",
        "input 2: conv 1x1, 4 → 8 · group norm · ReLU",
        "node 1: skip of input 1",
        "node 1: separable 5x5 of input 2",
        "node 2: max pool of input 2",
        "node 2: 3 operations of node 1",
    ]
    assert [step.num_parameters for step in first.steps] == [3, 48, 48, 0, 8 * 25 + 64 + 16, 0, 64 + 16 + 576 + 16]
    assert [step.text for step in second.steps][2:] == [step.text for step in first.steps][3:]


def test_layers_of_cells_are_told_in_words(made):
    network = replace(made.small, stages=(Stage("cell", 8, stride=2, cell=CELL),))
    told = {operation_of(layer).replace("\N{MULTIPLICATION SIGN}", "x") for layer in layers_of(network)}
    expected = {"choice of 3 operations", "mix of 3 operations", "max pool 3x3, stride 2", "add", "all channels"}
    assert told >= {*expected, "conv 3x3, dilation 2, 8 → 8", "conv 1x1, stride 2, 8 → 8"}


def test_every_network_is_drawn_whole_without_overlap(architectures, cell_networks):
    @given(st.one_of(architectures, cell_networks))
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
