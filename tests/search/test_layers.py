from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.architecture import Architecture, Cell, Edge, Stage, Stem
from search.layers import INPUT, Layer, layers_of, num_parameters


def by_name(architecture: Architecture) -> dict[str, Layer]:
    return {layer.name: layer for layer in layers_of(architecture)}


@given(st.data())
def test_each_layer_reads_layers_before_it_and_their_shapes_fit(architectures, cell_networks, data):
    shapes: dict[str, tuple[int, ...]] = {}
    architecture = data.draw(st.one_of(architectures, cell_networks))
    for layer in layers_of(architecture):
        assert layer.name not in shapes
        for name in layer.values_read():
            assert layer.input_shape == (architecture.input_shape if name == INPUT else shapes[name])
        if layer.kind == "mix":
            assert shapes[layer.inputs[-1]] == (len(layer.operations),)
        shapes[layer.name] = layer.output_shape
    assert shapes["classifier"] == (architecture.num_classes,)


@given(st.data())
def test_parameters_are_counted_by_their_shapes(architectures, cell_networks, data):
    architecture = data.draw(st.one_of(architectures, cell_networks))
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


def network_of(*nodes: tuple[Edge, ...], depth: int = 1, stride: int = 1) -> Architecture:
    return Architecture((1, 8, 8), 10, Stem(4), (Stage("cell", 6, depth, stride=stride, cell=Cell(nodes)),))


def test_the_layers_of_a_cell_read_like_its_description():
    first = (Edge(0, ("none", "skip", "conv_3")), Edge(1, ("max_pool",)))
    network = network_of(first, (Edge(2, ("separable_5",)),))
    cell, source = "stages.0.0", "stages.0.0.inputs.0.activation"
    assert [(layer.name, layer.kind, layer.inputs) for layer in layers_of(network)[2:-2]] == [
        ("stages.0.choices.0-0", "choice", ()),
        (f"{cell}.inputs.0", "conv", ("stem.activation",)),
        (source, "relu", (f"{cell}.inputs.0",)),
        (f"{cell}.inputs.1", "conv", ("stem.activation",)),
        (f"{cell}.inputs.1.activation", "relu", (f"{cell}.inputs.1",)),
        (f"{cell}.edges.0-0.skip", "identity", (source,)),
        (f"{cell}.edges.0-0.conv_3", "conv", (source,)),
        (f"{cell}.edges.0-0.conv_3.activation", "relu", (f"{cell}.edges.0-0.conv_3",)),
        (
            f"{cell}.edges.0-0.mix",
            "mix",
            (f"{cell}.edges.0-0.skip", f"{cell}.edges.0-0.conv_3.activation", "stages.0.choices.0-0"),
        ),
        (f"{cell}.edges.0-1.max_pool", "max_pool", (f"{cell}.inputs.1.activation",)),
        (f"{cell}.nodes.0", "add", (f"{cell}.edges.0-0.mix", f"{cell}.edges.0-1.max_pool")),
        (f"{cell}.edges.1-2.separable_5.depthwise", "conv", (f"{cell}.nodes.0",)),
        (f"{cell}.edges.1-2.separable_5.pointwise", "conv", (f"{cell}.edges.1-2.separable_5.depthwise",)),
        (f"{cell}.edges.1-2.separable_5.pointwise.activation", "relu", (f"{cell}.edges.1-2.separable_5.pointwise",)),
        (f"{cell}.concat", "concat", (f"{cell}.nodes.0", f"{cell}.edges.1-2.separable_5.pointwise.activation")),
    ]


def test_the_cells_of_a_stage_share_its_choices_and_read_the_two_blocks_before_them():
    network = network_of((Edge(0, ("skip", "conv_1")), Edge(1, ("skip", "conv_1"))), depth=3, stride=2)
    layers = by_name(network)
    assert sum(layer.kind == "choice" for layer in layers.values()) == 2
    for cell, older, newer in ((0, "stem.activation", "stem.activation"), (1, "stem.activation", 0), (2, 0, 1)):
        read = tuple(layers[f"stages.0.{cell}.inputs.{source}"].inputs for source in (0, 1))
        assert read == tuple(
            (before if isinstance(before, str) else f"stages.0.{before}.nodes.0",) for before in (older, newer)
        )
        assert layers[f"stages.0.{cell}.edges.0-0.mix"].inputs[-1] == "stages.0.choices.0-0"


def test_strides_are_taken_by_edges_from_before_the_first_cell_and_by_what_a_cell_reads_of_an_older_side():
    edges = (Edge(0, ("skip",)), Edge(1, ("max_pool",))), (Edge(1, ("conv_3",)), Edge(2, ("skip",)))
    layers = by_name(network_of(*edges, depth=3, stride=2))
    strided = {name for name, layer in layers.items() if layer.stride == 2}
    first = "stages.0.0.edges"
    assert strided == {f"{first}.0-0.skip", f"{first}.0-1.max_pool", f"{first}.1-1.conv_3", "stages.0.1.inputs.0"}
    assert layers["stages.0.1.inputs.0"].output_shape == (6, 4, 4)
    assert layers[f"{first}.0-0.skip"].kind == "conv"  # a skip cannot leave pixels out
    assert layers["stages.0.1.edges.0-0.skip"].kind == "identity"


def test_a_source_that_no_edge_reads_is_not_computed():
    names = by_name(network_of((Edge(1, ("conv_1",)),)))
    assert "stages.0.0.inputs.1" in names
    assert "stages.0.0.inputs.0" not in names


def test_an_operation_has_the_window_and_the_parameters_of_its_name():
    network = network_of(*(((Edge(1, (name,))),) for name in ("conv_1", "conv_3", "dilated_3", "separable_3")))
    layers = by_name(network)
    parts = ["0-1.conv_1", "1-1.conv_3", "2-1.dilated_3", "3-1.separable_3.depthwise", "3-1.separable_3.pointwise"]
    of_parts = [layers[f"stages.0.0.edges.{part}"] for part in parts]
    assert [(one.kernel, one.dilation, one.groups) for one in of_parts] == [
        (1, 1, 1),
        (3, 1, 1),
        (3, 2, 1),
        (3, 1, 6),
        (1, 1, 1),
    ]
    weights, biases = [36, 36 * 9, 36 * 9, 6 * 9, 36], [6, 6, 6, 0, 6]  # the pointwise bias is enough for both
    assert [one.num_parameters() for one in of_parts] == [a + b for a, b in zip(weights, biases, strict=True)]
