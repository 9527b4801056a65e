"""Keep a folder to one process at a time."""

import sqlite3
from pathlib import Path

LOCK = "lock"


class FolderInUseError(RuntimeError):
    """Another process has locked the folder."""


def lock_folder(folder: Path) -> sqlite3.Connection:
    """Lock a folder until what is returned is closed or the process ends, however it ends; a child does not inherit it.

    Raises:
        FolderInUseError: Another process has locked it; one that is suspended, too.
        OSError: Nothing can be written into it.
    """
    # SQLite's file lock is the operating system's, on every platform, and goes with the process however it ends.
    try:
        connection = sqlite3.connect(folder / LOCK, timeout=0, isolation_level=None)
    except sqlite3.OperationalError as error:
        raise OSError(f"{folder} cannot be locked ({error}); name a folder you may write to") from error
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        connection.close()
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            raise FolderInUseError(f"{folder} is in use by another process") from error
        raise OSError(f"{folder} cannot be locked ({error}); name a folder you may write to") from error
    return connection
