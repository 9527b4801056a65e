"""The run's privacy ledger, append-only: what each device released, or may have released.

A release is charged when its assignment is given: one whose report never came counts, since nobody can know what left
the phone. Totals are the maximum over devices and over disjoint splits, in the example unit.
"""

from dataclasses import dataclass

from sqlalchemy import bindparam, func, insert, select

from device_runtime.accounting import Release, ReleaseKind
from device_runtime.terms import Split
from pipeline.coordinator import tables
from pipeline.coordinator.plans import RoundPlan
from pipeline.coordinator.rounds import Lease
from pipeline.coordinator.store import Store

_P = tables.releases.c
_TOTAL = (
    select(_P.total_rdp)
    .where(_P.run_id == bindparam("run"), _P.device_id == bindparam("device"), _P.split == bindparam("of_split"))
    .order_by(_P.number.desc())
    .limit(1)
)
_CHARGE = insert(tables.releases)


@dataclass(frozen=True)
class Charge:
    """One release to be charged.

    Attributes:
        order: Of the run's budget.
        spent_rdp: What device and split had spent before, at that order.
    """

    release: Release
    order: int
    spent_rdp: float


@dataclass(frozen=True)
class PhaseSpending:
    """What one phase released on one split by one kind of release, on the device that spent most there.

    Attributes:
        num_releases: Of that device.
        rdp: At the budget's order; sums over phases and kinds, which epsilon does not.
        epsilon: Of this row alone.
    """

    phase: str
    split: Split
    kind: ReleaseKind
    num_releases: int
    rdp: float
    epsilon: float


def spent_rdp(store: Store, run_id: str, device_id: str, split: Split) -> float:
    """Renyi divergence that the device's split has spent in the run, at the budget's order."""
    total = store.execute(_TOTAL, {"run": run_id, "device": device_id, "of_split": split}).scalar()
    return 0.0 if total is None else float(total)


def charge(store: Store, plan: RoundPlan, lease: Lease, charged: Charge) -> None:
    """Write down what an assignment releases; the filter was asked before, in this transaction."""
    release, rdp = charged.release, charged.release.rdp(charged.order)
    row = {
        "run_id": plan.run_id,
        "device_id": lease.device_id,
        "split": release.split,
        "assignment_id": lease.assignment_id,
        "phase": plan.phase,
        "kind": release.kind,
        "sample_rate": release.sample_rate,
        "noise_multiplier": release.noise_multiplier,
        "num_steps": release.num_steps,
        "rdp": rdp,
        "total_rdp": charged.spent_rdp + rdp,
    }
    store.execute(_CHARGE, row)


def epsilon_spent(store: Store, run_id: str) -> dict[Split, float]:
    """Epsilon by split at the run's delta, of the device that spent most; opens its own transaction.

    The run's epsilon is the largest of them: an example is in one split. Empty for a run without privacy.
    """
    with store.transaction():
        budget = store.load_run(run_id).budget
        query = select(_P.split, func.max(_P.total_rdp).label("rdp")).where(_P.run_id == run_id)
        rows = store.execute(query.group_by(_P.split).order_by(_P.split)).fetchall()
    return {} if budget is None else {row.split: budget.epsilon_spent(row.rdp) for row in rows}


def spending_by_phase(store: Store, run_id: str) -> tuple[PhaseSpending, ...]:
    """Rows for the privacy report, by phase, split and kind; opens its own transaction."""
    by_device = (
        select(_P.phase, _P.split, _P.kind, func.count().label("num_releases"), func.sum(_P.rdp).label("rdp"))
        .where(_P.run_id == run_id)
        .group_by(_P.phase, _P.split, _P.kind, _P.device_id)
        .subquery()
    )
    key = (by_device.c.phase, by_device.c.split, by_device.c.kind)
    query = select(*key, func.max(by_device.c.num_releases).label("num"), func.max(by_device.c.rdp).label("rdp"))
    with store.transaction():
        budget = store.load_run(run_id).budget
        rows = store.execute(query.group_by(*key).order_by(*key)).fetchall()
    if budget is None:
        return ()
    return tuple(PhaseSpending(r.phase, r.split, r.kind, r.num, r.rdp, budget.epsilon_spent(r.rdp)) for r in rows)
