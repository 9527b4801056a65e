"""Make artifacts, measurement packs and parameters available to devices. Each function opens its own transaction."""

from pathlib import Path

from device_runtime.arrays import Vector
from device_runtime.artifact import FILES, FROZEN, ArtifactError, read_artifact
from device_runtime.measurement_pack import MANIFEST, read_pack
from device_runtime.vectors import read_vector, write_vector
from device_runtime.wire import MAX_BLOB_BYTES
from pipeline.coordinator.blobs import BlobFolder, add_blob
from pipeline.coordinator.store import Store


def publish_artifact(store: Store, blobs: BlobFolder, folder: Path) -> str:
    """Publish a compiled artifact's manifest, graphs and frozen tensors and return its id.

    Publishing again changes nothing, and artifacts with the same frozen tensors share one blob.

    Raises:
        ArtifactError: A file is missing, corrupt, or larger than what a client downloads.
    """
    artifact = read_artifact(folder)
    names = FILES if artifact.manifest.frozen is None else (*FILES, FROZEN)
    contents = {name: (folder / name).read_bytes() for name in names}
    for name, data in contents.items():
        if len(data) > MAX_BLOB_BYTES:
            raise ArtifactError(
                f"{folder / name} has {len(data)} bytes and a client downloads {MAX_BLOB_BYTES} at most; make the "
                "network smaller"
            )
    with store.transaction():
        for data in contents.values():
            add_blob(store, blobs, data, "artifact")
    return artifact.artifact_id


def publish_pack(store: Store, blobs: BlobFolder, folder: Path) -> str:
    """Publish a measurement pack's manifest and graphs and return its id; publishing again changes nothing.

    Raises:
        PackError: A file is missing or corrupt.
    """
    pack = read_pack(folder)
    with store.transaction():
        for data in ((folder / MANIFEST).read_bytes(), *pack.graphs.values()):
            add_blob(store, blobs, data, "pack")
    return pack.pack_id


def publish_parameters(store: Store, blobs: BlobFolder, parameters: Vector) -> str:
    """Publish parameters f32[P] to start from and return the blob's sha256."""
    with store.transaction():
        return add_blob(store, blobs, write_vector("parameters", parameters), "parameters")


def read_aggregate(blobs: BlobFolder, sha256: str, num_parameters: int) -> Vector:
    """The mean update f32[P] that a closed round kept."""
    return read_vector(blobs.get(sha256), "parameter_update", num_parameters)
