"""Every check of the certificate finds the broken part of a step that it is there for."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.compile import cases, certificate, graphs, losses
from pipeline.compile.artifact import compile_artifact
from pipeline.compile.losses import Loss
from pipeline.compile.steady_points import TOLERANCE, CertificateError
from pipeline.compile.values import Materialised, Outer
from tests.pipeline.compile.broken import compile_broken, scaled


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("loss", ["cross_entropy", "bce_with_logits", "mse"])
@pytest.mark.parametrize(
    "broken",
    [
        ("losses", 1.001, r"loss error is 0\.001, above 0\.0001"),
        ("metric", 0.999, r"metric error is 0\.00\d+, above 0\.0001"),
    ],
)
def test_a_wrong_loss_or_metric_is_found(tmp_path, monkeypatch, loss, broken):
    right, (term, factor, error) = losses._TERMS[loss], broken

    def wrong(graph, logits, y, smoothing):
        terms = right(graph, logits, y, smoothing)
        return replace(terms, **{term: scaled(graph, getattr(terms, term), factor)})

    monkeypatch.setitem(losses._TERMS, loss, wrong)
    with pytest.raises(CertificateError, match=f"the compiled step's {error}"):
        compile_artifact(nn.Linear(3, 2), torch.zeros(3), 2, tmp_path / "artifact", batch_size=4, loss=Loss(loss))


@pytest.mark.usefixtures("unmeasured")
def test_a_smoothing_that_is_left_out_is_found(tmp_path, monkeypatch):
    right = losses._TERMS["cross_entropy"]
    monkeypatch.setitem(losses._TERMS, "cross_entropy", lambda graph, logits, y, _: right(graph, logits, y, 0.0))
    with pytest.raises(CertificateError, match="differs from torch"):
        compile_artifact(
            nn.Linear(3, 2), torch.zeros(3), 2, tmp_path / "artifact", loss=Loss(label_smoothing=0.1), batch_size=4
        )


@pytest.mark.usefixtures("unmeasured")
def test_a_segment_that_is_clipped_with_the_others_is_found(tmp_path, monkeypatch):
    right = graphs._norms

    def wrong(graph, layout, shares, weights):
        return right(graph, layout, shares, dict.fromkeys(weights, graph.constant([1.0], np.float32)))

    monkeypatch.setattr(graphs, "_norms", wrong)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with pytest.raises(CertificateError, match="with segment 'head' alone"):
        compile_artifact(
            module, torch.zeros(3), 2, tmp_path / "artifact", batch_size=4, segments={"head": "2.*", "rest": "0.*"}
        )


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("alone", ["table.weight", "unused"])
def test_a_gradient_that_comes_from_nowhere_is_found_in_a_segment_that_has_none(tmp_path, monkeypatch, alone):
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head, self.unused = nn.Linear(3, 4), nn.Linear(4, 2), nn.Parameter(torch.ones(3))

        def forward(self, x):
            return self.head(1e-9 * self.table(x) + x[:, :1]) + 0 * self.unused.sum()

    right = graphs._shares

    def wrong(graph, raw, layout, known):  # of the whole gradient it would be rounding
        shares = right(graph, raw, layout, known)
        share = shares[alone].per_example(graph)
        shares[alone] = Materialised(graph.op("Add", share, graph.constant(np.float32(2e-6))))
        return shares

    monkeypatch.setattr(graphs, "_shares", wrong)
    torch.manual_seed(0)
    with pytest.raises(CertificateError, match=rf"gradient of '{alone}' differs .* with segment 'alone' alone"):
        compile_artifact(Cut(), torch.zeros(3), 2, tmp_path / "artifact", batch_size=4, segments={"alone": alone})


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("factor", [-5.0, 0.97])
@pytest.mark.parametrize("gate", [0.0, 1e-6, 1e-3])
def test_a_wrong_gradient_behind_a_nearly_closed_gate_is_found(tmp_path, monkeypatch, gate, factor):
    class LayerScale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
            self.gamma = nn.Parameter(torch.full((8,), gate))

        def forward(self, x):
            x = self.stem(x)
            return self.head(x + self.gamma * torch.tanh(self.block(x)))

    right = graphs._shares

    def wrong(graph, raw, layout, known):
        shares = right(graph, raw, layout, known)
        shares["block.weight"] = Materialised(scaled(graph, shares["block.weight"].per_example(graph), factor))
        return shares

    monkeypatch.setattr(graphs, "_shares", wrong)
    torch.manual_seed(0)
    with pytest.raises(CertificateError, match=r"gradient of 'block\.weight' differs"):
        compile_artifact(LayerScale(), torch.zeros(6), 3, tmp_path / "artifact", batch_size=4)


@pytest.mark.usefixtures("unmeasured")
def test_a_gradient_that_is_right_at_the_first_parameters_alone_is_found_at_the_moved_ones(tmp_path, monkeypatch):
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    first = module.weight.detach().numpy().copy()
    right = graphs._shares

    def wrong(graph, raw, layout, known):
        shares = right(graph, raw, layout, known)
        moved = graph.op("Sub", known["weight"].tensor, graph.constant(first))
        shares["weight"] = Materialised(graph.op("Add", shares["weight"].per_example(graph), moved))
        return shares

    monkeypatch.setattr(graphs, "_shares", wrong)
    with pytest.raises(CertificateError, match="gradient of 'weight' differs from torch"):
        compile_artifact(module, torch.zeros(3), 2, tmp_path / "artifact", batch_size=4)


def without_bias(right, graph, raw, layout, known):
    shares = right(graph, raw, layout, known)
    del shares["2.bias"]
    return shares


def without_first_segment(right, graph, layout, shares, weights):
    kept = {name: share for name, share in shares.items() if layout.segment_of[name] != "first"}
    return right(graph, layout, kept, weights)


def unmasked(_right, _graph, _mask, values):
    return values


def with_the_largest_norm(right, graph, norms, max_grad_norm):
    return right(graph, graph.op("ReduceMax", norms, keepdims=1, axes=[0]), max_grad_norm)


def leaking(right, graph, raw, layout, known):
    """A thousandth of an example's gradient goes to the next."""
    shares = right(graph, raw, layout, known)
    own = shares["2.weight"].per_example(graph)
    order = graph.constant(np.roll(np.arange(own.shape[0]), 1))
    shares["2.weight"] = Materialised(graph.op("Add", own, scaled(graph, graph.op("Gather", own, order, axis=0), 1e-3)))
    return shares


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    ("part", "wrong", "message"),
    [
        ("_shares", without_bias, "gradient of '2.bias' differs"),
        ("_norms", without_first_segment, r"norm error is .*, and '0.weight' explains it best"),
        ("_where_unmasked", unmasked, "the compiled (step's loss error|gradient of '2.bias')"),
        ("_clip_factors", with_the_largest_norm, "gradient of '2.bias' differs"),
        ("_shares", leaking, "(gradient of '2.weight'|step's norm)"),
    ],
)
def test_a_part_of_the_step_that_is_wrong_is_found(tmp_path, monkeypatch, part, wrong, message):
    monkeypatch.setattr(graphs, part, partial(wrong, getattr(graphs, part)))
    torch.manual_seed(0)
    module, segments = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), {"first": "0.*", "last": "2.*"}
    with pytest.raises(CertificateError, match=message):
        compile_artifact(module, torch.zeros(3), 2, tmp_path / "artifact", batch_size=4, segments=segments)


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("kind", [Materialised, Outer])
def test_a_wrong_norm_is_found_though_the_unclipped_sum_is_right(tmp_path, monkeypatch, kind):
    squared_norms = kind.squared_norms
    monkeypatch.setattr(kind, "squared_norms", lambda self, graph: scaled(graph, squared_norms(self, graph), 1.01))
    with pytest.raises(CertificateError, match=r"norm error is 0\.00.*, above 0\.0001, and '.*' explains it best"):
        compile_broken(tmp_path)


