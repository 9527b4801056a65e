from dataclasses import replace
from math import prod

import pytest
from hypothesis import given

from profiles.catalogue import load_profile
from search.architecture import Architecture, Stage, Stem
from search.cost import (
    cost_of,
    evaluation_kernels_of,
    forward_chunk_ms,
    kernels_of,
    peak_memory_bytes,
    training_chunk_ms,
    training_kernels_of,
)
from search.layers import layers_of, num_parameters

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
        for name in ("latency_ms", "training_step_ms", "peak_memory_mib", "size_kib", "macs", "parameters"):
            assert getattr(wider, name) > getattr(cost, name), name

    check()


def test_training_costs_more_than_the_forward_pass_and_a_chunk_more_than_an_example(profile_phone):
    cost = cost_of(NETWORK, profile_phone, 16)
    chunk_ms = forward_chunk_ms(NETWORK, profile_phone, 16)
    assert cost.latency_ms < chunk_ms < cost.training_step_ms == training_chunk_ms(NETWORK, profile_phone, 16)


def test_a_network_has_a_kernel_for_each_layer_with_work():
    kinds = [kernel.kind for kernel in kernels_of(NETWORK)]
    assert kinds == [layer.kind for layer in layers_of(NETWORK) if layer.kind != "flatten"]


def test_the_gradient_of_the_examples_themselves_is_not_paid_for():
    first, *others = training_kernels_of(NETWORK)
    assert first == replace(kernels_of(NETWORK)[0], kind="first_conv")
    assert others == list(evaluation_kernels_of(NETWORK)[1:])
    assert others[-1].kind == "cross_entropy"


def test_peak_memory_of_a_stem_and_a_head_by_hand():
    network = Architecture((1, 4, 4), 2, Stem(3, kernel=1))
    # Parameters 6 + 98, four times; kept an example: 16 in and 48 of relu, which the head reads too; each example's
    # 6 of the convolution; and while relu's gradient is computed, 48 + 48.
    kept = 16 + 48
    assert peak_memory_bytes(network, 5) == 4 * (4 * (6 + 98) + 5 * (kept + 6 + 48 + 48))


def test_memory_grows_with_the_chunk_and_holds_at_least_the_activations(architectures):
    @given(architectures)
    def check(network):
        small, large = peak_memory_bytes(network, 2), peak_memory_bytes(network, 4)
        assert small < large < 2 * small
        assert small > 4 * 2 * prod(network.input_shape)

    check()


def test_a_chunk_of_no_examples_is_refused(profile_phone):
    for costing in (cost_of, forward_chunk_ms, training_chunk_ms):
        with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
            costing(NETWORK, profile_phone, 0)


@pytest.fixture(scope="module")
def profile_phone():
    return load_profile("redmi-note-4")
