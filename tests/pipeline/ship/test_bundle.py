import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import device_runtime
from device_runtime.specs import ExampleSpec
from pipeline.run_result import NoResultError, read_finished_run
from pipeline.ship.bundle import Bundle, BundleError, read_bundle, ship_run
from pipeline.ship.exporters import EXPORTERS, Exporter
from pipeline.ship.network import ShipError
from pipeline.ship.parity import ParityError
from profiles.records import RecordError, decode_record


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_manifest_holds_every_other_file_with_its_hash_and_size(shipped):
    files = contents(Path(shipped.folder))
    manifest = json.loads(files.pop("bundle.json"))
    assert manifest["schema"] == 1
    assert manifest["files"] == {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)} for name, data in files.items()
    }
    assert {"model.onnx", "model.ort", "model.required_operators.config", "model.pte", "MODEL_CARD.md"} <= set(files)


def test_the_manifest_names_what_was_shipped(shipped, digits):
    run, bundle = read_finished_run(digits.folder), shipped.bundle
    assert bundle.artifact_id == run.artifact.artifact_id
    data = (digits.folder / "models" / "1" / "parameters.safetensors").read_bytes()
    assert bundle.parameters_sha256 == hashlib.sha256(data).hexdigest()
    (variant,) = bundle.variants
    assert variant.name == "float32"
    assert [model.file for model in variant.files] == list(EXPORTERS)
    for model in variant.files:
        assert model.size_bytes == bundle.files[model.file].size_bytes
        assert 0 < model.max_difference <= 1e-4


def test_labels_and_specification_are_the_runs(shipped, digits):
    folder = Path(shipped.folder)
    spec = read_finished_run(digits.folder).result.spec
    assert (folder / "labels.txt").read_text().splitlines() == list(spec.labels)
    assert decode_record(ExampleSpec, (folder / "spec.json").read_bytes()) == spec


def test_an_app_infers_the_golden_outputs_from_the_bundle(shipped, tmp_path):
    folder = Path(shipped.folder)
    golden = load_file(folder / "golden.safetensors")
    app = device_runtime.App(terms=None, paths=device_runtime.AppPaths(tmp_path, folder))
    np.testing.assert_allclose(app.infer(golden["x"]), golden["logits"], atol=1e-4, rtol=1e-4)
    assert golden["probabilities"].argmax(1).tolist() == golden["logits"].argmax(1).tolist()
    np.testing.assert_allclose(golden["probabilities"].sum(1), 1, rtol=1e-6)


@pytest.mark.usefixtures("onnx_only")
def test_the_same_run_gives_the_same_bytes(digits, tmp_path):
    for name in ("first", "second"):
        ship_run(digits.folder, tmp_path / name)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


@pytest.mark.usefixtures("onnx_only")
def test_an_older_bundle_is_replaced_whole(digits, tmp_path, monkeypatch):
    monkeypatch.setitem(EXPORTERS, "model.old", Exporter(write_copy, EXPORTERS["model.onnx"].run, "old", "numpy"))
    ship_run(digits.folder, tmp_path / "bundle")
    monkeypatch.delitem(EXPORTERS, "model.old")
    (tmp_path / "bundle" / "labels.txt").write_text("altered")
    ship_run(digits.folder, tmp_path / "bundle")
    assert not (tmp_path / "bundle" / "model.old").exists()
    assert isinstance(read_bundle(tmp_path / "bundle"), Bundle)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def write_copy(_network, folder):
    (folder / "model.old").write_bytes((folder / "model.onnx").read_bytes())


@pytest.mark.usefixtures("onnx_only")
@pytest.mark.parametrize("has_bundle", [True, False])
def test_a_folder_with_anything_else_is_refused_and_left_alone(digits, tmp_path, has_bundle):
    folder = tmp_path / "bundle"
    if has_bundle:
        ship_run(digits.folder, folder)
    folder.mkdir(exist_ok=True)
    (folder / "thesis.txt").write_text("ten years")
    before = contents(folder)
    with pytest.raises(BundleError, match=r"holds thesis.txt, which is no part of a bundle; name an empty or a new"):
        ship_run(digits.folder, folder)
    assert contents(folder) == before


@pytest.mark.usefixtures("onnx_only")
def test_a_file_in_the_bundles_place_is_refused(digits, tmp_path):
    (tmp_path / "bundle").write_text("")
    with pytest.raises(BundleError, match="is a file; name a folder"):
        ship_run(digits.folder, tmp_path / "bundle")


@pytest.mark.usefixtures("onnx_only")
def test_a_refused_run_leaves_the_older_bundle_and_nothing_else(digits, tmp_path, monkeypatch):
    ship_run(digits.folder, tmp_path / "bundle")
    before = contents(tmp_path / "bundle")
    monkeypatch.setattr("pipeline.ship.parity.TOLERANCE", 0.0)
    with pytest.raises(ParityError):
        ship_run(digits.folder, tmp_path / "bundle")
    assert contents(tmp_path / "bundle") == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.usefixtures("onnx_only")
@pytest.mark.parametrize("spoil", ["alter", "remove", "forget"])
def test_a_spoilt_bundle_is_not_read(digits, tmp_path, spoil):
    ship_run(digits.folder, tmp_path / "bundle")
    file = tmp_path / "bundle" / ("bundle.json" if spoil == "forget" else "model.onnx")
    if spoil == "alter":
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    else:
        file.unlink()
    told = "name the folder that" if spoil == "forget" else "model.onnx in .* is missing or was altered; ship the run"
    with pytest.raises(BundleError, match=told):
        read_bundle(tmp_path / "bundle")


def test_a_folder_without_a_finished_run_is_told(tmp_path):
    with pytest.raises(NoResultError, match=r"has no result.json: name the folder of a finished run"):
        ship_run(tmp_path, tmp_path / "bundle")


def test_a_result_that_is_no_record_is_told(run_folder, tmp_path):
    (run_folder / "result.json").write_text('{"name": ')
    with pytest.raises(RecordError, match="RunResult must be JSON"):
        ship_run(run_folder, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.usefixtures("onnx_only")
def test_a_label_that_breaks_its_line_is_refused(digits, tmp_path, monkeypatch):
    run = read_finished_run(digits.folder)
    labels = ("ze\nro", *run.result.spec.labels[1:])
    object.__setattr__(run.result.spec, "labels", labels)
    monkeypatch.setattr("pipeline.ship.bundle.read_finished_run", lambda *_: run)
    monkeypatch.setattr("pipeline.ship.network._check_belongs_together", lambda _: None)
    with pytest.raises(ShipError, match=r"one label a line, got the label 'ze\\nro'; rename the class"):
        ship_run(digits.folder, tmp_path / "bundle")
