import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from pipeline.compile.builder import CompileError, GraphBuilder
from pipeline.compile.losses import Loss


def run(loss, logits, y):
    """losses, gradient, metric as the graph computes them."""
    graph = GraphBuilder()
    terms = loss.terms(graph, graph.input("logits", logits.shape), graph.input("y", y.shape, y.dtype))
    outputs = {"losses": terms.losses, "gradient": terms.gradient, "metric": terms.metric}
    model = graph.to_model(outputs, "loss").SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(list(outputs), {"logits": logits, "y": y})


def torch_terms(function, logits, y):
    """Losses [B] and their gradients [B, K], each example a batch of its own, in float64."""
    values = torch.from_numpy(logits).double().requires_grad_()
    labels = torch.from_numpy(y) if y.dtype == np.int64 else torch.from_numpy(y).double()
    losses = torch.stack([function(values[i : i + 1], labels[i : i + 1]) for i in range(len(y))])
    (gradient,) = torch.autograd.grad(losses.sum(), values)
    return losses.detach().numpy(), gradient.numpy()


def draw_logits(data, rng):
    shape = data.draw(st.integers(1, 5), "batch"), data.draw(st.integers(2, 7), "outputs")
    return (rng.standard_normal(shape) * data.draw(st.sampled_from([0.0, 1.0, 40.0, 300.0]), "scale")).astype("f")


def check(loss, function, logits, y):
    losses, gradient, metric = run(loss, logits, y)
    wanted_losses, wanted_gradient = torch_terms(function, logits, y)
    np.testing.assert_allclose(losses, wanted_losses, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, wanted_gradient, rtol=1e-5, atol=1e-6)
    assert metric.shape == (len(y),)
    assert ((metric >= 0) & (metric <= 1)).all()
    return metric


@settings(max_examples=20)
@given(st.data(), st.sampled_from([0.0, 0.1, 0.9]))
def test_cross_entropy_is_torchs_with_label_smoothing(data, smoothing):
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    logits = draw_logits(data, rng)
    y = rng.integers(0, logits.shape[1], len(logits))
    loss = Loss("cross_entropy", smoothing)
    metric = check(loss, lambda z, t: functional.cross_entropy(z, t, label_smoothing=smoothing), logits, y)
    assert metric.tolist() == (logits.argmax(1) == y).astype(float).tolist()


@settings(max_examples=20)
@given(st.data())
def test_binary_cross_entropy_is_torchs_for_hard_and_soft_labels(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    logits = draw_logits(data, rng)
    soft = rng.random(logits.shape).astype(np.float32)
    y = soft if data.draw(st.booleans(), "soft") else np.round(soft)
    metric = check(Loss("bce_with_logits"), functional.binary_cross_entropy_with_logits, logits, y)
    np.testing.assert_allclose(metric, ((logits > 0) == (y > 0.5)).mean(1), rtol=1e-6)


@settings(max_examples=20)
@given(st.data())
def test_mean_squared_error_is_torchs(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    logits = draw_logits(data, rng)
    y = (logits + rng.standard_normal(logits.shape)).astype(np.float32)
    metric = check(Loss("mse"), functional.mse_loss, logits, y)
    np.testing.assert_allclose(metric, np.maximum(0, 1 - np.abs(logits - y)).mean(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hinge",), "loss must be one of bce_with_logits, cross_entropy, mse, got 'hinge'"),
        (("cross_entropy", 1.0), r"label_smoothing must be in \[0, 1\), got 1.0"),
        (("mse", 0.1), "label_smoothing goes with cross_entropy, not with mse"),
    ],
)
def test_what_is_no_loss_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Loss(*arguments)


def test_logits_of_another_rank_are_refused():
    graph = GraphBuilder()
    with pytest.raises(CompileError, match=r"must give \[batch, outputs\], got \[2, 3, 4\]; flatten or average"):
        Loss().terms(graph, graph.input("logits", (2, 3, 4)), graph.input("y", (2,), np.int64))
