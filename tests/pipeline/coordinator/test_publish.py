import hashlib
import shutil
from dataclasses import replace

import numpy as np
import pytest

from device_runtime.artifact import ArtifactError, check_artifact
from device_runtime.specs import FrozenTensors
from device_runtime.vectors import VectorError, read_parameters, write_frozen
from pipeline.coordinator.blobs import can_read
from pipeline.coordinator.publish import publish_artifact, publish_parameters, read_aggregate
from profiles.records import encode_record


def test_a_device_finds_every_file_by_its_hash(world):
    manifest = world.manifest()
    names = (world.artifact_id, manifest.gradient_sha256, manifest.evaluate_sha256)
    artifact = check_artifact(*map(world.blobs.get, names), expected_id=world.artifact_id)
    assert artifact.manifest == manifest
    parameters = read_parameters(world.blobs.get(world.parameters_sha256), manifest)
    assert np.array_equal(parameters, np.zeros(6, np.float32))


def test_publishing_again_changes_nothing(world, artifact_folder):
    before = world.blobs.names()
    assert publish_artifact(world.store, world.blobs, artifact_folder) == world.artifact_id
    assert publish_parameters(world.store, world.blobs, np.zeros(6, np.float32)) == world.parameters_sha256
    assert world.blobs.names() == before


def test_a_corrupt_artifact_is_not_published(world, artifact_folder, tmp_path):
    folder = shutil.copytree(artifact_folder, tmp_path / "copy")
    (folder / "gradient.onnx").write_bytes(b"other")
    before = world.blobs.names()
    with pytest.raises(ArtifactError, match=r"gradient\.onnx is corrupt"):
        publish_artifact(world.store, world.blobs, folder)
    assert world.blobs.names() == before


def test_artifacts_with_the_same_frozen_tensors_share_one_blob_that_devices_read(world, artifact_folder, tmp_path):
    data = write_frozen({"backbone": np.arange(6, dtype=np.float32).reshape(2, 3)})
    frozen = FrozenTensors(hashlib.sha256(data).hexdigest(), {"backbone": (2, 3)})
    before, ids = world.blobs.names(), []
    for name in ("first", "second"):
        folder = shutil.copytree(artifact_folder, tmp_path / name)
        manifest = replace(world.manifest(), architecture={"kind": name}, frozen=frozen)
        (folder / "manifest.json").write_bytes(encode_record(manifest))
        (folder / "frozen.safetensors").write_bytes(data)
        ids.append(publish_artifact(world.store, world.blobs, folder))
    assert sorted(set(world.blobs.names()) - set(before)) == sorted({*ids, frozen.sha256})
    assert world.blobs.get(frozen.sha256) == data
    with world.store.transaction():
        assert can_read(world.store, frozen.sha256, "any device")


def test_a_file_that_no_client_would_download_is_not_published(world, artifact_folder, monkeypatch):
    monkeypatch.setattr("pipeline.coordinator.publish.MAX_BLOB_BYTES", 7)
    with pytest.raises(ArtifactError, match=r"manifest\.json has \d+ bytes and a client downloads 7 at most"):
        publish_artifact(world.store, world.blobs, artifact_folder)


def test_an_aggregate_has_the_size_that_is_asked_for(world):
    with pytest.raises(VectorError, match="exactly the tensor 'parameter_update'"):
        read_aggregate(world.blobs, world.parameters_sha256, 6)
