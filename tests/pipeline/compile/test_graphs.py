from math import inf

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from device_runtime.terms import BOUNDS
from pipeline.compile.values import CouplingError
from pipeline.network import build_module
from search.architecture import Architecture, Stage, Stem
from search.layers import layers_of

SMALL = Architecture(
    (1, 7, 6), 3, Stem(4, 3, 2), (Stage("inverted", 4, 1, 3, 1, 2),), normalization="group", activation="hard_swish"
)


@settings(max_examples=12)
@given(st.data())
def test_the_step_of_every_architecture_is_torchs_clipped_sum(architectures, check_step, data):
    architecture = data.draw(architectures)
    module = build_module(layers_of(architecture), seed=data.draw(st.integers(0, 9)))
    check_step(module, (data.draw(st.integers(1, 5)), *architecture.input_shape), architecture.num_classes)


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("head", ["flatten", "global_average"])
@pytest.mark.parametrize(("normalization", "activation"), [("none", "relu"), ("group", "hard_swish")])
def test_the_step_is_torchs_for_every_batch_size(check_step, batch, head, normalization, activation):
    stages = (Stage("depthwise", 6, 1, 5, 3), Stage("inverted", 6, 2, 3, 1, 3))
    architecture = Architecture((3, 11, 8), 3, Stem(5, 3, 2), stages, head, normalization, activation)
    check_step(build_module(layers_of(architecture)), (batch, 3, 11, 8), 3)


def test_the_forward_pass_runs_once(compile_module):
    module = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3))
    operators = [node.op_type for node in compile_module(module, (2, 1, 4, 4)).gradient_model.graph.node]
    assert operators.count("Tanh") == 1


def test_all_masked_gives_exact_zeros(compile_module, draw_batch):
    compiled = compile_module(build_module(layers_of(SMALL)), (4, 1, 7, 6))
    x, y = draw_batch((4, 1, 7, 6), 3)
    total, loss, norms = compiled.gradient(x, y, np.zeros(4, np.float32), 1.0)
    assert not total.any()
    assert not norms.any()
    assert loss == 0
    losses, metrics = compiled.evaluate(x, y, np.zeros(4, np.float32))
    assert not losses.any()
    assert not metrics.any()


def test_a_zero_gradient_has_a_norm_below_any_clip_and_does_not_poison_the_sum(compile_module, draw_batch):
    module = build_module(layers_of(Architecture((1, 5, 5), 2, Stem(2))))
    with torch.no_grad():
        # One class with certainty: an example of it has no loss and no gradient.
        module.get_submodule("classifier").weight.zero_()
        module.get_submodule("classifier").bias.copy_(torch.tensor([200.0, 0.0]))
    x, _ = draw_batch((3, 1, 5, 5), 2)
    total, _, norms = compile_module(module, x.shape).gradient(x, np.array([0, 0, 1]), None, 0.5)
    assert (norms[:2] < BOUNDS[0]).all()
    assert norms[2] > 0.5
    assert np.linalg.norm(total) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize(("size", "margin"), [(1e18, 55), (1e16, 52), (1e9, 30)])
def test_a_huge_example_that_is_all_but_certain_is_clipped(compile_module, draw_batch, size, margin):
    module = nn.Linear(6, 3)
    with torch.no_grad():
        module.weight.zero_()
        module.bias.copy_(torch.tensor([margin, 0.0, 0.0]))  # the logits' gradient is about exp(-margin)
    compiled = compile_module(module, (4, 6))
    x = np.float32(size) * draw_batch((4, 6), 3)[0]
    for alone in np.eye(4, dtype=np.float32):
        whole, clipped = (compiled.gradient(x, np.zeros(4, int), alone, clip)[0].astype(float) for clip in (inf, 1e-9))
        assert np.linalg.norm(whole) > 1e-8
        assert np.linalg.norm(clipped) <= 1e-9 * (1 + 1e-5)


@pytest.mark.parametrize("max_grad_norm", [1e-3, 0.1, 10.0])
def test_no_example_moves_the_sum_by_more_than_the_clip_norm(compile_module, draw_batch, max_grad_norm):
    compiled = compile_module(build_module(layers_of(SMALL)), (5, 1, 7, 6))
    x, y = draw_batch((5, 1, 7, 6), 3)
    x[2] *= 1e3
    whole, _, _ = compiled.gradient(x, y, None, max_grad_norm)
    for i in range(5):
        rest, _, _ = compiled.gradient(x, y, (np.arange(5) != i).astype(np.float32), max_grad_norm)
        assert np.linalg.norm(whole - rest) <= max_grad_norm * (1 + 1e-5)


@pytest.mark.parametrize("weights", [(1, 1), (1, 0), (0, 1), (0, 0)])
@pytest.mark.parametrize("max_grad_norm", [0.2, inf])
def test_segments_out_of_use_have_no_norm_and_no_share(compile_module, draw_batch, weights, max_grad_norm):
    module = build_module(layers_of(SMALL))
    segment_of = {name: "adapter" if "project" in name else "weights" for name, _ in module.named_parameters()}
    compiled = compile_module(module, (4, 1, 7, 6), segment_of)
    assert compiled.layout.segments == ("weights", "adapter")
    x, y = draw_batch((4, 1, 7, 6), 3)
    columns = sum(w * compiled.columns(name) for w, name in zip(weights, compiled.layout.segments, strict=True))
    norms, total = compiled.truth(x, y).clipped(np.ones(4), max_grad_norm, columns)
    found_total, _, found_norms = compiled.gradient(x, y, None, max_grad_norm, weights)
    np.testing.assert_allclose(found_norms, norms, rtol=1e-4)
    np.testing.assert_allclose(found_total, total, rtol=1e-3, atol=1e-6)
    assert not found_total[columns == 0].any()


