"""The client's folder: key, state, cached blobs, the update to send, ledgers and split keys, held by one process.

`forget` deletes all but ledgers and split keys: what was spent stays spent, and an example stays in its split. The
examples themselves are the app's and lie elsewhere.
"""

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Collection
from pathlib import Path
from types import TracebackType

from device_runtime.client_records import ClientState
from device_runtime.durable_files import OWNER_ONLY, sync_folder, write_durably
from device_runtime.folder_lock import FolderInUseError, lock_folder
from device_runtime.ledger import LedgerContent, read_ledger
from device_runtime.ledger_storage import LedgerFile
from device_runtime.signing import SigningKey
from profiles.records import RecordError, decode_record, encode_record

CACHE_BYTES = 256 * 2**20
SPLIT_KEY_BYTES = 32
_KEY, _STATE, _BLOBS, _OUTBOX, _LEDGERS, _SPLITS = "key.pem", "state.json", "blobs", "outbox", "ledgers", "splits"


class StateFolderError(RuntimeError):
    """A state folder cannot be used; the message says why and what to do."""


class StateFolderLockedError(StateFolderError):
    """Another process works on the folder."""


class BlobMissingError(Exception):
    """A blob is not in the folder, or no longer what its name says."""


class StateFolder:
    """Owns one client's folder, made if absent; a second process on it is refused until this one closes or dies."""

    def __init__(self, path: Path, cache_bytes: int = CACHE_BYTES) -> None:
        """Take the folder.

        Args:
            cache_bytes: Of cached blobs, beside those of the last assignment; see `evict`.

        Raises:
            StateFolderLockedError: A second process on this state folder.
        """
        self.path, self._cache_bytes = Path(path), cache_bytes
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _lock(self.path)
        for name in (_BLOBS, _OUTBOX, _LEDGERS, _SPLITS):
            (self.path / name).mkdir(mode=0o700, exist_ok=True)
        sync_folder(self.path)

    def __enter__(self) -> "StateFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have the folder."""
        self._lock.close()

    def load_key(self) -> SigningKey:
        """The device's key, drawn at the first call."""
        path = self.path / _KEY
        if not path.exists():
            write_durably(path, SigningKey.generate().to_pem(), OWNER_ONLY)
        try:
            return SigningKey.from_pem(path.read_bytes())
        except ValueError as error:
            raise StateFolderError(
                f"{path} holds no device key ({error}); put a copy back, or forget this enrolment: "
                f"handheld-device forget --state {self.path}"
            ) from error

    def load_state(self) -> ClientState | None:
        """The last state saved; None before the first."""
        path = self.path / _STATE
        if not path.exists():
            return None
        try:
            return decode_record(ClientState, path.read_bytes())
        except RecordError as error:
            raise StateFolderError(
                f"{path} cannot be read ({error}); forget this enrolment and enrol again: "
                f"handheld-device forget --state {self.path}"
            ) from error

    def save_state(self, state: ClientState) -> None:
        """Replace the state; it is on the disk when this returns."""
        write_durably(self.path / _STATE, encode_record(state), OWNER_ONLY)

    def read_blob(self, sha256: str) -> bytes:
        """A cached blob, checked against its name; raises `BlobMissingError`, after which it is surely gone."""
        return _read_checked(self.path / _BLOBS / sha256)

    def write_blob(self, sha256: str, data: bytes) -> bool:
        """Cache a download; False, and nothing is kept, where its bytes do not fit its hash."""
        if hashlib.sha256(data).hexdigest() != sha256:
            return False
        write_durably(self.path / _BLOBS / sha256, data)
        return True

    def evict(self, kept: Collection[str] = ()) -> None:
        """Drop the cached blobs that do not fit beside those used after them; between assignments.

        Args:
            kept: sha256 of blobs that stay whatever their size and are not counted: those of the last assignment,
                which the next one most likely names again.
        """
        total = 0
        for path in sorted((self.path / _BLOBS).iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True):
            size = path.stat().st_size
            if path.name in kept:
                continue
            if total + size > self._cache_bytes:
                path.unlink()
            else:
                total += size

    def write_update(self, data: bytes) -> str:
        """Store the update to send, in place of an older one; returns its sha256 once it is on the disk."""
        sha256 = hashlib.sha256(data).hexdigest()
        write_durably(self.path / _OUTBOX / sha256, data, OWNER_ONLY)
        for path in (self.path / _OUTBOX).iterdir():
            if path.name != sha256:
                path.unlink()
        return sha256

    def read_update(self, sha256: str) -> bytes:
        """The stored update; raises `BlobMissingError`."""
        return _read_checked(self.path / _OUTBOX / sha256)

    def split_key(self, source: str) -> bytes:
        """The secret by which a data source's examples are split, drawn once and kept through `forget`."""
        path = self.path / _SPLITS / source
        if not path.exists():
            if self.ledger_storage(source).read():
                raise StateFolderError(
                    f"{path} is missing and this source has a ledger; put a copy of it back: another key would move "
                    "examples to other splits, and the ledger's sums would no longer hold"
                )
            write_durably(path, os.urandom(SPLIT_KEY_BYTES), OWNER_ONLY)
        key = path.read_bytes()
        if len(key) != SPLIT_KEY_BYTES:
            raise StateFolderError(
                f"{path} must hold {SPLIT_KEY_BYTES} bytes, got {len(key)}; put a copy back: another key would move "
                "examples to other splits, and the ledger's sums would no longer hold"
            )
        return key

    def ledger_storage(self, source: str) -> LedgerFile:
        """Where the ledger of a data source lies."""
        return LedgerFile(self.path / _LEDGERS / f"{source}.jsonl")

    def forget(self) -> None:
        """Delete key, enrolment, state, cached blobs and unsent update; ledgers and split keys stay."""
        for name in (_STATE, _KEY):
            (self.path / name).unlink(missing_ok=True)
        for name in (_BLOBS, _OUTBOX):
            shutil.rmtree(self.path / name)
            (self.path / name).mkdir(mode=0o700)
        sync_folder(self.path)


def source_id(name: str) -> str:
    """The id of a data source by its name; ledger and split key are files of that name."""
    return hashlib.sha256(name.encode()).hexdigest()


def read_ledgers(path: Path) -> tuple[LedgerContent, ...]:
    """All ledgers of a state folder, in the order of their files' names, without its lock and without touching them.

    Raises:
        FileNotFoundError: There is no such folder.
        LedgerError: One is damaged.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is no state folder; name the one that `handheld-device run --state` was given")
    contents = (read_ledger(LedgerFile(file)) for file in sorted((path / _LEDGERS).glob("*.jsonl")))
    return tuple(content for content in contents if content is not None)


def _read_checked(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise BlobMissingError(f"blob {path.name} is not on this device") from error
    if hashlib.sha256(data).hexdigest() != path.name:
        path.unlink()
        raise BlobMissingError(f"blob {path.name} was damaged on this device")
    os.utime(path)  # what was used last is dropped last
    return data


def _lock(folder: Path) -> sqlite3.Connection:
    try:
        return lock_folder(folder)
    except FolderInUseError as error:
        raise StateFolderLockedError(
            f"{error}: a second process on this state folder would spend its budget twice; stop the other one, or name "
            "another folder for another device"
        ) from error
