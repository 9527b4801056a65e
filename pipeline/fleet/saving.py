"""Keep a fleet with its run after every round, and put it back where the last round that was kept left it."""

from dataclasses import dataclass

from pipeline.coordinator.blobs import BlobFolder
from pipeline.coordinator.cost_ledger import add_device_seconds, last_cost
from pipeline.coordinator.discarding import discard_rounds_after
from pipeline.coordinator.store import Store
from pipeline.fleet.fleet import Fleet
from pipeline.fleet.phones import Charge
from pipeline.fleet.snapshots import PhoneSnapshot, restore_phone, take_snapshot
from profiles.records import from_plain

_FLEET, _PHONE, _CHARGES = "fleet", "fleet/phone", "fleet/charges"  # keys of the run's records


@dataclass(frozen=True)
class Saved:
    """What is kept of a fleet beside its phones and their charges.

    Attributes:
        last_round: Number of the newest round that it has seen.
        num_phones: Each has a record of its own.
        time: Of its clock, seconds.
        num_charges: Records of charges that there are.
        last_cost: Number of the newest row of the run's cost ledger.
    """

    last_round: int
    num_phones: int
    time: float
    num_charges: int
    last_cost: int
    schema: int = 1


def save_fleet(store: Store, run_id: str, fleet: Fleet, before: Saved | None, last_round: int) -> Saved:
    """Keep what changed since `before` and write what the phones' work cost, all or nothing; its own transaction."""
    num_charges = before.num_charges if before else 0
    with store.transaction():
        add_device_seconds(store, fleet.device_seconds)
        for index in sorted(fleet.changed):
            store.put_record(run_id, f"{_PHONE}/{index}", take_snapshot(fleet, index))
        if fleet.charges:
            store.put_record(run_id, f"{_CHARGES}/{num_charges}", fleet.charges)
        num_charges += bool(fleet.charges)
        cost = last_cost(store, run_id)
        saved = Saved(last_round, len(fleet.phones), fleet.clock.time, num_charges, cost)
        store.put_record(run_id, _FLEET, saved)
    fleet.device_seconds.clear()
    fleet.changed.clear()
    fleet.charges.clear()
    return saved


def resume_fleet(store: Store, blobs: BlobFolder, run_id: str, fleet: Fleet) -> Saved | None:
    """Put a freshly made fleet back, and take back the rounds that it had not been kept after; None before the first.

    Raises:
        ValueError: The run's phones are others than those of `fleet`.
    """
    with store.transaction():
        found = store.get_record(run_id, _FLEET)
    saved = None if found is None else from_plain(Saved, found)
    if saved is not None and saved.num_phones != len(fleet.phones):
        raise ValueError(
            f"run {run_id!r} has {saved.num_phones} phones, this fleet has {len(fleet.phones)}: resume it with the "
            "clients that it began with"
        )
    discard_rounds_after(store, blobs, run_id, saved.last_round if saved else 0, saved.last_cost if saved else 0)
    if saved is not None:
        _restore(store, run_id, fleet, saved)
    return saved


def _restore(store: Store, run_id: str, fleet: Fleet, saved: Saved) -> None:
    fleet.clock.time = saved.time
    with store.transaction():
        for i in range(saved.num_charges):
            for plain in store.get_record(run_id, f"{_CHARGES}/{i}"):
                _charge_again(fleet, from_plain(Charge, plain))
        for phone in fleet.phones:
            snapshot = from_plain(PhoneSnapshot, store.get_record(run_id, f"{_PHONE}/{phone.index}"))
            restore_phone(fleet, phone.index, snapshot)
    fleet.changed.clear()


def _charge_again(fleet: Fleet, charge: Charge) -> None:
    ledger = fleet.phones[charge.phone].ledger
    if ledger is None:
        raise ValueError(f"phone {charge.phone} has charges and no ledger: the run is private, keep [privacy]")
    ledger.charge(charge.releases, charge.assignment_id)