class Tied(nn.Module):
    """One convolution and one linear layer, each used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.linear = nn.Linear(16, 16)

    def forward(self, x):
        hidden = self.conv(torch.relu(self.conv(x))).flatten(1)
        return self.linear(torch.relu(self.linear(hidden)))


@pytest.mark.parametrize("batch", [1, 4])
def test_gradients_of_a_parameter_used_twice_are_added_example_by_example(check_step, batch):
    check_step(Tied(), (batch, 1, 4, 4), 16)


def test_metrics_count_the_right_answers(compile_module, draw_batch):
    compiled = compile_module(build_module(layers_of(SMALL)), (6, 1, 7, 6))
    x, y = draw_batch((6, 1, 7, 6), 3)
    best = compiled.module(torch.from_numpy(x)).argmax(1).numpy()
    _, metrics = compiled.evaluate(x, y)
    assert metrics[:, 0].tolist() == (best == y).astype(float).tolist()


def test_both_graphs_hold_standard_operators_of_one_opset_only(compile_module):
    compiled = compile_module(build_module(layers_of(SMALL)), (4, 1, 7, 6))
    for model in (compiled.gradient_model, compiled.evaluate_model):
        assert {node.domain for node in model.graph.node} == {""}
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
        assert model.ir_version == 8
        assert not any(constant.name in {i.name for i in model.graph.input} for constant in model.graph.initializer)
        onnx.checker.check_model(model, full_check=True)


def test_the_graphs_inputs_and_outputs_are_the_designs(compile_module):
    def shapes(values) -> dict[str, list[int]]:
        return {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}

    compiled = compile_module(build_module(layers_of(SMALL)), (4, 1, 7, 6))
    num = compiled.layout.num_parameters
    shared = {"parameters": [num], "x": [4, 1, 7, 6], "y": [4], "mask": [4]}
    gradient, evaluate = compiled.gradient_model.graph, compiled.evaluate_model.graph
    assert shapes(gradient.input) == {**shared, "max_grad_norm": [], "segment_weight": [1]}
    assert shapes(gradient.output) == {"gradient_sum": [num], "loss_sum": [], "norms": [4]}
    assert shapes(evaluate.input) == shared
    assert shapes(evaluate.output) == {"losses": [4], "metrics": [4, 1]}


class PlaceDependent(nn.Module):
    """A weight for each place in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.ones(4, 1))

    def forward(self, x):
        return x.flatten(1) * self.place


def test_a_weight_for_a_place_in_the_batch_is_refused_by_name(compile_module):
    with pytest.raises(CouplingError, match=r"gradient of 'place' is no sum over the examples"):
        compile_module(PlaceDependent(), (4, 1, 2, 2))


class Offset(nn.Module):
    """Takes what all positions have in common off again, so that only their differences reach the loss."""

    def __init__(self, first: nn.Module, channels: int, axis: int) -> None:
        super().__init__()
        self.first, self.axis = first, axis
        self.norm = nn.LayerNorm(channels)
        self.last = nn.Linear(channels, 3)

    def forward(self, x):
        hidden = self.first(x)
        hidden = (hidden - hidden.mean(self.axis, keepdim=True)).movedim(self.axis, 1)
        return self.last(self.norm(torch.tanh(hidden)).tanh().mean(1))


OFFSETS = {
    "linear": (lambda: Offset(nn.Linear(16, 64), 64, 1), (2, 8, 16)),
    "pointwise": (lambda: Offset(nn.Conv1d(16, 48, 1), 48, 2), (2, 16, 6)),
    "convolution": (lambda: Offset(nn.Conv1d(16, 48, 3, padding=1, padding_mode="circular"), 48, 2), (2, 16, 6)),
    "many positions": (lambda: Offset(nn.Linear(6, 8), 8, 1), (2, 20, 6)),
}


@pytest.mark.parametrize("name", OFFSETS)
def test_one_example_alone_never_exceeds_its_clip_norm(compile_module, name):
    torch.manual_seed(0)
    make, shape = OFFSETS[name]
    compiled, rng = compile_module(make(), shape), np.random.default_rng(0)
    alone, y, positions = (
        np.array([1, 0], np.float32),
        np.array([1, 2]),
        1 if name in {"linear", "many positions"} else 2,
    )
    session = onnxruntime.InferenceSession(compiled.gradient_model.SerializeToString())
    terms = {"segment_weight": np.ones(1, np.float32), "max_grad_norm": np.array(0.1, np.float32)}
    common_shape = tuple(1 if axis in {0, positions} else size for axis, size in enumerate(shape))
    for exponent in np.repeat(np.arange(6), 6):
        common, spread = 10.0**exponent * rng.standard_normal(common_shape), 10 ** rng.uniform(-7, -1)
        x = (common + 10.0**exponent * spread * rng.standard_normal(shape)).astype(np.float32)
        (total,) = session.run(["gradient_sum"], {**compiled._inputs(x, y, alone), **terms})
        assert np.linalg.norm(total.astype(np.float64)) <= 0.1 * (1 + 1e-4)
