import json
from dataclasses import fields, replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from device_runtime.artifact import read_artifact
from device_runtime.session import StepSession
from device_runtime.specs import ExampleSpec
from pipeline.compile import extremes
from pipeline.compile.artifact import CompileRequest, compile_architecture, compile_artifact, initial_parameters
from pipeline.compile.certificate import Certificate, Errors, certify
from pipeline.compile.export import export_forward
from pipeline.compile.graphs import layers_model
from pipeline.compile.ids import draw_inputs
from pipeline.compile.losses import Loss
from pipeline.compile.segments import layout_of
from pipeline.compile.steady_points import CertificateError
from pipeline.compile.writing import flatten_parameters
from pipeline.network import build_module
from profiles.records import decode_record
from search.architecture import Architecture, Stage, Stem
from search.layers import layers_of

SMALL = Architecture((1, 6, 6), 3, Stem(3), (Stage("depthwise", 4),), activation="hard_swish")
REQUEST = CompileRequest(SMALL, ExampleSpec(SMALL.input_shape, ("a", "b", "c")), 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certified") / "artifact"
    compile_architecture(REQUEST, folder)
    return folder


def certify_as(folder, architecture: Architecture) -> Certificate:
    module, artifact = build_module(layers_of(architecture)), read_artifact(folder)
    forward = export_forward(build_module(layers_of(SMALL)), {"x": torch.zeros(REQUEST.batch_size, *SMALL.input_shape)})
    layers = partial(layers_model, forward, layout_of(forward, {}))
    sample = partial(draw_inputs, artifact.manifest.spec, {})
    return certify(artifact, module, flatten_parameters(module), sample, layers)


def read_certificate(folder) -> Certificate:
    return decode_record(Certificate, (folder / "certificate.json").read_bytes())


def test_a_certificate_tells_what_was_checked_and_how_far_off_it_was(folder):
    written, again = read_certificate(folder), certify_as(folder, SMALL)
    fixed = {"step_ms": 0, "evaluate_ms": 0, "step_memory_mib": 0, "forms": {}, "ort_training": ""}
    assert replace(written, **fixed) == replace(again, **fixed)
    assert written.artifact_id == read_artifact(folder).artifact_id
    assert all(getattr(written.errors, field.name) <= 1e-5 for field in fields(Errors))
    assert 0 < written.errors.gradient_sum <= written.errors.gradient
    assert 0 < written.errors.gradient <= written.tolerance == 1e-4
    assert 0 < written.float32_error < 1e-5
    assert written.num_comparisons == 3 * 2 * 2  # batches, masks, clip norms
    assert written.step_ms > 0
    assert 0 < written.step_memory_mib < 100
    assert written.zero_inputs == "finite"
    assert any("float64" in line for line in written.checks)
    assert set(written.versions) == {"onnxruntime", "torch"}
    assert set(written.forms) == {entry.name for entry in read_artifact(folder).manifest.layout}


def test_a_certificate_is_plain_json(folder):
    plain = json.loads((folder / "certificate.json").read_bytes())
    assert set(plain["errors"]) == {field.name for field in fields(Errors)}


@pytest.mark.usefixtures("unmeasured")
def test_another_network_than_the_compiled_one_is_told_by_the_first_layer_that_differs(folder):
    with pytest.raises(
        CertificateError,
        match=r"gradient of 'classifier.bias' differs .*; the output of 'stem.activation' is the first",
    ):
        certify_as(folder, replace(SMALL, activation="relu"))


class Mixed(nn.Module):
    """Ids, numbers and one number an example; a frozen layer, a buffer, and a table that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.body = nn.Linear(6, 5).requires_grad_(False)
        self.head = nn.Linear(12, 3)
        self.register_buffer("shift", torch.tensor([0.5]))

    def forward(self, ids, numbers, scale):
        hidden = torch.tanh(self.body(numbers) + self.shift)[:, :4] * scale[:, None]
        return self.head(torch.cat([self.table(ids).flatten(1), hidden], 1))


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("loss", [Loss(), Loss(label_smoothing=0.1), Loss("bce_with_logits"), Loss("mse")], ids=str)
def test_several_inputs_and_every_loss_are_certified_and_each_segment_alone(tmp_path, loss):
    example = {"ids": torch.zeros(2, dtype=torch.int64), "numbers": torch.zeros(6), "scale": torch.tensor(1.0)}
    segments = {"head": "head.*", "table": "table.*"}
    torch.manual_seed(0)
    compile_artifact(Mixed(), example, 3, tmp_path / "artifact", batch_size=4, loss=loss, segments=segments)
    certified = read_certificate(tmp_path / "artifact")
    assert certified.num_comparisons == 3 * 2 * 2 * 3  # together, and each of two alone
    assert max(vars(certified.errors).values()) < 1e-5
    assert "2 segments together and each alone" in certified.checks[0]


@pytest.mark.usefixtures("unmeasured")
def test_examples_that_cancel_are_no_error(tmp_path):
    # Behind dead units only the last bias learns, and two classes pull it in opposite ways.
    stages = (Stage("depthwise", 1, kernel=1), Stage("depthwise", 1, kernel=1))
    cancelling = Architecture((1, 5, 5), 2, Stem(1, 1), stages)
    for batch_size in (1, 2, 4):
        compile_architecture(
            CompileRequest(cancelling, ExampleSpec((1, 5, 5), ("a", "b")), batch_size), tmp_path / "artifact"
        )


class BehindNormalisation(nn.Module):
    """A bias that the normalisation takes away again, and one that all classes share: no gradient but rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(1, 3, 3), nn.GroupNorm(3, 3), nn.Linear(48, 3)
        self.shift, self.unused = nn.Parameter(torch.tensor([0.3])), nn.Parameter(torch.ones(2))

    def forward(self, x):
        return self.head(torch.tanh(self.norm(self.stem(x))).flatten(1)) + self.shift


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("alone", ["stem.bias", "shift", "unused"])
def test_a_segment_without_a_gradient_is_certified(tmp_path, alone):
    torch.manual_seed(0)
    segments = {"alone": alone}
    compile_artifact(BehindNormalisation(), torch.zeros(1, 6, 6), 3, tmp_path / "a", batch_size=3, segments=segments)
    assert read_certificate(tmp_path / "a").errors.gradient < 1e-5


class Padded(nn.Module):
    """The mean over the ids that are not 0: of none where all are."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, ids):
        is_used = (ids != 0).float()[:, :, None]
        return self.head((self.table(ids) * is_used).sum(1) / is_used.sum(1))


@pytest.mark.usefixtures("unmeasured")
def test_an_example_of_padding_alone_is_left_out(tmp_path):
    compile_artifact(Padded(), torch.arange(5), 3, tmp_path / "artifact", batch_size=4)
    assert read_certificate(tmp_path / "artifact").zero_inputs == extremes.LEFT_OUT


class Root(nn.Module):
    """A length without a small number under its root."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.head = nn.Parameter(torch.ones(4)), nn.Linear(4, 3)

    def forward(self, x):
        scaled = x * self.scale
        return self.head(torch.sqrt(scaled * scaled))


@pytest.mark.usefixtures("unmeasured")
def test_a_root_that_has_no_gradient_at_zero_leaves_examples_of_zeros_out(tmp_path):
    compile_artifact(Root(), torch.zeros(4), 3, tmp_path / "artifact", batch_size=4)
    assert read_certificate(tmp_path / "artifact").zero_inputs == extremes.LEFT_OUT


@pytest.mark.usefixtures("unmeasured")
def test_a_step_that_overflows_is_refused_though_a_session_would_hide_it(folder, monkeypatch):
    monkeypatch.setattr(extremes, "EXTREME_SCALE", 1e30)
    with pytest.raises(CertificateError, match=r"not finite on inputs scaled by 1e\+30"):
        certify_as(folder, SMALL)


@pytest.mark.usefixtures("unmeasured")
def test_a_gradient_whose_square_exceeds_float32_is_told_as_such(tmp_path):
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        module[0].weight.mul_(1e-20), module[0].bias.zero_(), module[1].weight.mul_(1e21)
    with pytest.raises(CertificateError, match=r"gradient has norm .*e\+2\d, in torch too, and its square exceeds"):
        compile_artifact(module, torch.zeros(2), 2, tmp_path / "artifact", batch_size=4)


@pytest.mark.usefixtures("unmeasured")
def test_masked_examples_of_zeros_are_exact_zeros_however_deep_the_normalisations(tmp_path):
    # At x = 0 each normalisation multiplies a gradient by 1 / sqrt(epsilon) = 316: soon beyond float32.
    stage = Stage("inverted", 2, depth=8, kernel=1, expansion=2)
    deep = Architecture((1, 4, 4), 2, Stem(2, 1), (stage,), "flatten", "group", "hard_swish")
    request = CompileRequest(deep, ExampleSpec(deep.input_shape, ("a", "b")), 4)
    session = StepSession(compile_architecture(request, tmp_path / "artifact"))
    assert read_certificate(tmp_path / "artifact").zero_inputs == extremes.LEFT_OUT
    x, y = np.random.default_rng(0).standard_normal((1, 1, 4, 4)).astype(np.float32), np.array([1])
    gradient_sum, _, norms = session.gradient(initial_parameters(deep, 0), x, y)  # and three rows of padding
    assert np.isfinite(gradient_sum).all()
    assert np.linalg.norm(gradient_sum) == pytest.approx(norms[0], rel=1e-4)
