"""Blobs by sha256: their files in a folder, and the rows that say what each is and who may read it.

A file is written before its row, and rows and files change only while the write lock is held, so that a sweep by
another process never takes a file whose row is about to come. Rows of deleted blobs stay as history.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from sqlalchemy import bindparam, insert, or_, select, update

from pipeline.coordinator import tables
from pipeline.coordinator.rounds import Lease
from pipeline.coordinator.store import Store

BlobKind = Literal["artifact", "pack", "parameters", "update", "profile", "aggregate", "optimizer"]
UploadKind = Literal["update", "profile"]
SHARED_KINDS: tuple[BlobKind, ...] = ("artifact", "pack", "parameters")  # any enrolled device may read them

_B = tables.blobs.c
_IS_LIVE = _B.is_deleted.is_(False)
_FIND_READABLE = (
    select(_B.size)
    .where(_B.sha256 == bindparam("sha256"), _IS_LIVE)
    .where(or_(_B.kind.in_(SHARED_KINDS), _B.owner == bindparam("device")))
    .limit(1)
)
_FIND_UPLOAD = select(_B.sha256).where(_B.assignment_id == bindparam("assignment"), _IS_LIVE)
_ADD = insert(tables.blobs)


class UnknownBlobError(LookupError):
    """No such blob for this reader."""


class DamagedBlobError(Exception):
    """A blob's file was altered after it was written."""


class BlobFolder:
    """Files named by the sha256 of their bytes.

    Attributes:
        is_durable: Whether a file survives a power cut once `put` returned; False for emulated runs.
    """

    def __init__(self, folder: Path, is_durable: bool = True) -> None:
        self.folder, self.is_durable = folder, is_durable
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # raw updates are nobody else's

    def put(self, data: bytes) -> str:
        """Write the bytes and return their sha256; what is there already is not written again.

        Outside of the transaction that adds its row (`add_blob`), the next sweep may take the file.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.path(sha256)
        if not path.exists() or path.read_bytes() != data:
            self._write(path, data)
        return sha256

    def get(self, sha256: str) -> bytes:
        """The bytes.

        Raises:
            UnknownBlobError: There are none.
            DamagedBlobError: They are no longer what the name says.
        """
        try:
            data = self.path(sha256).read_bytes()
        except FileNotFoundError as error:
            raise UnknownBlobError(f"there is no blob {sha256}") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DamagedBlobError(f"blob {sha256} is damaged; put a copy of {self.path(sha256)} back")
        return data

    def path(self, sha256: str) -> Path:
        """Where the blob is or would be."""
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise UnknownBlobError(f"a blob's name must be 64 hexadecimal digits, got {sha256!r:.80}")
        return self.folder / sha256

    def delete(self, sha256: str) -> None:
        """Delete the file, if it is there."""
        self.path(sha256).unlink(missing_ok=True)

    def names(self) -> list[str]:
        """Every file, half-written ones included."""
        return sorted(entry.name for entry in os.scandir(self.folder) if entry.is_file())

    def _write(self, path: Path, data: bytes) -> None:
        handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=".")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                if self.is_durable:
                    file.flush()
                    os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        if self.is_durable:
            _sync_folder(self.folder)


def add_blob(store: Store, blobs: BlobFolder, data: bytes, kind: BlobKind, round_id: str | None = None) -> str:
    """Write a blob of the server's own, file and row, in the open transaction; one that is there stays."""
    sha256 = blobs.put(data)
    known = store.execute(select(_B.number).where(_B.sha256 == sha256, _B.kind == kind, _IS_LIVE).limit(1)).scalar()
    if known is None:
        store.execute(_ADD, _row(sha256, data, kind, round_id))
    return sha256


def add_upload(store: Store, blobs: BlobFolder, data: bytes, kind: UploadKind, lease: Lease) -> str:
    """Write what an assignment sends, file and row, in the open transaction."""
    sha256 = blobs.put(data)
    row = _row(sha256, data, kind, lease.round_id)
    store.execute(_ADD, row | {"owner": lease.device_id, "assignment_id": lease.assignment_id})
    return sha256


def find_upload(store: Store, assignment_id: str) -> str | None:
    """sha256 of the update or profile that an assignment sent; None before it did."""
    found: str | None = store.execute(_FIND_UPLOAD, {"assignment": assignment_id}).scalar()
    return found


def can_read(store: Store, sha256: str, device_id: str) -> bool:
    """Whether the blob exists and is the device's to read: shared, or its own upload."""
    return store.execute(_FIND_READABLE, {"sha256": sha256, "device": device_id}).first() is not None


def mark_uploads_deleted(store: Store, round_id: str, keeps_profiles: bool) -> tuple[str, ...]:
    """Mark what a round's devices sent; their files go with `delete_unused` once this is committed.

    Args:
        keeps_profiles: Leave the profiles that were reported, for a result that names them.
    """
    where = [_B.round_id == round_id, _B.kind.in_(("update", "profile")), _IS_LIVE]
    if keeps_profiles:
        reported = select(tables.reports.c.assignment_id).where(tables.reports.c.round_id == round_id)
        where.append(_B.assignment_id.not_in(reported))
    names = tuple(row.sha256 for row in store.execute(select(_B.sha256).where(*where)))
    store.execute(update(tables.blobs).where(*where).values(is_deleted=True))
    return names


def profiles_of_round(store: Store, round_id: str) -> dict[str, str]:
    """sha256 of the profiles that a closed round kept, by the id of their device, in that order."""
    query = select(_B.owner, _B.sha256).where(_B.round_id == round_id, _B.kind == "profile", _IS_LIVE)
    return {row.owner: row.sha256 for row in store.execute(query.order_by(_B.owner)).fetchall()}


def delete_unused(store: Store, blobs: BlobFolder, names: Iterable[str]) -> int:
    """Delete those files that no live row names, in a transaction of its own, and return how many went."""
    count = 0
    with store.transaction():
        for name in names:
            if store.execute(select(_B.number).where(_B.sha256 == name, _IS_LIVE).limit(1)).first() is None:
                (blobs.folder / name).unlink(missing_ok=True)
                count += 1
    return count


def sweep(store: Store, blobs: BlobFolder) -> int:
    """Delete whatever a crash left: half-written files, files without a row, files of deleted rows."""
    return delete_unused(store, blobs, blobs.names())


def _row(sha256: str, data: bytes, kind: BlobKind, round_id: str | None) -> dict[str, object]:
    return {
        "sha256": sha256,
        "size": len(data),
        "kind": kind,
        "owner": None,
        "round_id": round_id,
        "assignment_id": None,
        "is_deleted": False,
    }


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)  # a file's name is in its folder, which has to reach the disk as well
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
