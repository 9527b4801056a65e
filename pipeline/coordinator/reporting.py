"""Take what devices send back: updates, profiles, reports, aborts. Each function opens its own transactions.

What is refused was sent all the same: its bytes are counted for the device's assignment, in a transaction of its own,
since the refusal takes back all that was done in the other.
"""

import hashlib
from dataclasses import dataclass, field

from device_runtime.vectors import VectorError, read_vector
from device_runtime.wire import Abort, Report, ReportReceipt
from pipeline.coordinator.blobs import BlobFolder, UploadKind, add_upload, find_upload
from pipeline.coordinator.check_in import expire_leases
from pipeline.coordinator.cost_ledger import add_cost, count_upload
from pipeline.coordinator.round_rows import (
    add_report,
    find_lease,
    last_lease,
    leases_in_open_rounds,
    load_lease,
    load_round,
    save_lease,
    save_round,
)
from pipeline.coordinator.rounds import (
    BadMessageError,
    ConflictingReportError,
    Lease,
    Round,
    RoundClosedError,
    abort,
    accept_report,
    check_open,
    check_report,
)
from pipeline.coordinator.store import Store
from profiles.records import RecordError, decode_record
from profiles.schema import DeviceProfile

HEADER_BYTES = 1024  # of a safetensors file with one tensor; it is about 100
MAX_PROFILE_BYTES = 4 * 2**20  # a kernel's time takes about 300; the default pack has some 150


@dataclass(frozen=True)
class Upload:
    """A blob that a device sends.

    Attributes:
        sha256: What the device calls it.
    """

    device_id: str
    sha256: str
    data: bytes = field(repr=False)


class NotAssignedError(Exception):
    """The assignment is another device's."""


class BadUpdateError(ValueError):
    """An update or a profile is missing, or is not what was asked for."""


# What came for an assignment and is not taken, nor was it lost on its way.
_REFUSALS = (RecordError, BadMessageError, BadUpdateError, RoundClosedError, ConflictingReportError)


def max_upload_bytes(store: Store, device_id: str) -> int | None:
    """Largest blob that the device may send now; None where it has no part in a round that takes any.

    A part in a round that closed without it counts: what comes too late is told so (`RoundClosedError`), and its bytes
    are counted, which takes its signature and thus all of it.
    """
    with store.transaction():
        found, late = _uploading(store, device_id), _late_round(store, device_id)
    rounds = [*([found[0]] if found else []), *([late] if late else [])]
    return max((_max_upload_bytes(round_) for round_ in rounds), default=None)


def take_upload(store: Store, blobs: BlobFolder, upload: Upload, now: float) -> bool:
    """Keep the update or profile of the device's assignment; the same one again changes nothing but its cost.

    One assignment takes one, since one release was charged for it.

    Returns:
        Whether it is new.

    Raises:
        BadUpdateError: Bytes of another hash, another tensor or shape, values that are not finite, or no profile.
        RoundClosedError: There is no assignment, or its round or place is gone.
        ConflictingReportError: A different update was sent before.
    """
    try:
        return _keep_upload(store, blobs, upload, now)
    except _REFUSALS:
        with store.transaction():
            lease = last_lease(store, upload.device_id)
            if lease is not None:
                count_upload(store, lease, len(upload.data))
        raise


def _keep_upload(store: Store, blobs: BlobFolder, upload: Upload, now: float) -> bool:
    sha256 = hashlib.sha256(upload.data).hexdigest()
    if sha256 != upload.sha256:
        raise BadUpdateError(
            f"the blob must have the sha256 it is named by, {upload.sha256:.80}, got bytes of {sha256}"
        )
    with store.transaction():
        expire_leases(store, now)
        found = _uploading(store, upload.device_id)
        if found is None:
            raise RoundClosedError("this device has no assignment to send a blob for: drop it and check in")
        round_, lease = found
        known = find_upload(store, lease.assignment_id)
        if known == sha256:
            count_upload(store, lease, len(upload.data))
            return False
        if known is not None:
            raise ConflictingReportError(f"assignment {lease.assignment_id} has a different blob: one is taken")
        check_open(round_, lease, now)
        add_upload(store, blobs, upload.data, _checked_kind(round_, upload.data), lease)
        count_upload(store, lease, len(upload.data))
    return True


