"""Open the database; whatever is particular to SQLite is here and nowhere else."""

import sqlite3
from typing import Any, Literal

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

Synchronous = Literal["FULL", "NORMAL", "OFF"]
BUSY_TIMEOUT_S = 30


def open_engine(url: str, synchronous: Synchronous) -> Engine:
    """An engine with one connection, whose transactions exclude those of every other process.

    Args:
        url: `sqlite:///path`, or `sqlite://` for a database in memory.
        synchronous: See `Store`.
    """
    engine = create_engine(url, poolclass=StaticPool)
    if engine.dialect.name == "sqlite":
        _set_up_sqlite(engine, synchronous)
    return engine


def is_disk_error(error: DBAPIError) -> bool:
    """Whether the disk refused to be written to or read from, as a full one does."""
    code = getattr(error.orig, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code & 0xFF in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}  # the higher bits say which operation it was


def _set_up_sqlite(engine: Engine, synchronous: Synchronous) -> None:
    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver would begin a transaction late, at the first write
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute(f"PRAGMA synchronous = {synchronous}")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begun(connection: Any) -> None:
        # Taken at the first write instead, two transactions that read and then write would refuse each other.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
