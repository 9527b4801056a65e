from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given

from profiles.catalogue import load_profile
from search.architecture import Architecture, Cell, Edge, Stage, Stem
from search.cost import (
    cost_of,
    evaluation_kernels_of,
    forward_chunk_ms,
    kernel_keys,
    kernels_of,
    peak_memory_bytes,
    training_chunk_ms,
    training_kernels_of,
)
from search.layers import layers_of, num_parameters
from search.liveness import peak_of
from search.training_graph import training_program

NETWORK = Architecture((1, 8, 8), 10, Stem(8), (Stage("depthwise", 16), Stage("inverted", 16, 2, 3, 1, 2)))


def widen(network: Architecture) -> Architecture:
    stages = tuple(replace(stage, width=2 * stage.width) for stage in network.stages)
    return replace(network, stem=replace(network.stem, width=2 * network.stem.width), stages=stages)


def test_size_parameters_and_work_are_the_networks_own(profile_phone):
    cost = cost_of(NETWORK, profile_phone, 16)
    assert cost.parameters == num_parameters(NETWORK)
    assert cost.size_kib == 4 * num_parameters(NETWORK) / 1024
    assert cost.macs == sum(layer.multiply_accumulates() for layer in layers_of(NETWORK))
    assert cost.method == "throughput"


def test_a_wider_network_costs_more_of_everything(profile_phone, architectures):
    @given(architectures)
    def check(network):
        cost, wider = cost_of(network, profile_phone, 4), cost_of(widen(network), profile_phone, 4)
        for name in ("latency_ms", "training_step_ms", "size_kib", "macs", "parameters"):
            assert getattr(wider, name) > getattr(cost, name), name

    check()


def test_training_costs_more_than_the_forward_pass_and_a_chunk_more_than_an_example(profile_phone):
    cost = cost_of(NETWORK, profile_phone, 16)
    chunk_ms = forward_chunk_ms(NETWORK, profile_phone, 16)
    assert cost.latency_ms < chunk_ms < cost.training_step_ms == training_chunk_ms(NETWORK, profile_phone, 16)


def test_a_network_has_a_kernel_for_each_layer_with_work():
    kinds = [kernel.kind for kernel in kernels_of(NETWORK)]
    assert [kind.removeprefix("fused_") for kind in kinds] == [
        layer.kind for layer in layers_of(NETWORK) if layer.kind != "flatten"
    ]


@pytest.mark.parametrize("normalization", ["none", "group"])
def test_a_relu_straight_behind_a_convolution_is_fused_and_a_normalised_convolution_has_no_bias(normalization):
    kernels = kernels_of(replace(NETWORK, normalization=normalization))
    pairs = [(one, other) for one, other in pairwise(kernels) if one.kind == "conv"]
    is_plain = normalization == "none"
    assert {one.has_bias for one, _ in pairs} == {is_plain}
    assert {other.kind for _, other in pairs if "relu" in other.kind} == ({"fused_relu"} if is_plain else set())
    assert {kernel.kind for kernel in kernels if "relu" in kernel.kind} == {"fused_relu" if is_plain else "relu"}


def test_the_gradient_of_the_examples_themselves_is_not_paid_for():
    first, *others = training_kernels_of(NETWORK)
    assert first == replace(kernels_of(NETWORK)[0], kind="first_conv", beside="")
    assert others == list(evaluation_kernels_of(NETWORK)[1:])
    assert others[-1].kind == "cross_entropy"


def test_what_a_network_does_is_listed_by_direction_with_repeats():
    keys = kernel_keys(NETWORK, 8)
    for direction, batch_size, kernels in (
        ("forward", 1, kernels_of(NETWORK)),
        ("evaluate", 8, evaluation_kernels_of(NETWORK)),
        ("gradient", 8, training_kernels_of(NETWORK)),
    ):
        assert [key for key in keys if key[2] == direction] == [(kernel, batch_size, direction) for kernel in kernels]
    assert len(keys) == sum(direction in {"forward", "evaluate", "gradient"} for _, _, direction in keys)


def test_peak_memory_is_what_the_arena_holds_at_its_fullest_and_a_little_more():
    peak = peak_of(training_program(layers_of(NETWORK), 16))
    assert peak.live <= peak.written <= peak_memory_bytes(NETWORK, 16) <= 1.05 * peak.written


def cell_network(*operations: str, depth: int = 1) -> Architecture:
    edges = Edge(0, operations), Edge(1, operations)
    stage = Stage("cell", 8, depth, stride=2, cell=Cell((edges, (Edge(2, operations),))))
    return Architecture((1, 8, 8), 10, Stem(8), (stage,), normalization="group")


OPERATIONS = ("skip", "average_pool", "max_pool", "conv_1", "separable_3", "separable_5", "dilated_3", "conv_3")
MEASURES = ("latency_ms", "training_step_ms", "peak_memory_mib", "size_kib", "macs", "parameters")


@pytest.mark.parametrize("added", OPERATIONS[1:])
@pytest.mark.parametrize("before", [("skip", "conv_1"), OPERATIONS])
def test_a_supernet_costs_more_with_every_operation(profile_phone, before, added):
    before = tuple(operation for operation in before if operation != added)
    cost, more = (cost_of(cell_network(*names), profile_phone, 4) for names in (before, (*before, added)))
    for name in MEASURES:
        assert getattr(more, name) > getattr(cost, name), name


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_network_in_a_supernet_costs_less_than_it(profile_phone, operation):
    cost, all_of_it = (cost_of(cell_network(*names), profile_phone, 4) for names in ((operation,), OPERATIONS))
    for name in MEASURES:
        assert getattr(cost, name) < getattr(all_of_it, name), name


def test_a_choice_and_a_skip_have_no_kernel_of_their_own_and_what_joins_values_counts_them():
    kernels = kernels_of(cell_network("none", "skip", "max_pool", "conv_3"))
    found = {(kernel.kind, kernel.num_inputs) for kernel in kernels if kernel.kind in ("mix", "add", "concat")}
    assert found == {("mix", 3), ("add", 2), ("concat", 2)}
    assert not {"choice", "identity"} & {kernel.kind for kernel in kernels}
    assert {kernel.dilation for kernel in kernels_of(cell_network("dilated_3")) if kernel.kernel == 3} == {1, 2}


def test_memory_does_not_shrink_with_the_chunk():
    small, large = peak_memory_bytes(NETWORK, 8), peak_memory_bytes(NETWORK, 32)
    assert 2 * small < large < 4 * small


def test_a_chunk_of_no_examples_is_refused(profile_phone):
    for costing in (cost_of, forward_chunk_ms, training_chunk_ms):
        with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
            costing(NETWORK, profile_phone, 0)


@pytest.fixture(scope="module")
def profile_phone():
    return load_profile("redmi-note-4")