def take_report(store: Store, device_id: str, assignment_id: str, body: bytes, now: float) -> ReportReceipt:
    """Count a report; the same bytes again get the same answer, and cost what they weigh.

    Raises:
        RecordError, BadMessageError: It does not say what was asked.
        BadUpdateError: The blob that it names did not come.
        NotAssignedError, UnknownAssignmentError: It is for no assignment of this device.
        RoundClosedError, ConflictingReportError: See `rounds.accept_report`.
    """
    try:
        return _keep_report(store, device_id, assignment_id, body, now)
    except _REFUSALS:
        with store.transaction():
            lease = find_lease(store, assignment_id)
            if lease is not None and lease.device_id == device_id:
                count_upload(store, lease, len(body))
        raise


def _keep_report(store: Store, device_id: str, assignment_id: str, body: bytes, now: float) -> ReportReceipt:
    report = decode_record(Report, body)
    with store.transaction():
        expire_leases(store, now)
        before, lease = _own_lease(store, device_id, assignment_id)
        round_, reported = accept_report(before, lease, hashlib.sha256(body).hexdigest(), now)
        count_upload(store, lease, len(body))
        if lease.status != "reported":
            check_report(round_.plan, assignment_id, report)
            _check_blob_came(store, lease, report)
            save_round(store, round_)
            save_lease(store, reported)
            add_report(store, lease, body)
            add_cost(store, round_.plan, lease, report.num_examples, report.work_s or 0.0)
    return ReportReceipt(reported.report_number or 0, round_.plan.cohort_size)


def take_abort(store: Store, device_id: str, assignment_id: str, message: Abort, now: float) -> None:
    """Take back the place of a client that gives up; doing so twice, or too late, changes nothing."""
    if message.assignment_id != assignment_id:
        raise BadMessageError(f"assignment_id must be the one in the path, got {message.assignment_id!r:.80}")
    with store.transaction():
        expire_leases(store, now)
        before, lease = _own_lease(store, device_id, assignment_id)
        round_, aborted = abort(before, lease)
        if aborted != lease:
            save_round(store, round_)
            save_lease(store, aborted)
            add_cost(store, round_.plan, lease)


def _own_lease(store: Store, device_id: str, assignment_id: str) -> tuple[Round, Lease]:
    lease = load_lease(store, assignment_id)
    if lease.device_id != device_id:
        raise NotAssignedError(f"assignment {assignment_id} belongs to another device")
    return load_round(store, lease.round_id), lease


def _uploading(store: Store, device_id: str) -> tuple[Round, Lease] | None:
    """The round that the device sends a blob for: where its lease is open, else the newest."""
    rank = ("aborted", "reported", "lost", "open").index
    leases = [
        (round_, lease)
        for lease in leases_in_open_rounds(store, device_id)
        if (round_ := load_round(store, lease.round_id)).plan.evaluate is None
    ]
    return max(leases, key=lambda found: (rank(found[1].status), found[0].opened_at), default=None)


def _late_round(store: Store, device_id: str) -> Round | None:
    """The round that closed before the device could send its blob, where its last assignment was in such a one."""
    lease = last_lease(store, device_id)
    if lease is None or lease.status != "closed":
        return None
    round_ = load_round(store, lease.round_id)
    return round_ if round_.plan.evaluate is None else None


def _max_upload_bytes(round_: Round) -> int:
    return MAX_PROFILE_BYTES if round_.plan.measure is not None else 4 * round_.num_parameters + HEADER_BYTES


def _checked_kind(round_: Round, data: bytes) -> UploadKind:
    """What a blob is, once it was found to be what the round asks for."""
    try:
        if round_.plan.measure is not None:
            decode_record(DeviceProfile, data)
            return "profile"
        read_vector(data, round_.plan.update_name, round_.num_parameters)
    except (VectorError, RecordError) as error:
        raise BadUpdateError(str(error)) from error
    return "update"


def _check_blob_came(store: Store, lease: Lease, report: Report) -> None:
    if report.blob_sha256 is None:
        return
    came = find_upload(store, lease.assignment_id)
    if came != report.blob_sha256:
        name = "profile" if report.update_sha256 is None else "update"
        raise BadUpdateError(
            f"{name}_sha256 must name the {name} that this assignment sent, got {report.blob_sha256:.80}; "
            f"{'none came' if came is None else f'{came} came'}: PUT the blob before its report"
        )
