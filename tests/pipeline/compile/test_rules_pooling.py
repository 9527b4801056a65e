import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.compile.values import CouplingError

SIZE = st.integers(1, 7)


class Pooled(nn.Module):
    """A weight for each position, so that gradients tell positions apart, a layer, and a linear layer."""

    def __init__(self, layer, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))
        self.layer = layer
        self.classifier = nn.Linear(layer(torch.zeros(1, *shape)).numel(), 3)

    def forward(self, x):
        return self.classifier(self.layer(x * self.weight).flatten(1))


@st.composite
def max_pools(draw) -> tuple[nn.Module, tuple[int, ...]]:
    kernel = draw(st.integers(1, 3))
    settings_ = {
        "stride": draw(st.integers(1, 3)),
        "padding": draw(st.integers(0, kernel // 2)),
        "dilation": draw(st.integers(1, 2)),
        "ceil_mode": draw(st.booleans()),
    }
    shape = (draw(st.integers(1, 2)), draw(SIZE), draw(SIZE))
    assume(min(shape[1:]) + 2 * settings_["padding"] > settings_["dilation"] * (kernel - 1))
    return nn.MaxPool2d(kernel, **settings_), shape


@settings(max_examples=25)
@given(max_pools(), st.integers(1, 3))
def test_max_pooling_of_any_window_is_torchs(check_step, pool, batch):
    layer, shape = pool
    check_step(Pooled(layer, shape), (batch, *shape), 3)


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d(3, 1, 1),
        nn.AdaptiveMaxPool2d(1),
        lambda x: x.max(2).values,
        lambda x: x.min(1).values,
        lambda x: x.amax((1, 2)),
        lambda x: x.max(dim=-1, keepdim=True).values,
    ],
)
def test_equal_values_share_the_gradient_as_in_torch(compile_module, layer):
    compiled = compile_module(Pooled(layer, (2, 4, 4)), (2, 2, 4, 4))
    x = np.random.default_rng(0).integers(0, 2, (2, 2, 4, 4)).astype(np.float32)
    truth = compiled.truth(x, np.array([0, 1]))
    total, *_ = compiled.gradient(x, np.array([0, 1]))
    np.testing.assert_allclose(total, truth.gradients.sum(0), rtol=1e-4, atol=1e-6)


@st.composite
def average_pools(draw) -> tuple[nn.Module, tuple[int, ...]]:
    kernel, shape = draw(st.integers(1, 3)), (draw(st.integers(1, 2)), draw(SIZE), draw(SIZE))
    padding = draw(st.integers(0, kernel // 2))
    assume(min(shape[1:]) + 2 * padding >= kernel)
    others = {"ceil_mode": draw(st.booleans()), "count_include_pad": draw(st.booleans())}
    divisor = draw(st.sampled_from([None, 2]))
    return nn.AvgPool2d(kernel, draw(st.integers(1, 3)), padding, **others, divisor_override=divisor), shape


@settings(max_examples=20)
@given(average_pools(), st.integers(1, 3))
def test_average_pooling_of_any_window_is_torchs(check_step, pool, batch):
    layer, shape = pool
    check_step(Pooled(layer, shape), (batch, *shape), 3)


@settings(max_examples=15)
@given(st.tuples(SIZE, SIZE), st.tuples(SIZE, SIZE), st.sampled_from(["adaptive", "nearest", "bilinear"]))
def test_pooling_and_upsampling_to_any_size_are_torchs(check_step, space, out, kind):
    def resized(x):
        if kind == "adaptive":
            return nn.functional.adaptive_avg_pool2d(x, out)
        return nn.functional.interpolate(x, out, mode=kind)

    check_step(Pooled(resized, (2, *space)), (2, 2, *space), 3)


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool1d(3, 2, 1),
        nn.AvgPool1d(3, 2, 1),
        nn.AdaptiveAvgPool1d(4),
        nn.AdaptiveMaxPool1d(3),
        nn.Upsample(scale_factor=1.5),
        nn.Upsample(scale_factor=2, mode="linear", align_corners=True),
        nn.ReflectionPad1d((2, 1)),
    ],
)
def test_layers_over_one_axis_are_torchs(check_step, layer):
    check_step(Pooled(layer, (2, 9)), (3, 2, 9), 3)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_by_values_of_the_input_is_torchs(check_step, mode):
    def layer(x):
        return nn.functional.pad(x, (1, 2, 3, 0), mode=mode)

    check_step(Pooled(layer, (2, 4, 5)), (3, 2, 4, 5), 3)


