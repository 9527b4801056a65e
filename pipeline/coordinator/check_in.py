"""Answer devices that enrol and check in: the assignment that they hold, a new one, or when to come back."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from device_runtime.wire import Assignment, CheckIn, CheckInReply, Conditions, Enrolment, Headroom, Window
from pipeline.coordinator.eligibility import (
    Device,
    WrongKindError,
    check_kind_and_spec,
    check_versions,
    fits_budget,
    fits_headroom,
    is_eligible,
)
from pipeline.coordinator.plans import Run
from pipeline.coordinator.privacy_ledger import charge, num_participations, spent_by_split, total_rdp
from pipeline.coordinator.round_rows import (
    add_lease,
    ended_leases,
    leases_in_open_rounds,
    load_round,
    open_rounds,
    save_lease,
    save_round,
)
from pipeline.coordinator.rounds import Lease, Place, assign, assignment_of, expire_lease
from pipeline.coordinator.store import Store

Leases = Mapping[str, Lease]  # of one device, by round


class NotEnrolledError(Exception):
    """The server does not know the device."""


@dataclass(frozen=True)
class Visit:
    """A device at the door."""

    device: Device
    check_in: CheckIn
    now: float


def enrol(store: Store, device_id: str, enrolment: Enrolment) -> None:
    """Take a device in; enrolling again changes nothing. Opens its own transaction.

    Raises:
        WrongKindError: It enrolled as the other kind before.
    """
    with store.transaction():
        known = store.find_device(device_id)
        if known is None:
            store.add_device(Device(device_id, enrolment.kind, enrolment.public_key))
        elif known.kind != enrolment.kind:
            raise WrongKindError(
                f"this key enrolled as {known.kind!r} before and cannot become {enrolment.kind!r}; "
                "`handheld-device forget` makes a fresh one"
            )


def check_in(store: Store, device_id: str, message: CheckIn, now: float, come_back: Window) -> CheckInReply:
    """Find what this device may do now; opens its own transaction.

    A device holds one open assignment at a time: it is told the same one until it reports, aborts, or its lease ends.

    Raises:
        WrongKindError, WrongSpecError, UpgradeRequiredError: Nothing here is for this device as it is.
    """
    with store.transaction():
        visit = Visit(_note(store, device_id, message), message, now)
        expire_leases(store, now)
        leases = {lease.round_id: lease for lease in leases_in_open_rounds(store, device_id)}
        assignment = _held_assignment(store, visit, leases) or _new_assignment(store, visit, leases)
        if assignment is not None:
            return CheckInReply(assignment)
        return CheckInReply(come_back=_later(store, now, come_back))


def expire_leases(store: Store, now: float) -> None:
    """Free the places of all leases that ran out; every request does, so that none depends on when another came."""
    for lease in ended_leases(store, now):
        round_, lost = expire_lease(load_round(store, lease.round_id), lease, now)
        save_round(store, round_)
        save_lease(store, lost)


def _note(store: Store, device_id: str, message: CheckIn) -> Device:
    device = store.find_device(device_id)
    if device is None:
        raise NotEnrolledError(f"device {device_id} is not enrolled here; enrol first")
    lasting = replace(message, headroom=None, free_memory_mib=None, conditions=Conditions())
    if device.check_in != lasting:
        store.save_check_in(device_id, lasting)
    return device


def _held_assignment(store: Store, visit: Visit, leases: Leases) -> Assignment | None:
    for lease in leases.values():
        if lease.status == "open":
            return assignment_of(load_round(store, lease.round_id), lease, visit.now)
    return None


def _new_assignment(store: Store, visit: Visit, leases: Leases) -> Assignment | None:
    runs = {run.run_id: run for run in check_kind_and_spec(visit.device, visit.check_in, store.open_runs())}
    rounds = [round_ for round_ in open_rounds(store) if round_.plan.run_id in runs and visit.now < round_.closes_at]
    for round_ in check_versions(visit.check_in, rounds):
        if is_eligible(round_.plan, visit.device.device_id, visit.check_in):
            place = assign(round_, visit.device.device_id, leases.get(round_.round_id), visit.now)
            if place is not None and _keep(store, runs[round_.plan.run_id], place, visit.check_in.headroom):
                return assignment_of(place.round_, place.lease, visit.now)
    return None


def _later(store: Store, now: float, come_back: Window) -> Window:
    """When to come back: not before a round ends, where all wait for their deadlines with all their places given."""
    rounds = open_rounds(store)
    if not rounds or any(not round_.plan.is_of_clients or round_.has_place_for_another for round_ in rounds):
        return come_back
    left_s = max(0.0, min(round_.closes_at for round_ in rounds) - now)
    return Window(left_s, left_s + come_back.latest_s)


def _keep(store: Store, run: Run, place: Place, headroom: Headroom | None) -> bool:
    """Save a place that was given and charge all that it releases; False, and nothing is, where anything is not paid.

    A place that is given again is charged again: what came of it before may have left the phone and been refused.
    """
    plan, lease = place.round_.plan, place.lease
    if plan.measure is None and not fits_headroom(plan.releases, headroom):
        return False
    totals = total_rdp(store, plan.run_id, lease.device_id) if plan.releases else {}
    if run.budget is not None and not fits_budget(run.budget, spent_by_split(totals), plan.releases):
        return False
    most = plan.max_participations
    if most is not None and num_participations(store, plan, lease.device_id) >= most:
        return False
    (add_lease if place.is_new else save_lease)(store, lease)
    if run.budget is not None:
        charge(store, plan, lease, run.budget.order, totals)
    save_round(store, place.round_)
    return True
