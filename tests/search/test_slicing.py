"""Weights of a smaller network out of a larger one's, against torch: filters that give nothing may go."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.network import build_module
from search.architecture import Architecture, Cell, Edge, Stage, Stem
from search.layers import layers_of, num_parameters
from search.slicing import SlicingError, inherit, places

STAGES = st.builds(
    Stage,
    st.sampled_from(("depthwise", "inverted")),
    st.sampled_from((6, 8)),
    depth=st.integers(1, 2),
    kernel=st.sampled_from((3, 5)),
    stride=st.integers(1, 2),
)
FIRST_NODE = Edge(0, ("skip", "max_pool", "separable_3")), Edge(1, ("conv_3", "none", "average_pool"))
CELLS = (
    Cell((FIRST_NODE, (Edge(1, ("skip",)), Edge(2, ("dilated_3", "skip"))))),
    Cell(((Edge(1, ("separable_5", "conv_1")),),)),
)
CELL_STAGES = st.builds(
    Stage,
    st.just("cell"),
    st.sampled_from((6, 8)),
    depth=st.integers(1, 3),
    stride=st.integers(1, 2),
    cell=st.sampled_from(CELLS),
)
NETWORKS = st.builds(
    Architecture,
    st.just((2, 6, 6)),
    st.just(3),
    st.builds(Stem, st.sampled_from((6, 8))),
    st.lists(st.one_of(STAGES, CELL_STAGES), max_size=2).map(tuple),
    st.sampled_from(("flatten", "global_average")),
)


def narrowed(network: Architecture, data) -> Architecture:
    """No width above a bound."""
    width = data.draw(st.integers(1, 6))
    return replace(
        network,
        stem=replace(network.stem, width=min(network.stem.width, width)),
        stages=tuple(replace(stage, width=min(stage.width, width)) for stage in network.stages),
    )


def logits(network: Architecture, parameters: np.ndarray, x: torch.Tensor) -> np.ndarray:
    module = build_module(layers_of(network))
    offset = 0
    with torch.no_grad():
        for parameter in module.parameters():
            values = parameters[offset : offset + parameter.numel()]
            parameter.copy_(torch.tensor(values).reshape(parameter.shape))
            offset += parameter.numel()
        return module(x).numpy()


@settings(deadline=None, max_examples=20)
@given(NETWORKS, st.data())
def test_a_network_without_its_filters_of_zeros_computes_the_same(network, data):
    small = narrowed(network, data)
    if _skips(small) != _skips(network):
        return  # another network: a sum more or less
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    parameters = rng.normal(size=num_parameters(network)).astype(np.float32)
    _silence(network, small, parameters, rng)
    x = torch.tensor(rng.normal(size=(3, 2, 6, 6)).astype(np.float32))
    expected = logits(network, parameters, x)
    found = logits(small, inherit(network, parameters, small, "strongest"), x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def _silence(network: Architecture, small: Architecture, parameters: np.ndarray, rng: np.random.Generator) -> None:
    """Zero all but as many filters of each convolution as the small network has; where they are summed, the same."""
    chosen: dict[int, np.ndarray] = {}
    narrow = {layer.name: layer for layer in layers_of(small)}
    offset = 0
    for layer in layers_of(network):
        shapes = layer.parameter_shapes()
        is_mixing = layer.kind == "conv" and not layer.name.endswith("depthwise")
        for shape in shapes.values():
            size = int(np.prod(shape))
            if is_mixing:
                count = narrow[layer.name].output_shape[0]
                # One choice for the whole width keeps sums together, whichever layers they join.
                live = chosen.setdefault(shape[0], rng.permutation(shape[0]))
                part = parameters[offset : offset + size].reshape(shape[0], -1)
                part[live[count:]] = 0
            elif layer.kind == "conv" and len(shape) == 1:
                parameters[offset : offset + size] = 0  # a depthwise bias would wake a silent channel
            offset += size


def _skips(network: Architecture) -> list[str]:
    return [layer.name for layer in layers_of(network) if layer.name.endswith(".add")]


LARGE = Architecture(
    (1, 4, 4), 2, Stem(8, kernel=5), (Stage("depthwise", 8, depth=2, kernel=5),), normalization="group"
)


def test_the_first_filters_and_the_middle_of_kernels_are_shared_by_all_sizes():
    small = replace(LARGE, stem=Stem(4, kernel=3), stages=(Stage("depthwise", 4, kernel=3),))
    where = places(LARGE, small, "first")
    stem = np.arange(8 * 25).reshape(8, 5, 5)[:4, 1:4, 1:4]
    np.testing.assert_array_equal(where[:36], stem.ravel())
    assert len(where) == num_parameters(small) == len(set(where.tolist()))
    classifier = where[-(2 * 64 + 2) :][:128].reshape(2, 4, 16)
    size = num_parameters(LARGE)
    np.testing.assert_array_equal(classifier, size - 2 - 256 + np.arange(256).reshape(2, 8, 16)[:, :4])


def test_the_strongest_filters_have_the_largest_sums_of_squares():
    large = Architecture((1, 4, 4), 2, Stem(3), (), head="global_average")
    parameters = np.zeros(num_parameters(large), np.float32)
    # By absolute values the first would be the strongest, by the largest value the last.
    for i, filter_ in enumerate(([0.5] * 9, [1.5] * 2, [1.6])):
        parameters[9 * i :][: len(filter_)] = filter_
    where = places(large, replace(large, stem=Stem(1)), "strongest", parameters)
    np.testing.assert_array_equal(where[:10], [*range(9, 18), 28])  # the second one and its bias


def test_the_whole_network_is_a_slice_of_itself():
    everything = np.arange(num_parameters(LARGE), dtype=np.float32)
    for keep in ("strongest", "first"):
        np.testing.assert_array_equal(inherit(LARGE, everything, LARGE, keep), everything)


@pytest.mark.parametrize(
    ("small", "named"),
    [
        (replace(LARGE, stem=Stem(9, kernel=5)), "stem is no part"),
        (replace(LARGE, stem=Stem(8, kernel=5, stride=2)), "stem is no part"),
        (replace(LARGE, normalization="none"), "stem is no part"),
        (replace(LARGE, stages=(Stage("depthwise", 8, depth=3, kernel=5),)), "stages.0.2.depthwise is no part"),
        (replace(LARGE, num_classes=3), "classifier is no part"),
    ],
)
def test_what_is_no_part_is_refused_by_layer(small, named):
    with pytest.raises(SlicingError, match=named):
        places(LARGE, small, "first")


@pytest.mark.parametrize("head", ["flatten", "global_average"])
def test_a_network_of_fewer_stages_takes_the_first_ones_and_the_classifier_columns_of_its_channels(head):
    stages = tuple(Stage("depthwise", 8) for _ in range(3))
    large = Architecture((2, 4, 4), 3, Stem(8), stages, head)
    positions = 16 if head == "flatten" else 1
    found = places(large, replace(large, stages=(Stage("depthwise", 4),)), "first")
    classifier = num_parameters(large) - 3 * (8 * positions + 1)
    weight = classifier + np.arange(3)[:, None] * 8 * positions + np.arange(4 * positions)
    bias = num_parameters(large) - 3 + np.arange(3)
    assert found[-weight.size - 3 :].tolist() == [*weight.ravel(), *bias]
    second_stage = num_parameters(replace(large, stages=stages[:1])) - 3 * (8 * positions + 1)
    assert found[: -weight.size - 3].max() < second_stage
