from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.architecture import Architecture, Stage, Stem
from search.layers import INPUT, Layer, layers_of, num_parameters


def by_name(architecture: Architecture) -> dict[str, Layer]:
    return {layer.name: layer for layer in layers_of(architecture)}


@given(st.data())
def test_each_layer_reads_layers_before_it_and_their_shapes_fit(architectures, data):
    shapes: dict[str, tuple[int, ...]] = {}
    architecture = data.draw(architectures)
    for layer in layers_of(architecture):
        assert layer.name not in shapes
        for name in layer.inputs:
            assert layer.input_shape == (architecture.input_shape if name == INPUT else shapes[name])
        shapes[layer.name] = layer.output_shape
    assert shapes["classifier"] == (architecture.num_classes,)


@given(st.data())
def test_parameters_are_counted_by_their_shapes(architectures, data):
    architecture = data.draw(architectures)
    shapes = [shape for layer in layers_of(architecture) for shape in layer.parameter_shapes().values()]
    assert num_parameters(architecture) == sum(map(prod, shapes))
    assert all(min(shape) >= 1 for shape in shapes)


def test_the_layers_of_a_small_network_read_like_its_description():
    architecture = Architecture((1, 8, 8), 10, Stem(4, 3, 2), (Stage("inverted", 4, 2, expansion=2),))
    assert [(layer.name, layer.kind, layer.inputs) for layer in layers_of(architecture)] == [
        ("stem", "conv", ("input",)),
        ("stem.activation", "relu", ("stem",)),
        ("stages.0.0.expand", "conv", ("stem.activation",)),
        ("stages.0.0.expand.activation", "relu", ("stages.0.0.expand",)),
        ("stages.0.0.depthwise", "conv", ("stages.0.0.expand.activation",)),
        ("stages.0.0.depthwise.activation", "relu", ("stages.0.0.depthwise",)),
        ("stages.0.0.project", "conv", ("stages.0.0.depthwise.activation",)),
        ("stages.0.0.add", "add", ("stem.activation", "stages.0.0.project")),
        ("stages.0.1.expand", "conv", ("stages.0.0.add",)),
        ("stages.0.1.expand.activation", "relu", ("stages.0.1.expand",)),
        ("stages.0.1.depthwise", "conv", ("stages.0.1.expand.activation",)),
        ("stages.0.1.depthwise.activation", "relu", ("stages.0.1.depthwise",)),
        ("stages.0.1.project", "conv", ("stages.0.1.depthwise.activation",)),
        ("stages.0.1.add", "add", ("stages.0.0.add", "stages.0.1.project")),
        ("flatten", "flatten", ("stages.0.1.add",)),
        ("classifier", "linear", ("flatten",)),
    ]


def test_the_stride_is_the_first_blocks_and_only_blocks_that_keep_the_shape_have_a_skip():
    layers = by_name(Architecture((3, 9, 9), 10, Stem(8), (Stage("inverted", 8, depth=2, stride=2),)))
    assert layers["stages.0.0.depthwise"].stride == 2
    assert layers["stages.0.1.depthwise"].stride == 1
    assert "stages.0.0.add" not in layers
    assert "stages.0.1.add" in layers
    assert "stages.0.0.expand" not in layers  # nothing to expand by 1


@pytest.mark.parametrize(("normalization", "has_bias"), [("none", True), ("group", False)])
def test_a_convolution_before_a_normalisation_has_no_bias(normalization, has_bias):
    layers = by_name(Architecture((1, 8, 8), 10, Stem(4), normalization=normalization))
    assert layers["stem"].has_bias is has_bias
    assert ("stem.norm" in layers) is not has_bias


@pytest.mark.parametrize(("width", "groups"), [(8, 4), (6, 2), (7, 1), (2, 2)])
def test_groups_of_a_normalisation_divide_its_channels(width, groups):
    assert by_name(Architecture((1, 8, 8), 10, Stem(width), normalization="group"))["stem.norm"].groups == groups


def test_multiply_accumulates_of_layers_with_weights_follow_their_formula():
    layers = by_name(Architecture((3, 8, 8), 10, Stem(4, 3, 2), (Stage("depthwise", 6),)))
    assert layers["stem"].multiply_accumulates() == 4 * 4 * 4 * 3 * 9
    assert layers["stages.0.0.depthwise"].multiply_accumulates() == 4 * 4 * 4 * 9
    assert layers["stages.0.0.pointwise"].multiply_accumulates() == 6 * 4 * 4 * 4
    assert layers["classifier"].multiply_accumulates() == 6 * 4 * 4 * 10
    assert layers["flatten"].multiply_accumulates() == 0


def test_a_stem_and_a_flatten_head_have_the_parameters_of_the_formula():
    architecture = Architecture((1, 8, 8), 10, Stem(4, 3, 2))
    assert num_parameters(architecture) == 4 * 9 + 4 + 10 * 4 * 16 + 10
