"""Give devices the blobs that they may read, and count the bytes."""

from pipeline.coordinator.blobs import BlobFolder, UnknownBlobError, can_read
from pipeline.coordinator.cost_ledger import count_download
from pipeline.coordinator.store import Store


def check_readable(store: Store, sha256: str, device_id: str) -> None:
    """Raise UnknownBlobError unless the blob exists for this device; opens its own transaction."""
    with store.transaction():
        _check(store, sha256, device_id)


def read_blob(store: Store, blobs: BlobFolder, sha256: str, device_id: str) -> bytes:
    """A blob's bytes, counted as the cost of the assignment that the device holds; opens its own transaction.

    Raises:
        UnknownBlobError: There is none, or it is another device's.
    """
    with store.transaction():
        _check(store, sha256, device_id)
        data = blobs.get(sha256)
        count_download(store, device_id, len(data))
    return data


def _check(store: Store, sha256: str, device_id: str) -> None:
    if not can_read(store, sha256, device_id):
        raise UnknownBlobError(f"there is no blob {sha256:.80} for this device")
