import json
from pathlib import Path

import pytest

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
        ({"loss": "hinge"}, "loss 'hinge' is unknown here; known: cross_entropy"),
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
