"""Rows of rounds and leases: read and write them inside a transaction of the store; each call is one indexed query."""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, bindparam, func, insert, select, update

from device_runtime.wire import Report
from pipeline.coordinator import tables
from pipeline.coordinator.plans import RoundPlan
from pipeline.coordinator.rounds import Lease, Round, RoundResult
from pipeline.coordinator.store import Store
from profiles.records import decode_record, encode_record

_COUNTS = ("status", "num_open", "num_reported", "num_assigned")
_ROUND_FIELDS = ("round_id", "num_parameters", "opset", "minimum_runtime", "opened_at", "closes_at", *_COUNTS)
_CHANGES = ("status", "ends_at", "report_sha256", "report_number")
_LEASE_FIELDS = ("assignment_id", "round_id", "device_id", *_CHANGES)
_R, _A = tables.rounds.c, tables.assignments.c

# Made once: putting a statement together costs more than SQLite needs to run it. `with_for_update` locks the row in
# PostgreSQL and is left out for SQLite, where the transaction has the whole database.
_ROUNDS = select(*(_R[name] for name in _ROUND_FIELDS))
_LOAD_ROUND = _ROUNDS.where(_R.round_id == bindparam("id")).with_for_update()
_LOAD_PLAN = select(_R.plan).where(_R.round_id == bindparam("id"))
_OPEN_ROUNDS = _ROUNDS.where(_R.status == "open").order_by(_R.number).with_for_update()
_SAVE_ROUND = (
    update(tables.rounds).where(_R.round_id == bindparam("id")).values({name: bindparam(name) for name in _COUNTS})
)
_LEASES = select(*(_A[name] for name in _LEASE_FIELDS))
_LOAD_LEASE = _LEASES.where(_A.assignment_id == bindparam("id"))
_LEASES_IN_OPEN_ROUNDS = (
    _LEASES.join(tables.rounds, _R.round_id == _A.round_id)
    .where(_R.status == "open", _A.device_id == bindparam("device"))
    .order_by(_R.number)
)
_LAST_LEASE = (
    _LEASES.where(_A.device_id == bindparam("device"))
    .order_by((_A.status == "open").desc(), _A.ends_at.desc(), _A.status.in_(("reported", "aborted")))
    .limit(1)
)
_ENDED_LEASES = _LEASES.where(_A.status == "open", _A.ends_at <= bindparam("now"))
_ADD_LEASE = insert(tables.assignments)
_ADD_REPORT = insert(tables.reports)
_SAVE_LEASE = (
    update(tables.assignments)
    .where(_A.assignment_id == bindparam("id"))
    .values({name: bindparam(name) for name in _CHANGES})
)


class UnknownRoundError(LookupError):
    """No such round was ever planned."""


class UnknownAssignmentError(LookupError):
    """No such assignment was ever given."""


def add_round(store: Store, round_: Round) -> None:
    """Insert a new round, after all others."""
    number = (store.execute(select(func.max(_R.number))).scalar() or 0) + 1
    plan = round_.plan
    values = {name: getattr(round_, name) for name in _ROUND_FIELDS}
    values |= {"number": number, "run_id": plan.run_id, "round_key": plan.round_key}
    store.execute(insert(tables.rounds), values | {"plan": encode_record(plan).decode()})


def next_round_id(store: Store, run_id: str) -> str:
    """Rounds are numbered within their run, so that a run's ids do not depend on what else the server holds.

    Devices take letters, digits, `-` and `_` in ids; a run's id may have dots.
    """
    count = store.execute(select(func.count()).select_from(tables.rounds).where(_R.run_id == run_id)).scalar_one()
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", run_id)
    prefix = plain if plain == run_id else f"{plain}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"
    return f"{prefix}-{count}"


def find_round(store: Store, run_id: str, round_key: str) -> Round | None:
    """The round of that key; None where it was not planned."""
    row = store.execute(_ROUNDS.where(_R.run_id == run_id, _R.round_key == round_key)).first()
    return None if row is None else _round(store, row)


def load_round(store: Store, round_id: str) -> Round:
    """The round; raises UnknownRoundError where there is none."""
    row = store.execute(_LOAD_ROUND, {"id": round_id}).first()
    if row is None:
        raise UnknownRoundError(f"there is no round {round_id!r:.80}")
    return _round(store, row)


def open_rounds(store: Store) -> tuple[Round, ...]:
    """Rounds that are not closed, oldest first; some may be due."""
    return tuple(_round(store, row) for row in store.execute(_OPEN_ROUNDS).fetchall())


