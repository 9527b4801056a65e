"""A server's state folder: its key, its nonce secret, the database and the blobs."""

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from device_runtime.signing import SigningKey
from pipeline.coordinator.blobs import BlobFolder, sweep
from pipeline.coordinator.store import Store

NONCE_SECRET_BYTES = 32


class StateError(OSError):
    """The state folder cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class ServerState:
    """What a server needs to come back as itself. Several processes may use one folder."""

    store: Store
    blobs: BlobFolder
    key: SigningKey
    nonce_secret: bytes = field(repr=False)


def open_state(folder: Path) -> ServerState:
    """Open or make a state folder, and delete what a crash left in it.

    Raises:
        StateError: It cannot be written, or a file in it is damaged.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key_pem = _read_or_make(folder / "server_key.pem", SigningKey.generate().to_pem())
        secret = _read_or_make(folder / "nonce_secret", os.urandom(NONCE_SECRET_BYTES))
        blobs = BlobFolder(folder / "blobs")
    except OSError as error:
        raise StateError(f"state folder {folder} cannot be used ({error.strerror}); choose one to write to") from error
    store = Store(f"sqlite:///{folder / 'handheld.db'}")
    sweep(store, blobs)
    return ServerState(store, blobs, _read_key(folder / "server_key.pem", key_pem), _checked_secret(folder, secret))


def _read_key(path: Path, pem: bytes) -> SigningKey:
    try:
        return SigningKey.from_pem(pem)
    except ValueError as error:
        raise StateError(
            f"{path} is damaged ({error}); restore it: devices that pinned the old key refuse a server with another"
        ) from error


def _checked_secret(folder: Path, secret: bytes) -> bytes:
    if len(secret) != NONCE_SECRET_BYTES:
        raise StateError(
            f"{folder / 'nonce_secret'} must hold {NONCE_SECRET_BYTES} bytes, got {len(secret)}; "
            "delete it: devices then ask for a new nonce once"
        )
    return secret


def _read_or_make(path: Path, content: bytes) -> bytes:
    """The file's bytes; where there is none, `content` becomes them, whole and readable by its owner alone."""
    if not path.exists():
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")  # mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            _link(Path(temporary), path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    return path.read_bytes()


def _link(temporary: Path, path: Path) -> None:
    """Give the file its name unless another server, started at the same time, was first: then both use that one's."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return
