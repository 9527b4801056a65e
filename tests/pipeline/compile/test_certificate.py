import json
from dataclasses import fields, replace

import numpy as np
import pytest

from device_runtime.artifact import read_artifact
from device_runtime.session import StepSession
from device_runtime.specs import ExampleSpec
from pipeline.compile import certificate, graphs, losses, rules_layers
from pipeline.compile.artifact import CompileRequest, compile_artifact, flatten_parameters, initial_parameters
from pipeline.compile.certificate import Certificate, CertificateError, Errors, certify
from pipeline.compile.comparison import Comparison, median_of
from pipeline.compile.values import Materialised, Outer, Plain
from pipeline.network import build_module
from profiles.records import decode_record
from search.architecture import Architecture, Stage, Stem
from search.layers import layers_of

SMALL = Architecture((1, 6, 6), 3, Stem(3), (Stage("depthwise", 4),), activation="hard_swish")
REQUEST = CompileRequest(SMALL, ExampleSpec(SMALL.input_shape, ("a", "b", "c")), 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certified") / "artifact"
    compile_artifact(REQUEST, folder)
    return folder


def certify_as(folder, architecture: Architecture) -> Certificate:
    module = build_module(layers_of(architecture))
    return certify(read_artifact(folder), module, flatten_parameters(module))


def compile_broken(tmp_path) -> None:
    compile_artifact(REQUEST, tmp_path / "artifact")


def test_a_certificate_tells_what_was_checked_and_how_far_off_it_was(folder):
    written = decode_record(Certificate, (folder / "certificate.json").read_bytes())
    again = certify_as(folder, SMALL)
    assert replace(written, step_ms=0, evaluate_ms=0) == replace(again, step_ms=0, evaluate_ms=0)
    assert written.artifact_id == read_artifact(folder).artifact_id
    assert all(getattr(written.errors, field.name) <= 1e-5 for field in fields(Errors))
    assert written.errors.gradient > 0
    assert written.step_ms > 0
    assert any("float64" in line for line in written.checks)
    assert set(written.versions) == {"onnxruntime", "torch"}


def test_another_network_than_the_compiled_one_is_told_by_its_parameter(folder):
    with pytest.raises(CertificateError, match=r"gradient of 'classifier.bias' differs from torch"):
        certify_as(folder, replace(SMALL, activation="relu"))


def test_examples_that_cancel_are_no_error(tmp_path):
    # Behind dead units only the last bias learns, and two classes pull it in opposite ways.
    stages = (Stage("depthwise", 1, kernel=1), Stage("depthwise", 1, kernel=1))
    cancelling = Architecture((1, 5, 5), 2, Stem(1, 1), stages)
    for batch_size in (1, 2, 4):
        compile_artifact(
            CompileRequest(cancelling, ExampleSpec((1, 5, 5), ("a", "b")), batch_size), tmp_path / "artifact"
        )


def test_a_wrong_input_gradient_blames_the_layer_before_it(tmp_path, monkeypatch):
    right = rules_layers.input_gradient

    def wrong(graph, window, *arguments):
        dx = right(graph, window, *arguments)
        return graph.op("Mul", dx, graph.constant(0.99, np.float32)) if window.is_pointwise() else dx

    monkeypatch.setattr(rules_layers, "input_gradient", wrong)
    with pytest.raises(CertificateError, match=r"'stages.0.0.depthwise.bias' .* from the loss backwards; replace"):
        compile_broken(tmp_path)


def test_a_wrong_weight_gradient_blames_its_layer(tmp_path, monkeypatch):
    right = rules_layers.weight_gradients

    def wrong(graph, *arguments):
        return graph.op("Add", right(graph, *arguments), graph.constant(1e-2, np.float32))

    monkeypatch.setattr(rules_layers, "weight_gradients", wrong)
    with pytest.raises(CertificateError, match=r"gradient of 'stages.0.0.pointwise.weight' differs from torch"):
        compile_broken(tmp_path)


@pytest.mark.parametrize("kind", [Materialised, Outer])
def test_a_wrong_norm_is_found_though_the_unclipped_sum_is_right(tmp_path, monkeypatch, kind):
    squared_norms = kind.squared_norms

    def wrong(self, graph):
        return graph.op("Mul", squared_norms(self, graph), graph.constant(1.01, np.float32))

    monkeypatch.setattr(kind, "squared_norms", wrong)
    with pytest.raises(CertificateError):
        compile_broken(tmp_path)


def test_a_wrong_loss_is_found(tmp_path, monkeypatch):
    def wrong(graph, logits, y, smoothing):
        terms = losses.cross_entropy(graph, logits, y, smoothing)
        return replace(terms, losses=graph.op("Mul", terms.losses, graph.constant(1.001, np.float32)))

    monkeypatch.setitem(losses._TERMS, "cross_entropy", wrong)
    with pytest.raises(CertificateError, match=r"the compiled step's loss error is .*, above 0\.0001"):
        compile_broken(tmp_path)


def test_a_missing_clip_is_found_by_the_comparison_and_by_removing_an_example(tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "_clip_factors", lambda graph, norms, _: graph.op("Div", norms, norms))
    with pytest.raises(CertificateError, match="differs from torch"):
        compile_broken(tmp_path)
    monkeypatch.setattr(certificate, "_check_comparison", lambda *_: None)
    with pytest.raises(CertificateError, match="the compiled step's removal error is"):
        compile_broken(tmp_path)


def test_a_norm_that_depends_on_other_examples_is_found_by_replacing_one(tmp_path, monkeypatch):
    def coupled(graph, node, inputs):
        (y,) = graphs.rules_elementwise.elementwise(graph, node, inputs)
        mean = graph.op("ReduceMean", y.tensor, axes=[0], keepdims=1)
        return (Plain(graph.op("Sub", y.tensor, mean), is_batched=True),)

    monkeypatch.setitem(graphs.RULES, "Clip", coupled)
    monkeypatch.setattr(certificate, "_check_comparison", lambda *_: None)
    with pytest.raises(CertificateError, match="the compiled step's independence error is"):
        compile_broken(tmp_path)


def test_a_step_that_overflows_is_refused_though_a_session_would_hide_it(folder, monkeypatch):
    monkeypatch.setattr(certificate, "EXTREME_SCALE", 1e30)
    with pytest.raises(CertificateError, match=r"not finite on inputs scaled by 1e\+30"):
        certify_as(folder, SMALL)


def test_a_failed_certificate_leaves_no_artifact(tmp_path, monkeypatch):
    monkeypatch.setattr(certificate, "TOLERANCE", 0.0)
    monkeypatch.setattr(certificate, "FLOAT32_ALLOWANCE", 0.0)
    with pytest.raises(CertificateError, match="above 0"):
        compile_broken(tmp_path)
    assert list(tmp_path.iterdir()) == []


def compared(error: float) -> Comparison:
    return Comparison(0.0, 0.0, {"w": error})


def test_one_batch_at_a_kink_is_forgiven_and_most_batches_are_not():
    certificate._check_comparison(median_of([compared(e) for e in (0, 0.1, 0)]), compared(0))
    with pytest.raises(CertificateError, match=r"'w' differs from torch by 0.1 \(relative\), above 0.0001"):
        certificate._check_comparison(median_of([compared(e) for e in (0.1, 0.1, 0)]), compared(0))


def test_nan_is_an_error_and_not_a_small_number():
    with pytest.raises(CertificateError, match="'w' differs from torch by nan"):
        certificate._check_comparison(median_of([compared(e) for e in (0, float("nan"), 0)]), compared(0))


def test_where_torchs_own_rounding_is_large_more_is_allowed():
    certificate._check_comparison(compared(9e-4), compared(1e-5))
    with pytest.raises(CertificateError, match=r"above 0\.001"):
        certificate._check_comparison(compared(2e-3), compared(1e-5))


def test_masked_examples_of_zeros_are_exact_zeros_however_deep_the_normalisations(tmp_path):
    # At x = 0 each normalisation multiplies a gradient by 1 / sqrt(epsilon) = 316: soon beyond float32.
    stage = Stage("inverted", 2, depth=8, kernel=1, expansion=2)
    deep = Architecture((1, 4, 4), 2, Stem(2, 1), (stage,), "flatten", "group", "hard_swish")
    request = CompileRequest(deep, ExampleSpec(deep.input_shape, ("a", "b")), 4)
    session = StepSession(compile_artifact(request, tmp_path / "artifact"))
    x, y = np.random.default_rng(0).standard_normal((1, 1, 4, 4)).astype(np.float32), np.array([1])
    gradient_sum, _, norms = session.gradient(initial_parameters(deep, 0), x, y)  # and three rows of padding
    assert np.isfinite(gradient_sum).all()
    assert np.linalg.norm(gradient_sum) == pytest.approx(norms[0], rel=1e-4)


def test_a_certificate_is_plain_json(folder):
    plain = json.loads((folder / "certificate.json").read_bytes())
    assert set(plain["errors"]) == {"loss", "norm", "gradient", "independence", "removal"}
