import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from device_runtime.artifact import ArtifactError, RuntimeTooOldError, check_artifact, read_artifact, read_manifest


@pytest.fixture
def folder(artifact_files, tmp_path: Path) -> Path:
    for name, data in artifact_files.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def changed_manifest(files, **changes) -> bytes:
    return json.dumps(json.loads(files["manifest.json"]) | changes).encode()


def test_a_folder_is_read_and_named_by_its_manifest(folder, artifact):
    assert read_artifact(folder) == artifact
    assert read_artifact(folder, expected_id=artifact.artifact_id).manifest.num_parameters == 12


@pytest.mark.parametrize("name", ["gradient.onnx", "evaluate.onnx"])
def test_one_flipped_bit_is_refused_with_both_hashes_and_the_cure(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=rf"{name} is corrupt: sha256 expected \w{{64}}, found \w{{64}}; delete it"):
        read_artifact(folder)


def test_another_manifest_than_the_one_assigned_is_refused(folder):
    with pytest.raises(ArtifactError, match=r"manifest\.json is corrupt: sha256 expected 0000"):
        read_artifact(folder, expected_id="0" * 64)


def test_a_missing_file_is_named(folder):
    (folder / "evaluate.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"evaluate\.onnx cannot be read \(No such file"):
        read_artifact(folder)


def test_a_newer_schema_is_refused_by_name(artifact_files):
    with pytest.raises(ArtifactError, match=r"Manifest\.schema is 2, this version reads up to 1: update handheld"):
        read_manifest(changed_manifest(artifact_files, schema=2, new_key=1))


@pytest.mark.parametrize(
    ("found", "is_enough"),
    [("1.13.1", False), ("1.14", True), ("1.14.0+cpu", True), ("1.9.9", False), ("1.31.1", True), ("2.0rc1", True)],
)
def test_versions_of_the_runtime_compare_number_by_number(artifact_files, found, is_enough):
    if is_enough:
        read_manifest(artifact_files["manifest.json"], found)
        return
    with pytest.raises(RuntimeTooOldError, match=rf"needs ONNX Runtime 1\.14\.0, this is {found}: update") as caught:
        read_manifest(artifact_files["manifest.json"], found)
    assert (caught.value.needed, caught.value.found) == ("1.14.0", found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "hinge"}, "loss 'hinge' is unknown here; known: bce_with_logits, cross_entropy, mse"),
        ({"loss": "mse"}, "loss mse goes with target 'values', the specification has 'class'"),
        ({"frozen": {"sha256": "../key.pem", "shapes": {"w": [1]}}}, "sha256 must be 64 hexadecimal digits, got '../"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"num_parameters": 13}, "the layout holds 12 values and num_parameters says 13"),
        ({"segments": ["weights"]}, r"'linear.bias' must start at 9 in one of the segments \['weights'\]"),
        ({"minimum_runtime": "new"}, "must start with a number, got 'new'"),
        ({"bach_size": 4}, "unknown key 'bach_size': did you mean 'batch_size'"),
    ],
)
def test_a_manifest_that_cannot_be_obeyed_is_refused(artifact_files, changes, message):
    with pytest.raises(ArtifactError, match=message):
        read_manifest(changed_manifest(artifact_files, **changes))


def test_bytes_from_the_network_are_checked_like_files(artifact_files):
    manifest, gradient, evaluate = artifact_files.values()
    with pytest.raises(ArtifactError, match=r"gradient\.onnx is corrupt"):
        check_artifact(manifest, evaluate, gradient)


class TestFrozenTensors:
    @pytest.fixture
    def folder(self, towers_files, tmp_path: Path) -> Path:
        for name, data in towers_files("mse").items():
            (tmp_path / name).write_bytes(data)
        return tmp_path

    def test_they_are_read_from_the_folder_in_their_shapes(self, folder, towers_module):
        frozen = read_artifact(folder).frozen
        assert list(frozen) == ["backbone.weight"]
        np.testing.assert_array_equal(frozen["backbone.weight"], towers_module.backbone.weight.numpy())

    def test_a_file_that_the_manifest_does_not_name_is_not_looked_at(self, artifact_files, folder, artifact):
        for name, data in artifact_files.items():
            (folder / name).write_bytes(data)
        assert read_artifact(folder) == artifact
        assert read_artifact(folder).frozen == {}

    def test_a_missing_file_is_named_with_the_cure(self, folder):
        (folder / "frozen.safetensors").unlink()
        with pytest.raises(ArtifactError, match=r"needs frozen\.safetensors and it is not here; fetch or compile"):
            read_artifact(folder)

    def test_an_altered_file_is_refused(self, folder):
        data = bytearray((folder / "frozen.safetensors").read_bytes())
        data[-1] ^= 1
        (folder / "frozen.safetensors").write_bytes(data)
        with pytest.raises(ArtifactError, match=r"frozen\.safetensors is corrupt: sha256 expected"):
            read_artifact(folder)

    @pytest.mark.parametrize(
        ("tensors", "message"),
        [
            ({"other": np.zeros((64, 80), np.float32)}, r"exactly the tensors \['backbone\.weight'\], got \['other'\]"),
            ({"backbone.weight": np.zeros((80, 64), np.float32)}, r"must be float32 of shape \[64, 80\], got F32"),
            ({"backbone.weight": np.zeros((64, 80))}, r"must be float32 of shape \[64, 80\], got F64"),
            ({"backbone.weight": np.full((64, 80), np.nan, np.float32)}, "must be finite"),
        ],
    )
    def test_tensors_that_the_manifest_does_not_describe_are_refused(self, towers_files, tensors, message):
        files = towers_files("mse")
        data = save(tensors)
        frozen = json.loads(files["manifest.json"])["frozen"] | {"sha256": hashlib.sha256(data).hexdigest()}
        manifest = changed_manifest(files, frozen=frozen)
        with pytest.raises(ArtifactError, match=message):
            check_artifact(manifest, files["gradient.onnx"], files["evaluate.onnx"], data)
