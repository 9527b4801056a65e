"""The coordinator's database: frozen records in, frozen records out, one transaction at a time.

`Store` owns one connection, for one thread. Other processes open their own on the same file; transactions of all of
them follow one another, since each takes the write lock at its beginning. Rows of rounds are read and written in
`round_rows`, blobs in `blobs`, privacy and cost in their ledgers.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from sqlalchemy import Executable, Row, bindparam, insert, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.exc import DatabaseError

from device_runtime.wire import CheckIn
from pipeline.coordinator import tables
from pipeline.coordinator.database import Synchronous, is_disk_error, open_engine
from pipeline.coordinator.eligibility import Device
from pipeline.coordinator.plans import RoundPlan, Run
from profiles.records import canonical_json, decode_record, encode_record, to_plain

_LOAD_DEVICE = select(tables.devices).where(tables.devices.c.device_id == bindparam("id")).with_for_update()
_OPEN_RUNS = select(tables.runs.c.record).where(tables.runs.c.is_finished.is_(False)).order_by(tables.runs.c.run_id)


class StoreError(RuntimeError):
    """The database cannot be used, or does not hold what was asked for; the message says why and what to do."""


class Store:
    """Runs, devices and records, and the transactions of everything else.

    Every method belongs inside `with store.transaction():`, which is all or nothing. A function that takes a `Store`
    and opens its own transaction says so.

    Attributes:
        plans: Plans of open rounds by round id. A plan never changes and names every eligible device: decoding it for
            each request would make requests as slow as the fleet is large.
    """

    def __init__(self, url: str, synchronous: Synchronous = "FULL") -> None:
        """Open or make the database.

        Args:
            url: `sqlite:///path`, or `sqlite://` for one in memory.
            synchronous: FULL keeps what was acknowledged through a power cut; the others only through a killed
                process, for emulated runs. SQLite alone.

        Raises:
            StoreError: It cannot be opened, or a version with another schema wrote it.
        """
        self.engine = open_engine(url, synchronous)
        self.plans: dict[str, RoundPlan] = {}
        try:
            self._connection = self.engine.connect()
            with self.transaction():
                tables.METADATA.create_all(self._connection)
                self._check_schema(url)
        except DatabaseError as error:
            cure = "free space on its disk and try again" if is_disk_error(error) else "name a folder you may write to"
            raise StoreError(f"database {url} cannot be opened: {error.orig}; {cure}") from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Do all of the block or nothing of it; blocks of other processes come before or after it."""
        if self._connection.in_transaction():
            raise RuntimeError("a transaction is open: they do not nest, or half of one could be kept")
        with self._connection.begin():
            yield

    def execute(self, statement: Executable, values: Any = None) -> CursorResult[Any]:
        """Run one statement in the open transaction."""
        if not self._connection.in_transaction():
            raise RuntimeError("no transaction is open: use `with store.transaction():`")
        return self._connection.execute(statement, values)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
        self.engine.dispose()

    def add_run(self, run: Run) -> None:
        """Register a run, or find it as it is.

        Raises:
            StoreError: Another run has this id.
        """
        text = encode_record(run).decode()
        found = self.execute(select(tables.runs.c.record).where(tables.runs.c.run_id == run.run_id)).scalar()
        if found is None:
            self.execute(insert(tables.runs), {"run_id": run.run_id, "record": text, "is_finished": False})
        elif found != text:
            raise StoreError(f"run {run.run_id!r} has other settings here: resume it unchanged or choose another id")

    def load_run(self, run_id: str) -> Run:
        """The run; raises StoreError where there is none."""
        text = self.execute(select(tables.runs.c.record).where(tables.runs.c.run_id == run_id)).scalar()
        if text is None:
            raise StoreError(f"run {run_id!r} is not in this database; `add_run` comes first")
        return _read_run(text)

    def open_runs(self) -> tuple[Run, ...]:
        """The runs that are not finished."""
        return tuple(_read_run(row.record) for row in self.execute(_OPEN_RUNS).fetchall())

    def run_ids(self) -> frozenset[str]:
        """Ids of all runs, finished ones too."""
        return frozenset(row.run_id for row in self.execute(select(tables.runs.c.run_id)).fetchall())

    def finish_run(self, run_id: str) -> None:
        """Give no device anything more for this run."""
        self.execute(update(tables.runs).where(tables.runs.c.run_id == run_id).values(is_finished=True))

    def put_record(self, run_id: str, key: str, value: Any) -> None:
        """Keep one value (plain JSON data or a dataclass) under a key of the run."""
        text = canonical_json(to_plain(value)).decode()
        where = (tables.records.c.run_id == run_id, tables.records.c.key == key)
        if self.execute(update(tables.records).where(*where).values(value=text)).rowcount == 0:
            self.execute(insert(tables.records), {"run_id": run_id, "key": key, "value": text})

    def get_record(self, run_id: str, key: str) -> Any:
        """The value under a key, as plain JSON data; None where there is none."""
        where = (tables.records.c.run_id == run_id, tables.records.c.key == key)
        text = self.execute(select(tables.records.c.value).where(*where)).scalar()
        return None if text is None else json.loads(text)

    def add_device(self, device: Device) -> None:
        """Enrol a device that is not there."""
        values = {"device_id": device.device_id, "kind": device.kind, "public_key": device.public_key}
        self.execute(insert(tables.devices), values)

    def find_device(self, device_id: str) -> Device | None:
        """The device; None where it never enrolled."""
        row = self.execute(_LOAD_DEVICE, {"id": device_id}).first()
        return None if row is None else _device(row)

    def list_devices(self) -> tuple[Device, ...]:
        """All devices, in the order of their ids."""
        rows = self.execute(select(tables.devices).order_by(tables.devices.c.device_id))
        return tuple(_device(row) for row in rows)

    def save_check_in(self, device_id: str, check_in: CheckIn) -> None:
        """Keep what the device said last."""
        text = encode_record(check_in).decode()
        self.execute(update(tables.devices).where(tables.devices.c.device_id == device_id).values(check_in=text))

    def _check_schema(self, url: str) -> None:
        schema = self.execute(select(tables.about.c.schema)).scalar()
        if schema is None:
            self.execute(insert(tables.about), {"schema": tables.DATABASE_SCHEMA})
        elif schema != tables.DATABASE_SCHEMA:
            cure = (
                "update handheld"
                if schema > tables.DATABASE_SCHEMA
                else "go on with the version that wrote it, or begin anew in another folder"
            )
            raise StoreError(f"database {url} has schema {schema}, this version reads {tables.DATABASE_SCHEMA}: {cure}")


def _device(row: Row[Any]) -> Device:
    check_in = None if row.check_in is None else _read_check_in(row.check_in)
    return Device(row.device_id, row.kind, row.public_key, check_in)


@lru_cache(maxsize=1000)
def _read_run(text: str) -> Run:
    return decode_record(Run, text)


@lru_cache(maxsize=1000)
def _read_check_in(text: str) -> CheckIn:
    return decode_record(CheckIn, text)