def save_round(store: Store, round_: Round) -> None:
    """Update a round's status and counts."""
    values = {name: getattr(round_, name) for name in _COUNTS}
    store.execute(_SAVE_ROUND, values | {"id": round_.round_id})


def save_result(store: Store, result: RoundResult) -> None:
    """End a round with its result; leases without a report end with it."""
    values = {"status": result.status, "num_open": 0, "result": encode_record(result).decode()}
    store.execute(update(tables.rounds).where(_R.round_id == result.round_id).values(values))
    is_left = (_A.round_id == result.round_id, _A.status.in_(("open", "lost")))
    store.execute(update(tables.assignments).where(*is_left).values(status="closed"))
    store.plans.pop(result.round_id, None)


def load_result(store: Store, round_id: str) -> RoundResult | None:
    """The result; None while the round is open."""
    text = store.execute(select(_R.result).where(_R.round_id == round_id)).scalar()
    return None if text is None else decode_record(RoundResult, text)


def load_lease(store: Store, assignment_id: str) -> Lease:
    """The lease; raises UnknownAssignmentError where there is none."""
    found = find_lease(store, assignment_id)
    if found is None:
        raise UnknownAssignmentError(f"there is no assignment {assignment_id!r:.80}; check in for one")
    return found


def find_lease(store: Store, assignment_id: str) -> Lease | None:
    """The lease; None where there is none."""
    row = store.execute(_LOAD_LEASE, {"id": assignment_id}).first()
    return None if row is None else _lease(row)


def last_lease(store: Store, device_id: str) -> Lease | None:
    """What the device was given last, whatever came of it; None where it never had anything.

    Of those that end at one deadline it is one without a report: a device takes nothing new before it let go of it.
    """
    row = store.execute(_LAST_LEASE, {"device": device_id}).first()
    return None if row is None else _lease(row)


def leases_in_open_rounds(store: Store, device_id: str) -> Sequence[Lease]:
    """What the device has, or had, in each round that is not closed."""
    return tuple(_lease(row) for row in store.execute(_LEASES_IN_OPEN_ROUNDS, {"device": device_id}).fetchall())


def ended_leases(store: Store, now: float) -> Sequence[Lease]:
    """Leases of all rounds that ran out and were not noticed yet."""
    return tuple(_lease(row) for row in store.execute(_ENDED_LEASES, {"now": now}).fetchall())


def count_leases(store: Store, round_id: str) -> dict[str, int]:
    """How many leases of the round have each status; grows with the cohort, for its end alone."""
    query = select(_A.status, func.count().label("num")).where(_A.round_id == round_id).group_by(_A.status)
    return {row.status: row.num for row in store.execute(query).fetchall()}


def add_lease(store: Store, lease: Lease) -> None:
    """Insert a new lease."""
    values = {name: getattr(lease, name) for name in _LEASE_FIELDS}
    store.execute(_ADD_LEASE, values | {"bytes_up": 0, "bytes_down": 0})


def save_lease(store: Store, lease: Lease) -> None:
    """Update a lease's status, end and report."""
    values = {name: getattr(lease, name) for name in _CHANGES}
    store.execute(_SAVE_LEASE, values | {"id": lease.assignment_id})


def add_report(store: Store, lease: Lease, body: bytes) -> None:
    """Keep a report as it came."""
    row = {"assignment_id": lease.assignment_id, "round_id": lease.round_id, "device_id": lease.device_id}
    store.execute(_ADD_REPORT, row | {"body": body.decode()})


def reports_of_round(store: Store, round_id: str) -> tuple[Report, ...]:
    """All reports of a round, in the order of their devices' ids: sums come out the same whoever was first."""
    query = select(tables.reports.c.body).where(tables.reports.c.round_id == round_id)
    rows = store.execute(query.order_by(tables.reports.c.device_id)).fetchall()
    return tuple(decode_record(Report, row.body) for row in rows)


def _round(store: Store, row: Row[Any]) -> Round:
    plan = store.plans.get(row.round_id)
    if plan is None:
        plan = decode_record(RoundPlan, store.execute(_LOAD_PLAN, {"id": row.round_id}).scalar_one())
        if row.status == "open":
            store.plans[row.round_id] = plan
    return Round(plan=plan, **{name: getattr(row, name) for name in _ROUND_FIELDS})


def _lease(row: Row[Any]) -> Lease:
    return Lease(**{name: getattr(row, name) for name in _LEASE_FIELDS})
