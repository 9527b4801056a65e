from dataclasses import replace

import pytest

from search.architecture import Architecture, Stage, Stem
from search.layers import num_parameters
from search.pruning import blocks_of, prune
from search.slicing import SlicingError, is_part, places

LARGE = Architecture((1, 16, 16), 10, Stem(64, stride=2), (Stage("depthwise", 64, stride=2),), head="flatten")


@pytest.mark.parametrize("width", [4, 16, 64])
def test_a_classifier_of_other_positions_is_no_part_though_its_values_would_fit(width):
    fewer = replace(LARGE, stem=Stem(width, stride=2), stages=())
    assert not is_part(LARGE, fewer)
    with pytest.raises(SlicingError, match="flatten is no part of the larger network"):
        places(LARGE, fewer, "first")


def test_of_averaged_positions_fewer_stages_are_a_part():
    averaged = replace(LARGE, head="global_average")
    assert is_part(averaged, replace(averaged, stem=Stem(16, stride=2), stages=()))
    assert is_part(LARGE, replace(LARGE, stem=Stem(16, stride=2)))


def test_no_pruning_makes_a_skip_that_the_network_has_not():
    untied = Architecture((1, 8, 8), 10, Stem(16), (Stage("inverted", 8, expansion=2),), head="global_average")
    assert blocks_of(untied) == ((0,), (1,))
    narrow = prune(untied, (0,), num_parameters, num_parameters(untied) - 1)
    assert narrow.stem.width == 4  # 8 would tie it to the stage
    assert is_part(untied, narrow)
