from dataclasses import replace
from math import prod

import pytest
from hypothesis import given

from search.architecture import Architecture, Cell, Edge, Stage, Stem
from search.layers import INPUT, layers_of
from search.liveness import peak_of
from search.training_graph import training_program

OPERATIONS = ("none", "skip", "average_pool", "max_pool", "conv_1", "separable_3", "separable_5", "dilated_3", "conv_3")


def check_program(layers, program):
    """Everything that is read is there, and everything has a shape."""
    known = {INPUT, "parameters"}
    for step in program.steps:
        assert set(step.reads) <= known
        known |= set(step.writes)
    assert known - {INPUT, "parameters"} == program.shapes.keys()
    (output,) = program.outputs
    assert program.shapes[output] == (sum(layer.num_parameters() for layer in layers),)


def test_every_step_reads_what_is_there(architectures):
    @given(architectures)
    def check(network):
        layers = layers_of(network)
        check_program(layers, training_program(layers, 3))

    check()


def test_live_values_grow_with_the_chunk_and_hold_at_least_the_activations(architectures):
    @given(architectures)
    def check(network):
        layers = layers_of(network)
        small, large = (peak_of(training_program(layers, size)).live for size in (2, 4))
        assert small < large <= 2 * small
        assert small > 4 * 2 * prod(layers[0].output_shape)

    check()


@pytest.mark.parametrize("normalization", ["none", "group"])
@pytest.mark.parametrize("activation", ["relu", "hard_swish"])
@pytest.mark.parametrize("head", ["flatten", "global_average"])
def test_supernets_and_networks_of_cells_have_programs(normalization, activation, head):
    cell = Cell(((Edge(0, OPERATIONS), Edge(1, OPERATIONS)), (Edge(1, ("skip",)), Edge(2, ("max_pool",)))))
    stages = (Stage("cell", 8, 2, cell=cell), Stage("cell", 8, 1, stride=2, cell=cell))
    network = Architecture((1, 8, 8), 10, Stem(8), stages, head, normalization, activation)
    layers = layers_of(network)
    check_program(layers, training_program(layers, 4))


def test_a_stem_and_a_head_by_hand():
    network = Architecture((1, 4, 4), 2, Stem(3, kernel=1))
    # The convolution's output is relu's, 5 x 48 values, kept to the end for the linear layer's gradient. Its own
    # gradient takes a mask, the linear layer's product and that of both. Small besides: what is left of 104 parameters.
    kept, passing = 5 * 48, 3 * 5 * 48
    live = peak_of(training_program(layers_of(network), 5)).live
    assert 4 * (kept + passing) < live < 4 * (kept + passing + 104)


def test_a_relu_after_a_convolution_is_computed_in_it_and_a_sum_too():
    def sizes(activation, normalization):
        stage = Stage("inverted", 8, 2, 3, 1, 2)
        network = Architecture((1, 8, 8), 10, Stem(8), (stage,), "flatten", normalization, activation)
        return peak_of(training_program(layers_of(network), 64)).live

    assert sizes("relu", "none") < sizes("hard_swish", "none") < sizes("hard_swish", "group")
    assert sizes("relu", "none") < sizes("relu", "group") < sizes("hard_swish", "group")


def test_wider_stages_need_more():
    network = Architecture((1, 8, 8), 10, Stem(8), (Stage("depthwise", 16), Stage("inverted", 16, 2, 3, 1, 2)))
    wider = replace(network, stages=tuple(replace(stage, width=24) for stage in network.stages))
    live = [peak_of(training_program(layers_of(one), 8)).live for one in (network, wider)]
    assert live[0] < live[1]