def test_side_by_side_averages_are_one_operator(compile_module):
    compiled = compile_module(Pooled(nn.AvgPool2d((2, 3)), (2, 4, 6)), (2, 2, 4, 6))
    assert [node.op_type for node in compiled.evaluate_model.graph.node].count("AveragePool") == 1


def test_an_extreme_over_the_batch_is_refused_by_name(compile_module):
    class OverAll(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = nn.Linear(6, 3)

        def forward(self, x):
            return self.classifier(x - x.amax(0))

    with pytest.raises(CouplingError, match=r"\(ReduceMax\) takes an extreme over the batch"):
        compile_module(OverAll(), (2, 6))


@pytest.mark.parametrize(
    "layer", [nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(2, 1, 0, 2), nn.MaxPool2d(3, 2, 1, ceil_mode=True)]
)
@pytest.mark.parametrize("lost", [0, 2])
def test_an_example_without_a_maximum_moves_no_other(compile_module, draw_batch, layer, lost):
    compiled = compile_module(Pooled(layer, (2, 4, 4)), (4, 2, 4, 4))
    x, y = draw_batch((4, 2, 4, 4), 3)
    others = np.arange(4) != lost
    *_, norms = compiled.gradient(x, y)
    for value in (np.nan, -np.inf):
        bad = x.copy()
        bad[lost] = value
        *_, found = compiled.gradient(bad, y)
        np.testing.assert_array_equal(found[others], norms[others])


class Masked(nn.Module):
    """Maximum over the positions in use, which are marked by the first channel: a window may have none."""

    def __init__(self, pool) -> None:
        super().__init__()
        self.stem, self.pool = nn.Conv1d(2, 3, 1), pool
        self.classifier = nn.LazyLinear(3)
        self(torch.ones(1, 2, 8))

    def forward(self, x):
        hidden = self.stem(x).masked_fill(x[:, :1] < 0, -torch.inf)
        return self.classifier(torch.tanh(self.pool(hidden)).flatten(1))


@pytest.mark.parametrize("pool", [nn.MaxPool1d(2), nn.MaxPool1d(3, 1, 1), nn.MaxPool1d(2, 2, 0, 3)])
def test_a_masked_maximum_is_torchs(compile_module, draw_batch, pool):
    x, y = draw_batch((3, 2, 8), 3)
    x[0, 0], x[1, 0, :4], x[2, 0, 1::2] = -1, -1, -1
    compiled = compile_module(Masked(pool), x.shape)
    truth = compiled.truth(x, y)
    total, _, norms = compiled.gradient(x, y)
    np.testing.assert_allclose(norms, np.linalg.norm(truth.gradients, axis=1), rtol=1e-4)
    np.testing.assert_allclose(total, truth.gradients.sum(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        lambda x: x.amax((2, 3)),
        lambda x: x.max(dim=2).values,
        nn.MaxPool2d(2),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveAvgPool2d(3),
        nn.Upsample(scale_factor=2),
        nn.ReflectionPad2d(1),
        nn.PixelShuffle(2),
    ],
)
def test_constant_padding_goes_before_any_layer(check_step, layer):
    def padded(x):
        return layer(nn.functional.pad(x, (1, 2, 0, -1), value=0.3))

    check_step(Pooled(padded, (4, 3, 3)), (2, 4, 3, 3), 3)
    check_step(Pooled(lambda x: layer(nn.functional.avg_pool2d(nn.ZeroPad2d(1)(x), 2)), (4, 6, 6)), (2, 4, 6, 6), 3)
