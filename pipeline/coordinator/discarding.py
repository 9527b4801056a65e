"""Take rounds of an emulated run back, so that a killed run replays them bit for bit from its last snapshot.

Never of a real run: what phones released stays released. A run that was refused before its first round goes whole.
"""

from sqlalchemy import delete, exists, func, select

from pipeline.coordinator import tables
from pipeline.coordinator.blobs import BlobFolder, sweep
from pipeline.coordinator.store import Store

_R = tables.rounds.c


def last_round_number(store: Store, run_id: str) -> int:
    """Number of the run's newest round, 0 before the first; opens its own transaction."""
    with store.transaction():
        return store.execute(select(func.max(_R.number)).where(_R.run_id == run_id)).scalar() or 0


def discard_rounds_after(store: Store, blobs: BlobFolder, run_id: str, number: int, cost: int) -> int:
    """Delete every round of the run with a higher number and all that belongs to it, and return how many went.

    Args:
        cost: Newest row of the cost ledger that stays (`last_cost` when the round was over). Later ones of earlier
            rounds go: they are of phones that came too late, and will again.

    Raises:
        ValueError: The run is real.
    """
    with store.transaction():
        if store.load_run(run_id).kind != "emulated":
            raise ValueError(f"run {run_id!r} is real: what its phones released cannot be taken back")
        ids = select(_R.round_id).where(_R.run_id == run_id, _R.number > number)
        assignments = select(tables.assignments.c.assignment_id).where(tables.assignments.c.round_id.in_(ids))
        store.execute(delete(tables.releases).where(tables.releases.c.assignment_id.in_(assignments)))
        store.execute(delete(tables.costs).where(tables.costs.c.run_id == run_id, tables.costs.c.number > cost))
        for table in (tables.blobs, tables.reports, tables.assignments):
            store.execute(delete(table).where(table.c.round_id.in_(ids)))
        count = store.execute(delete(tables.rounds).where(_R.run_id == run_id, _R.number > number)).rowcount
        store.plans.clear()
    sweep(store, blobs)
    return count


def forget_refused_run(store: Store, run_id: str) -> None:
    """Delete a run that has neither rounds nor records, so that it may begin with other settings; its own transaction.

    What another process began under the same id stays.
    """
    begun = (exists().where(table.c.run_id == run_id) for table in (tables.rounds, tables.records))
    with store.transaction():
        store.execute(delete(tables.runs).where(tables.runs.c.run_id == run_id, *(~one for one in begun)))
