"""The run's privacy ledger, append-only, a row a release: what each device released, or may have released.

A release is charged when its assignment is given: one whose report never came counts, since nobody can know what left
the phone. Totals are the maximum over devices and over disjoint splits; in the client unit all splits are one account.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import bindparam, func, insert, select

from device_runtime.accounting import Release, ReleaseKind
from device_runtime.terms import Split
from device_runtime.wire import SPLITS
from pipeline.coordinator import tables
from pipeline.coordinator.plans import RoundPlan
from pipeline.coordinator.rounds import Lease
from pipeline.coordinator.store import Store

Account = Split | Literal["all"]  # `all`: what a client released counts on each of its splits
ALL: Literal["all"] = "all"

_P = tables.releases.c
_TOTALS = select(
    *(
        select(_P.total_rdp)
        .where(_P.run_id == bindparam("run"), _P.device_id == bindparam("device"), _P.split == account)
        .order_by(_P.number.desc())
        .limit(1)
        .scalar_subquery()
        .label(account)
        for account in (*SPLITS, ALL)
    )
)
_PARTICIPATIONS = (
    select(_P.kind, func.count().label("num"))
    .where(_P.run_id == bindparam("run"), _P.device_id == bindparam("device"), _P.phase == bindparam("of_phase"))
    .group_by(_P.kind)
)
_CHARGE = insert(tables.releases)


@dataclass(frozen=True)
class PhaseSpending:
    """What one phase released on one account by one kind of release, on the device that spent most there.

    Attributes:
        num_releases: Of that device.
        rdp: At the budget's order; sums over phases and kinds, which epsilon does not.
        epsilon: Of this row alone.
    """

    phase: str
    account: Account
    kind: ReleaseKind
    num_releases: int
    rdp: float
    epsilon: float


def account_of(release: Release) -> Account:
    """Where a release counts."""
    return ALL if release.unit == "client" else release.split


def total_rdp(store: Store, run_id: str, device_id: str) -> dict[Account, float]:
    """Renyi divergence that the device has spent in the run by account, at the budget's order."""
    row = store.execute(_TOTALS, {"run": run_id, "device": device_id}).one()
    return {account: total for account, total in zip((*SPLITS, ALL), row, strict=True) if total is not None}


def spent_by_split(totals: Mapping[Account, float]) -> dict[Split, float]:
    """What accounts come to on each split: its own, and what counts on all."""
    return {split: totals.get(split, 0.0) + totals.get(ALL, 0.0) for split in SPLITS}


def num_participations(store: Store, plan: RoundPlan, device_id: str) -> int:
    """Assignments of the plan's phase that the device was charged for, of the kind of its releases with most."""
    rows = store.execute(_PARTICIPATIONS, {"run": plan.run_id, "device": device_id, "of_phase": plan.phase})
    charged = {row.kind: row.num for row in rows.fetchall()}
    return max((charged.get(release.kind, 0) for release in plan.releases), default=0)


def num_worn_out(store: Store, round_id: str, plan: RoundPlan) -> int:
    """Devices that got no part in the round because they took `max_participations` before; grows with the devices.

    Of a plan that names devices, among those.
    """
    if plan.max_participations is None:
        return 0
    in_round = select(tables.assignments.c.device_id).where(tables.assignments.c.round_id == round_id)
    query = (
        select(_P.device_id)
        .where(_P.run_id == plan.run_id, _P.phase == plan.phase, _P.device_id.not_in(in_round))
        .where(_P.kind.in_([release.kind for release in plan.releases]))
        .group_by(_P.device_id, _P.kind)
        .having(func.count() >= plan.max_participations)
    )
    found = {row.device_id for row in store.execute(query).fetchall()}
    return len(found if plan.eligible_ids is None else found & plan.eligible_ids)


def charge(store: Store, plan: RoundPlan, lease: Lease, order: int, before: Mapping[Account, float]) -> None:
    """Write down all that an assignment releases; the filter was asked before, in this transaction.

    Args:
        order: Of the run's budget.
        before: What the device had spent (`total_rdp`).
    """
    totals = dict(before)
    for release in plan.releases:
        account, rdp = account_of(release), release.rdp(order)
        totals[account] = totals.get(account, 0.0) + rdp
        row = {
            "run_id": plan.run_id,
            "device_id": lease.device_id,
            "split": account,
            "assignment_id": lease.assignment_id,
            "phase": plan.phase,
            "kind": release.kind,
            "sample_rate": release.sample_rate,
            "noise_multiplier": release.noise_multiplier,
            "num_steps": release.num_steps,
            "rdp": rdp,
            "total_rdp": totals[account],
        }
        store.execute(_CHARGE, row)


def epsilon_spent(store: Store, run_id: str) -> dict[Account, float]:
    """Epsilon by split at the run's delta, of the device that spent most; opens its own transaction.

    The run's epsilon is the largest of them: an example is in one split. In the client unit there is one for `all`.
    Empty for a run without privacy.
    """
    with store.transaction():
        budget = store.load_run(run_id).budget
        query = select(_P.split, func.max(_P.total_rdp).label("rdp")).where(_P.run_id == run_id)
        rows = store.execute(query.group_by(_P.split).order_by(_P.split)).fetchall()
    return {} if budget is None else {row.split: budget.epsilon_spent(row.rdp) for row in rows}


def spending_by_phase(store: Store, run_id: str) -> tuple[PhaseSpending, ...]:
    """Rows for the privacy report, by phase, account and kind; opens its own transaction."""
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
