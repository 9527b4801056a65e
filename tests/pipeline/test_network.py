import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.network import Add, Choice, Concatenate, GlobalAverage, GroupNorm, Mix, Network, build_module
from search.architecture import Architecture, Stage, Stem
from search.layers import layers_of


def real_shapes(module: Network, x: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """Shape of one example's output of each layer, seen while the module runs."""
    seen: dict[str, tuple[int, ...]] = {}
    for layer in module.layers:
        if layer.kind == "choice":
            continue  # of no example
        submodule = module.get_submodule(layer.name)
        submodule.register_forward_hook(lambda _m, _i, out, name=layer.name: seen.update({name: tuple(out.shape[1:])}))
    module(x)
    return seen


@given(st.data())
def test_layers_of_tells_the_shapes_that_torch_computes(architectures, data):
    check_shapes(data.draw(architectures))


@settings(max_examples=10)
@given(st.data())
def test_layers_of_tells_the_shapes_of_cells(cell_networks, data):
    check_shapes(data.draw(cell_networks))


def check_shapes(architecture: Architecture) -> None:
    layers = layers_of(architecture)
    seen = real_shapes(build_module(layers), torch.zeros(2, *architecture.input_shape))
    assert seen == {layer.name: layer.output_shape for layer in layers if layer.kind != "choice"}


@given(st.data())
def test_layers_of_tells_the_parameters_of_the_module_in_their_order(architectures, cell_networks, data):
    layers = layers_of(data.draw(st.one_of(architectures, cell_networks)))
    expected = [(name, shape) for layer in layers for name, shape in layer.parameter_shapes().items()]
    assert [(name, tuple(value.shape)) for name, value in build_module(layers).named_parameters()] == expected


def test_the_same_seed_gives_the_same_parameters_and_leaves_the_global_generator_alone():
    layers = layers_of(Architecture((1, 8, 8), 10, Stem(4)))
    before = torch.random.get_rng_state()
    first, again, other = (build_module(layers, seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["stem.weight"], other["stem.weight"])


@pytest.mark.parametrize(("num_groups", "num_channels"), [(1, 3), (2, 6), (4, 4)])
def test_group_norm_is_torchs(num_groups, num_channels):
    x = torch.randn(3, num_channels, 5, 4)
    ours, theirs = GroupNorm(num_groups, num_channels), nn.GroupNorm(num_groups, num_channels)
    weight, bias = torch.randn(num_channels), torch.randn(num_channels)
    for module in (ours, theirs):
        module.load_state_dict({"weight": weight, "bias": bias})
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_group_norm_takes_a_single_value_a_group():
    layer = GroupNorm(3, 3)
    nn.init.constant_(layer.bias, 2.0)
    torch.testing.assert_close(layer(torch.randn(1, 3, 1, 1)).flatten(), torch.full((3,), 2.0), rtol=1e-5, atol=0)


def test_the_other_parts_are_torchs():
    x = torch.linspace(-5, 5, 60).reshape(1, 3, 4, 5)
    torch.testing.assert_close(GlobalAverage()(x), nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))
    torch.testing.assert_close(Add()(x, 2 * x), 3 * x)
    torch.testing.assert_close(Add()(x, 2 * x, x), 4 * x)
    torch.testing.assert_close(Concatenate()(x, 2 * x)[:, 3:], 2 * x)


def test_a_skip_adds_the_blocks_input():
    architecture = Architecture((1, 5, 5), 2, Stem(4, 1), (Stage("inverted", 4),))
    module = build_module(layers_of(architecture))
    project = module.get_submodule("stages.0.0.project")
    nn.init.zeros_(project.weight)
    nn.init.zeros_(project.bias)
    x = torch.randn(2, 1, 5, 5)
    without_block = module.get_submodule("classifier")(torch.relu(module.get_submodule("stem")(x)).flatten(1))
    torch.testing.assert_close(module(x), without_block)


def test_a_choice_is_undecided_at_first():
    choice = Choice(4)
    torch.testing.assert_close(choice(), torch.full((4,), 0.25))
    choice.weight.data[2] = 50.0
    torch.testing.assert_close(choice(), torch.tensor([0.0, 0.0, 1.0, 0.0]))


def test_a_mix_loses_the_share_of_the_operation_that_gives_nothing():
    x, shares = torch.randn(2, 3, 4, 4), torch.tensor([0.5, 0.2, 0.3])
    torch.testing.assert_close(Mix((0, 2))(x, 10 * x, shares), 0.5 * x + 0.3 * 10 * x)
