"""Close a round: aggregate what was reported, keep the result, delete the raw updates; all in one transaction.

Profiles are not aggregated: the result names them and they stay.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from device_runtime.arrays import Vector
from device_runtime.private_random import PrivateRandom
from device_runtime.specs import Manifest
from device_runtime.vectors import read_vector, write_vector
from device_runtime.wire import Report
from pipeline.coordinator import privacy_ledger
from pipeline.coordinator.aggregate import aggregate_sums, aggregate_updates
from pipeline.coordinator.blobs import (
    BlobFolder,
    DamagedBlobError,
    UnknownBlobError,
    add_blob,
    delete_unused,
    mark_uploads_deleted,
)
from pipeline.coordinator.check_in import expire_leases
from pipeline.coordinator.cost_ledger import add_cost_of_lost
from pipeline.coordinator.plans import RoundPlan
from pipeline.coordinator.round_rows import count_leases, load_result, load_round, reports_of_round, save_result
from pipeline.coordinator.rounds import Round, RoundResult
from pipeline.coordinator.store import Store
from profiles.records import decode_record


class RoundNotDueError(Exception):
    """The round still waits for reports."""


def close_round(
    store: Store, blobs: BlobFolder, round_id: str, now: float, private_random: PrivateRandom
) -> RoundResult:
    """End a due round and return its result; of a closed one, the result that is kept. Opens its own transactions.

    Args:
        private_random: Of this round alone, for the noise on sums; nothing was released from an attempt that a crash
            ended, so a repeated attempt may use the same.

    Raises:
        RoundNotDueError: Neither is the cohort complete nor the deadline passed.
    """
    with store.transaction():
        result = load_result(store, round_id)
        if result is not None:
            return result
        expire_leases(store, now)
        round_ = load_round(store, round_id)
        if not round_.is_due(now):
            raise RoundNotDueError(
                f"round {round_id} has {round_.num_reported} of {round_.plan.cohort_size} reports and "
                f"{round_.closes_at - now:g} s left: wait for either"
            )
        reports = [report for report in reports_of_round(store, round_id) if _is_whole(blobs, report)]
        result = _result(store, blobs, round_, reports, private_random)
        add_cost_of_lost(store, round_.plan, round_id)
        save_result(store, result)
        uploads = mark_uploads_deleted(store, round_id, keeps_profiles=bool(result.profiles))
    delete_unused(store, blobs, uploads)
    return result


def _result(
    store: Store, blobs: BlobFolder, round_: Round, reports: Sequence[Report], private_random: PrivateRandom
) -> RoundResult:
    plan, num_examples = round_.plan, sum(report.num_examples for report in reports)
    num_scored = sum(report.num_scored for report in reports)
    result = RoundResult(round_.round_id, "closed", len(reports), num_examples, num_scored=num_scored)
    if len(reports) < plan.min_reports:
        return replace(result, status="failed", reason=_too_few(store, round_, len(reports)))
    if plan.measure is not None:
        return replace(result, profiles=tuple(report.profile_sha256 or "" for report in reports))
    with np.errstate(over="ignore"):  # refused by name
        sums = _sums(plan, reports, private_random)
        update = _update(blobs, round_, reports, private_random)
    if not (np.isfinite(list(sums.values())).all() and np.isfinite(update).all()):
        return replace(result, status="failed", reason="the aggregate is not finite: lower learning_rate")
    if plan.train is not None:
        sha256 = add_blob(store, blobs, write_vector("parameter_update", update), "aggregate", round_.round_id)
        result = replace(result, aggregate_sha256=sha256)
    return replace(result, metric_sums=sums or None)


def _sums(plan: RoundPlan, reports: Sequence[Report], private_random: PrivateRandom) -> dict[str, float]:
    """By name; empty where none were asked for."""
    if plan.sums is None:
        return {}
    return aggregate_sums(plan.sums, [report.metric_sums or {} for report in reports], private_random)


def _update(blobs: BlobFolder, round_: Round, reports: Sequence[Report], private_random: PrivateRandom) -> Vector:
    """f32[p] of the parameters that move; empty where nothing was trained."""
    if round_.plan.train is None:
        return np.empty(0, np.float32)
    manifest = decode_record(Manifest, blobs.get(round_.plan.artifact_id))
    vectors = _vectors(blobs, round_, reports)
    return aggregate_updates(round_.plan, manifest, vectors, private_random).astype(np.float32)


def _is_whole(blobs: BlobFolder, report: Report) -> bool:
    """Whether what a report names is still there as it came: a damaged file counts as a report that never came."""
    try:
        if report.update_sha256 is not None:
            blobs.get(report.update_sha256)
    except (UnknownBlobError, DamagedBlobError):
        return False
    return True


def _vectors(blobs: BlobFolder, round_: Round, reports: Sequence[Report]) -> Iterator[tuple[Vector, int]]:
    for report in reports:
        data = blobs.get(report.update_sha256 or "")
        yield read_vector(data, round_.plan.update_name, round_.num_parameters), report.num_examples


def _too_few(store: Store, round_: Round, num_reports: int) -> str:
    counts = count_leases(store, round_.round_id)
    lost = sum(counts.get(status, 0) for status in ("open", "lost"))
    reason = (
        f"{num_reports} of at least {round_.plan.min_reports} reports came within {round_.plan.deadline_s:g} s: "
        f"{round_.num_assigned} assignments were given, {lost} were lost, {counts.get('aborted', 0)} given back"
    )
    if not round_.plan.releases:
        return reason
    reason = f"{reason}; clients whose privacy budget is spent get none"
    num_worn_out = privacy_ledger.num_worn_out(store, round_.round_id, round_.plan)
    if not num_worn_out:
        return reason
    return (
        f"{reason}; {num_worn_out} clients have taken part privacy.max_participations = "
        f"{round_.plan.max_participations} times in {round_.plan.phase} and get no more: set it higher"
    )
