"""Write files so that a power cut leaves the old content or the new one, never a mixture."""

import os
from pathlib import Path

READABLE = 0o644
OWNER_ONLY = 0o600


def write_durably(path: Path, data: bytes, mode: int = READABLE) -> None:
    """Replace the content of `path` at once; when this returns it is on the disk.

    Args:
        mode: Permissions of the new file.
    """
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    # Made with its permissions: a key must not be readable for a moment and private afterwards.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def append_durably(path: Path, data: bytes) -> None:
    """Add to the end of `path` (made if absent); when this returns it is on the disk."""
    is_new = not path.exists()
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_folder(path.parent)


def cut_durably(path: Path, size: int) -> None:
    """Drop what `path` holds beyond `size` bytes."""
    with path.open("r+b") as file:
        file.truncate(size)
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Put a folder's list of names on the disk; Windows does so by itself and cannot open folders."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
