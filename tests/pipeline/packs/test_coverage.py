from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.packs import (
    default_architectures,
    default_random,
    random_architectures,
    telling_architectures,
)
from search.cell_space import CellSpace
from search.cost import cost_of, kernel_keys
from search.layers import layers_of
from search.options import HyperParameterOptions, StageOptions, StemOptions
from search.space import SearchSpace

SPACE = SearchSpace(
    input_shape=(1, 8, 8),
    num_classes=10,
    stem=StemOptions((4, 8)),
    stages=StageOptions(("depthwise", "inverted"), (4, 8), kernels=(3, 5)),
    hyper_parameters=HyperParameterOptions((0.1,), local_steps=(1,)),
    max_stages=2,
)


def test_a_pack_of_a_network_leaves_nothing_of_it_unknown(architectures, cell_networks, profile_of):
    @given(st.one_of(architectures, cell_networks))
    def check(network):
        profile = profile_of(kernel_keys(network, 4))
        assert cost_of(network, profile, 4).method == "measured"

    check()


def test_the_default_pack_shows_every_kind_of_layer_of_blocks():
    kinds = {layer.kind for network in default_architectures() for layer in layers_of(network)}
    assert kinds == {"conv", "group_norm", "relu", "hard_swish", "add", "global_average", "flatten", "linear"}
    assert {network.input_shape for network in default_architectures()} == {(1, 8, 8), (3, 32, 32)}


def test_drawn_networks_are_of_the_space_always_the_same_and_reach_its_ends():
    drawn = telling_architectures(SPACE, 10)
    assert drawn == telling_architectures(SPACE, 10)
    assert {SPACE.smallest(), SPACE.largest()} <= set(drawn)
    assert len(drawn) == len(set(drawn)) == 10
    assert all(network.input_shape == (1, 8, 8) for network in drawn)


def test_drawn_networks_show_more_kernels_than_as_many_by_chance():
    rng = np.random.default_rng(0)
    by_chance = [SPACE.sample(rng).architecture for _ in range(8)]
    telling, others = (
        {key for network in networks for key in kernel_keys(network, 4)}
        for networks in (telling_architectures(SPACE, 8), by_chance)
    )
    assert len(telling) > 1.1 * len(others)


def test_a_space_with_fewer_networks_gives_them_all():
    small = replace(SPACE, max_stages=0)
    assert len(telling_architectures(small, 10)) == 2
    assert len(random_architectures(small, 10, ())) == 2


def test_random_networks_are_others_of_the_space_always_the_same():
    known = telling_architectures(SPACE, 10)
    found = random_architectures(SPACE, 20, known)
    assert found == random_architectures(SPACE, 20, known)
    assert len(found) == len(set(found) - set(known)) == 20
    assert all(network.input_shape == (1, 8, 8) for network in found)


def test_no_network_of_the_default_pack_is_in_it_twice():
    both = *default_architectures(), *default_random()
    assert len(set(both)) == len(both)


def test_of_a_space_of_cells_the_supernet_is_measured_too():
    training = HyperParameterOptions((0.1,))
    space = CellSpace((1, 8, 8), 10, ("none", "skip", "max_pool"), 2, 4, (1, 2), training)
    drawn = telling_architectures(space, 3)
    assert {space.smallest(), space.largest(), space.supernet()} <= set(drawn)
    kinds = {kernel.kind for network in drawn for kernel, _, _ in kernel_keys(network, 8)}
    assert {"mix", "concat", "max_pool", "add"} <= kinds
