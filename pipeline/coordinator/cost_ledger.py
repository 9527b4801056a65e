"""The run's cost ledger, append-only: examples, device-seconds and bytes of every assignment, by phase and trial.

Bytes are those of blobs that were served, and of updates, profiles and reports that came whole and signed by the device
of the assignment: refused ones, repeated ones and what came or was fetched when the round was over too. Headers,
greetings, enrolments, check-ins with the assignments that answer them, and aborts are counted nowhere.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import fsum
from typing import Any

from sqlalchemy import Row, bindparam, func, insert, literal, select, update

from pipeline.coordinator import tables
from pipeline.coordinator.plans import RoundPlan
from pipeline.coordinator.round_rows import last_lease, load_lease, load_round
from pipeline.coordinator.rounds import Lease
from pipeline.coordinator.store import Store

_C, _A, _R = tables.costs.c, tables.assignments.c, tables.rounds.c
_ADD_COST = insert(tables.costs)
_BYTES = select(_A.bytes_up, _A.bytes_down).where(_A.assignment_id == bindparam("id"))
_COUNT = (
    update(tables.assignments)
    .where(_A.assignment_id == bindparam("id"))
    .values(bytes_up=_A.bytes_up + bindparam("up"), bytes_down=_A.bytes_down + bindparam("down"))
)
_COUNT_DOWN = (
    update(tables.assignments)
    .where(_A.device_id == bindparam("device"), _A.status == "open")
    .values(bytes_down=_A.bytes_down + bindparam("size"))
)
_IS_FINISHED = select(tables.runs.c.is_finished).where(tables.runs.c.run_id == bindparam("run"))
_COSTS_BY_ROUND = (
    select(
        _C.phase,
        _C.trial,
        _R.plan,
        func.count(_C.assignment_id.distinct()).label("num_assignments"),
        *(func.sum(_C[name]).label(name) for name in ("examples", "device_seconds", "bytes_up", "bytes_down")),
    )
    .join(tables.rounds, _R.round_id == _C.round_id)
    .where(_C.run_id == bindparam("run"))
    .group_by(_C.phase, _C.trial, _R.round_id, _R.plan)
)


@dataclass(frozen=True)
class PhaseCost:
    """What one trial cost its clients in one phase by assignments of one kind.

    Attributes:
        trial: None for rounds of no trial.
        kind: `train`, `evaluate` or `measure`.
        num_assignments: Given, whether or not a report came.
    """

    phase: str
    trial: int | None
    kind: str
    num_assignments: int
    examples: int
    device_seconds: float
    bytes_up: int
    bytes_down: int


def count_upload(store: Store, lease: Lease, num_bytes: int) -> None:
    """Count bytes that came for an assignment."""
    _count(store, lease, num_bytes, 0)


def count_download(store: Store, device_id: str, num_bytes: int) -> None:
    """Count bytes that were served to a device, for the assignment that it holds or held last without a report."""
    if store.execute(_COUNT_DOWN, {"device": device_id, "size": num_bytes}).rowcount:
        return
    lease = last_lease(store, device_id)
    if lease is not None and lease.status in {"lost", "closed"}:
        _count(store, lease, 0, num_bytes)


def add_cost(store: Store, plan: RoundPlan, lease: Lease, examples: int = 0, device_seconds: float = 0.0) -> None:
    """Write what an assignment cost, once it is over; its bytes were counted as they came and went."""
    sizes = store.execute(_BYTES, {"id": lease.assignment_id}).one()
    row = _row(plan, lease, examples, device_seconds)
    store.execute(_ADD_COST, row | {"bytes_up": sizes.bytes_up, "bytes_down": sizes.bytes_down})


def add_cost_of_lost(store: Store, plan: RoundPlan, round_id: str) -> None:
    """Write the bytes of every assignment of the round that neither reported nor aborted."""
    key = (literal(plan.run_id), literal(plan.phase), literal(plan.trial, type_=_C.trial.type), _A.round_id)
    query = select(*key, _A.device_id, _A.assignment_id, literal(0), literal(0.0), _A.bytes_up, _A.bytes_down)
    query = query.where(_A.round_id == round_id, _A.status.in_(("open", "lost"))).order_by(_A.device_id)
    names = [column.name for column in tables.costs.columns if column.name != "number"]
    store.execute(insert(tables.costs).from_select(names, query))


def add_device_seconds(store: Store, seconds: Mapping[str, float]) -> None:
    """Add the time that emulated devices worked, by assignment id, in the open transaction.

    Real devices say it in their reports, but for private ones, where it would tell how many examples were drawn; an
    emulator knows it from the profile.
    """
    plans: dict[str, RoundPlan] = {}
    for assignment_id, device_seconds in seconds.items():
        lease = load_lease(store, assignment_id)
        if lease.round_id not in plans:
            plans[lease.round_id] = load_round(store, lease.round_id).plan
        store.execute(_ADD_COST, _row(plans[lease.round_id], lease, device_seconds=device_seconds))


def last_cost(store: Store, run_id: str) -> int:
    """Number of the newest row of the run, 0 before the first."""
    return store.execute(select(func.max(_C.number)).where(_C.run_id == run_id)).scalar() or 0


def costs_by_phase(store: Store, run_id: str) -> tuple[PhaseCost, ...]:
    """Sums of the cost ledger by phase, trial and kind, in this order; opens its own transaction."""
    with store.transaction():
        rows = store.execute(_COSTS_BY_ROUND, {"run": run_id}).fetchall()
    rounds: dict[tuple[str, int | None, str], list[Row[Any]]] = defaultdict(list)
    for row in rows:
        rounds[row.phase, row.trial, json.loads(row.plan)["kind"]].append(row)
    ordered = sorted(
        rounds.items(), key=lambda item: (item[0][0], -1 if item[0][1] is None else item[0][1], item[0][2])
    )
    return tuple(
        PhaseCost(
            *key,
            sum(row.num_assignments for row in ones),
            sum(row.examples for row in ones),
            fsum(row.device_seconds for row in ones),  # the same in whatever order rounds were over
            sum(row.bytes_up for row in ones),
            sum(row.bytes_down for row in ones),
        )
        for key, ones in ordered
    )


def _count(store: Store, lease: Lease, num_up: int, num_down: int) -> None:
    """Count with the assignment until its cost is written, afterwards as a row of its own until the run is finished."""
    if lease.status in {"open", "lost"}:
        store.execute(_COUNT, {"id": lease.assignment_id, "up": num_up, "down": num_down})
        return
    plan = load_round(store, lease.round_id).plan
    if not store.execute(_IS_FINISHED, {"run": plan.run_id}).scalar_one():
        store.execute(_ADD_COST, _row(plan, lease) | {"bytes_up": num_up, "bytes_down": num_down})


def _row(plan: RoundPlan, lease: Lease, examples: int = 0, device_seconds: float = 0.0) -> dict[str, object]:
    return {
        "run_id": plan.run_id,
        "phase": plan.phase,
        "trial": plan.trial,
        "round_id": lease.round_id,
        "device_id": lease.device_id,
        "assignment_id": lease.assignment_id,
        "examples": examples,
        "device_seconds": device_seconds,
        "bytes_up": 0,
        "bytes_down": 0,
    }
