"""Make artifacts, measurement packs and parameters available to devices. Each function opens its own transaction."""

from pathlib import Path

from device_runtime.arrays import Vector
from device_runtime.artifact import FILES, read_artifact
from device_runtime.measurement_pack import MANIFEST, read_pack
from device_runtime.vectors import read_vector, write_vector
from pipeline.coordinator.blobs import BlobFolder, add_blob
from pipeline.coordinator.store import Store


def publish_artifact(store: Store, blobs: BlobFolder, folder: Path) -> str:
    """Publish a compiled artifact's manifest and graphs and return its id; publishing again changes nothing.

    Raises:
        ArtifactError: A file is missing or corrupt.
    """
    artifact = read_artifact(folder)
    with store.transaction():
        for name in FILES:
            add_blob(store, blobs, (folder / name).read_bytes(), "artifact")
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
