import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.compile.values import CouplingError


class Around(nn.Module):
    """A weight for each value of an example, a layer, and a linear layer over all that comes out."""

    def __init__(self, layer: nn.Module, shape: tuple[int, ...], num_outputs: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(1 + torch.rand(shape))
        self.layer = layer
        self.classifier = nn.Linear(num_outputs, 3)

    def forward(self, x):
        return self.classifier(self.layer(x * self.scale).flatten(1))


def drawn(layer: nn.Module) -> nn.Module:
    for value in layer.parameters():
        nn.init.uniform_(value, -1.5, 1.5)
    return layer


@settings(max_examples=15)
@given(st.integers(1, 4), st.integers(1, 3), st.lists(st.integers(1, 5), min_size=1, max_size=3), st.booleans())
def test_group_norm_of_any_shape_is_torchs(check_step, batch, groups, sizes, is_affine):
    assume(np.prod(sizes) > 1)  # torch asks for more than one value
    shape = (groups * sizes[0], *sizes[1:])
    layer = drawn(nn.GroupNorm(groups, shape[0], 1e-2, affine=is_affine))
    check_step(Around(layer, shape, int(np.prod(shape))), (batch, *shape), 3)


@settings(max_examples=15)
@given(
    batch=st.integers(1, 4),
    outer=st.lists(st.integers(1, 4), max_size=2),
    inner=st.lists(st.integers(2, 5), min_size=1, max_size=2),
    kind=st.sampled_from(["layer", "layer without bias", "plain layer", "rms", "plain rms"]),
)
def test_row_norms_of_any_shape_are_torchs(check_step, batch, outer, inner, kind):
    makes = {
        "layer": lambda: nn.LayerNorm(inner, 1e-2),
        "layer without bias": lambda: nn.LayerNorm(inner, 1e-2, bias=False),
        "plain layer": lambda: nn.LayerNorm(inner, 1e-2, elementwise_affine=False),
        "rms": lambda: nn.RMSNorm(inner, 1e-2),
        "plain rms": lambda: nn.RMSNorm(inner, elementwise_affine=False),
    }
    shape = (*outer, *inner)
    check_step(Around(drawn(makes[kind]()), shape, int(np.prod(shape))), (batch, *shape), 3)


class BatchSecond(nn.Module):
    """Row norms of a value [T, B, d], as sequence models have it."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.Sequential(nn.LayerNorm(6), nn.GELU(), nn.RMSNorm(6))
        self.classifier = nn.Linear(24, 3)

    def forward(self, x):
        return self.classifier(self.norms(x.transpose(0, 1)).transpose(0, 1).flatten(1))


@pytest.mark.parametrize("batch", [1, 3])
def test_row_norms_and_activations_take_the_batch_on_another_axis(check_step, batch):
    check_step(BatchSecond(), (batch, 4, 6), 3)


@pytest.mark.parametrize("layer", [nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.LayerNorm([4, 3, 3])])
@pytest.mark.parametrize(("scale", "offset"), [(1e4, 0.0), (1.0, 1e3), (0.0, 0.0), (0.0, 1.0)])
def test_large_far_and_constant_inputs_keep_their_digits(compile_module, draw_batch, layer, scale, offset):
    module = Around(layer, (4, 3, 3), 36)
    nn.init.ones_(module.scale)  # the offset must survive it
    compiled = compile_module(module, (3, 4, 3, 3))
    x, y = draw_batch((3, 4, 3, 3), 3)
    x = (scale * x + offset).astype(np.float32)
    truth = compiled.truth(x, y)
    total, _, norms = compiled.gradient(x, y)
    assert np.isfinite(total).all()
    # x itself is rounded to float32: with an offset of 1000 its differences are known to 1e-4.
    tolerance = 1e-3 if offset > 1 else 2e-5
    np.testing.assert_allclose(norms, np.linalg.norm(truth.gradients, axis=1), rtol=tolerance)
    assert np.linalg.norm(total - truth.gradients.sum(0)) <= tolerance * np.linalg.norm(truth.gradients.sum(0))


def test_normalising_over_the_batch_is_refused_by_name(compile_module):
    class OverAll(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm([2, 6])
            self.classifier = nn.Linear(6, 3)

        def forward(self, x):
            return self.classifier(self.norm(x))

    with pytest.raises(CouplingError, match=r"layer 'norm' \(LayerNorm\) normalises over the batch"):
        compile_module(OverAll(), (2, 6))