@pytest.mark.usefixtures("unmeasured")
def test_a_missing_clip_is_found_by_the_comparison_and_by_removing_an_example(tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "_clip_factors", lambda graph, norms, _: graph.op("Div", norms, norms))
    with pytest.raises(CertificateError, match="differs from torch"):
        compile_broken(tmp_path)
    monkeypatch.setattr(cases, "_complaint", lambda _: None)
    with pytest.raises(CertificateError, match=r"the compiled step's (replacement|removal) error is"):
        compile_broken(tmp_path)


@pytest.mark.usefixtures("unmeasured")
def test_a_clip_that_fails_far_from_zero_alone_is_found(tmp_path, monkeypatch):
    right = graphs._clip_factors

    def wrong(graph, norms, max_grad_norm):
        is_far = graph.op("Greater", norms, graph.constant(50.0, np.float32))
        factors = right(graph, norms, max_grad_norm)
        return graph.op("Where", is_far, scaled(graph, factors, 1.01), factors)

    monkeypatch.setattr(graphs, "_clip_factors", wrong)
    with pytest.raises(CertificateError, match="one example alone, far from zero, gives a sum of norm"):
        compile_artifact(nn.Linear(3, 2), torch.zeros(3), 2, tmp_path / "artifact", batch_size=4)


@pytest.mark.usefixtures("unmeasured")
def test_a_mask_that_leaves_something_of_an_example_is_found(tmp_path, monkeypatch):
    right = graphs._where_unmasked
    monkeypatch.setattr(cases, "_complaint", lambda _: None)
    monkeypatch.setattr(certificate, "isolate", lambda *_: certificate.Isolation(0.0, 0.0, 0.0))

    def wrong(graph, mask, values):
        return graph.op("Add", right(graph, mask, values), graph.constant(1e-30, np.float32))

    monkeypatch.setattr(graphs, "_where_unmasked", wrong)
    with pytest.raises(CertificateError, match="are not exactly zero when all examples are masked"):
        compile_broken(tmp_path)


@pytest.mark.usefixtures("unmeasured")
def test_a_failed_certificate_leaves_no_artifact(tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "_clip_factors", lambda graph, norms, _: graph.op("Div", norms, norms))
    with pytest.raises(CertificateError, match=f"above {TOLERANCE:g}"):
        compile_broken(tmp_path)
    assert list(tmp_path.iterdir()) == []
