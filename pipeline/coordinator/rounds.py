"""Rounds as pure transitions: records and time in, records out; nothing here reads a clock, a file or a database.

A round gives at most ceil(cohort_size * over_selection) places. A device holds a place by a lease: `open` until it
reports, aborts, or the lease ends. A lease that ended is `lost` and its place is free for another device; while the
round is open and a place is free its own device may still report, or check in and hold the same assignment again
(charged again: what came of it before may have left the phone). There is never a second assignment for a device and
round.
"""

from dataclasses import dataclass, replace
from math import isfinite
from typing import Literal

from device_runtime.measurement_pack import PackManifest
from device_runtime.segments import num_moving
from device_runtime.specs import Manifest
from device_runtime.terms import ClientPrivacyTerms
from device_runtime.wire import Assignment, Report
from pipeline.coordinator.plans import AskedSums, RoundPlan

MAX_EXAMPLES = 2**31
RoundStatus = Literal["open", "closed", "failed"]
LeaseStatus = Literal["open", "lost", "aborted", "reported", "closed"]  # closed: the round ended without its report


class RoundClosedError(Exception):
    """The round takes nothing more from this client; the client drops its work and checks in again."""


class ConflictingReportError(Exception):
    """An assignment that has an update or a report was sent a different one."""


class BadMessageError(ValueError):
    """A message can be read but does not say what was asked."""


@dataclass(frozen=True)
class Round:
    """One round's row.

    Attributes:
        num_parameters: Values of an update, those of its network that move; 0 where none is asked for.
        opset, minimum_runtime: What its artifact needs.
        opened_at, closes_at: Seconds on the server's clock.
        num_open: Leases that are open.
        num_reported: Reports taken.
        num_assigned: Assignments ever given; numbers the next one.
    """

    round_id: str
    plan: RoundPlan
    num_parameters: int
    opset: int
    minimum_runtime: str
    opened_at: float
    closes_at: float
    status: RoundStatus = "open"
    num_open: int = 0
    num_reported: int = 0
    num_assigned: int = 0

    @property
    def has_free_place(self) -> bool:
        """Whether one more device may hold a place."""
        return self.num_open + self.num_reported < self.plan.num_places

    @property
    def has_place_for_another(self) -> bool:
        """Whether that device may be a new one: in the client unit a place that is given back stays empty.

        Who takes it would be in the sum for what another client did, and neighbours would differ in both.
        """
        return not self.plan.is_of_clients or self.num_assigned < self.plan.num_places

    def is_due(self, now: float) -> bool:
        """Whether it is time to close: the deadline passed, or the cohort is complete and need not wait for it."""
        is_complete = self.num_reported >= self.plan.cohort_size and not self.plan.is_at_deadline
        return self.status == "open" and (is_complete or now >= self.closes_at)


@dataclass(frozen=True)
class Lease:
    """One assignment's row: a device's hold on a place.

    Attributes:
        ends_at: When the place is given to another.
        report_sha256: Of the body of the report that was taken.
        report_number: How many reports the round had with it.
    """

    assignment_id: str
    round_id: str
    device_id: str
    ends_at: float
    status: LeaseStatus = "open"
    report_sha256: str | None = None
    report_number: int | None = None


@dataclass(frozen=True)
class Place:
    """A place that was given: round and lease as they are then.

    Attributes:
        is_new: Whether this is the assignment's beginning, not a lost one held again.
    """

    round_: Round
    lease: Lease
    is_new: bool


@dataclass(frozen=True)
class RoundResult:
    """What a round came to.

    Attributes:
        num_examples: Sum of the reporters' public counts.
        aggregate_sha256: Blob with `parameter_update` f32[num_parameters of the round]; only a `train` round that did
            not fail has one.
        metric_sums: Summed over reports, those of a `train` round its reward; divide by num_examples, a reward by
            num_scored (private: times sample_rate; in the client unit by expected_reports alone).
        reason: Why a round failed; empty otherwise.
        profiles: Blobs that a `measure` round kept, in the order of the devices' ids.
        num_scored: Sum of the reporters' public counts behind a reward.
    """

    round_id: str
    status: RoundStatus
    num_reports: int = 0
    num_examples: int = 0
    aggregate_sha256: str | None = None
    metric_sums: dict[str, float] | None = None
    reason: str = ""
    profiles: tuple[str, ...] = ()
    num_scored: int = 0


def plan_round(plan: RoundPlan, manifest: Manifest | PackManifest, round_id: str, now: float) -> Round:
    """Open a round for a plan that `check_plan` let through.

    Raises:
        ValueError: Architecture weights are to move, and the network has none.
    """
    return Round(
        round_id=round_id,
        plan=plan,
        num_parameters=num_moving(manifest, plan.train.moves) if isinstance(manifest, Manifest) and plan.train else 0,
        opset=manifest.opset,
        minimum_runtime=manifest.minimum_runtime,
        opened_at=now,
        closes_at=now + plan.deadline_s,
    )


def assign(round_: Round, device_id: str, previous: Lease | None, now: float) -> Place | None:
    """Give a device that fits (`eligibility`) a place; None when there is none for it.

    Args:
        previous: The device's lease in this round, if it ever had one.
    """
    is_open = round_.status == "open" and now < round_.closes_at
    if not is_open or not round_.has_free_place or round_.is_due(now):
        return None
    ends_at = min(now + round_.plan.lease_s, round_.closes_at)
    held = replace(round_, num_open=round_.num_open + 1)
    if previous is None and round_.has_place_for_another:
        lease = Lease(f"{round_.round_id}-{round_.num_assigned}", round_.round_id, device_id, ends_at)
        return Place(replace(held, num_assigned=round_.num_assigned + 1), lease, is_new=True)
    if previous is not None and previous.status == "lost":
        return Place(held, replace(previous, status="open", ends_at=ends_at), is_new=False)
    return None


def expire_lease(round_: Round, lease: Lease, now: float) -> tuple[Round, Lease]:
    """Free the place of a lease that ran out."""
    if lease.status != "open" or now < lease.ends_at:
        return round_, lease
    return replace(round_, num_open=round_.num_open - 1), replace(lease, status="lost")


def accept_report(round_: Round, lease: Lease, report_sha256: str, now: float) -> tuple[Round, Lease]:
    """Count one report; the same one again changes nothing.

    Raises:
        ConflictingReportError: Another report was taken before.
        RoundClosedError: The round ended, or the place went to another client.
    """
    if lease.status == "reported":
        if lease.report_sha256 != report_sha256:
            raise ConflictingReportError(f"assignment {lease.assignment_id} has another report: one is counted")
        return round_, lease
    check_open(round_, lease, now)
    round_ = replace(round_, num_open=round_.num_open - (lease.status == "open"), num_reported=round_.num_reported + 1)
    lease = replace(lease, status="reported", report_sha256=report_sha256, report_number=round_.num_reported)
    return round_, lease


def check_open(round_: Round, lease: Lease, now: float) -> None:
    """Raise RoundClosedError unless this assignment may still send an update and a report."""
    if lease.status == "aborted":
        raise RoundClosedError(f"assignment {lease.assignment_id} was given back by its abort; check in for another")
    if round_.status != "open" or lease.status == "closed" or now >= round_.closes_at:
        raise RoundClosedError(f"round {round_.round_id} has ended; drop the work and check in again")
    if lease.status == "lost" and not round_.has_free_place:
        raise RoundClosedError(
            f"the lease of assignment {lease.assignment_id} ran out and its place went to another; check in again"
        )


def abort(round_: Round, lease: Lease) -> tuple[Round, Lease]:
    """Take a place back from a client that gives up; nothing changes where there is none to give."""
    if lease.status not in ("open", "lost"):
        return round_, lease
    return replace(round_, num_open=round_.num_open - (lease.status == "open")), replace(lease, status="aborted")


def check_report(plan: RoundPlan, assignment_id: str, report: Report) -> None:
    """Check what a report says against what was asked, before anything is looked up.

    Raises:
        BadMessageError: Names the field, the rule and the value.
    """
    _expect(report.assignment_id == assignment_id, "assignment_id must be the one in the path", report.assignment_id)
    if plan.measure is None:
        # Sums over a million clients stay whole numbers in every language.
        is_plausible = 1 <= report.num_examples < MAX_EXAMPLES
        _expect(is_plausible, f"num_examples must be >= 1 and < {MAX_EXAMPLES}", report.num_examples)
    _expect(report.work_s is None or report.work_s >= 0, "work_s must be >= 0", report.work_s)
    if plan.releases:
        _expect(
            report.work_s is None, "work_s must be left out of a private report: time tells what was drawn", "a value"
        )
    _check_result(plan, report)


def assignment_of(round_: Round, lease: Lease, now: float) -> Assignment:
    """The message that tells a device its part."""
    return round_.plan.assignment(lease.assignment_id, max(0.0, lease.ends_at - now))


def _check_result(plan: RoundPlan, report: Report) -> None:
    """A report holds the results of its kind, and no other."""
    asked = {
        "update": (plan.train is not None, report.update_sha256),
        "profile": (plan.measure is not None, report.profile_sha256),
    }
    for name, (is_asked, sha256) in asked.items():
        _expect(is_asked or sha256 is None, f"{name}_sha256 must be left out of a report to {plan.kind}", sha256)
        _expect(sha256 or not is_asked, f"{name}_sha256 must name the {name} of a report to {plan.kind}", sha256)
    is_asked = plan.sums is not None or report.metric_sums is None
    _expect(is_asked, f"metric_sums must be left out of a report to {plan.kind}", report.metric_sums)
    if plan.measure is not None:
        _expect(report.num_examples == 0, "num_examples must be 0 in a report to measure", report.num_examples)
    if plan.sums is None or plan.train is None:
        _expect(report.num_scored == 0, "num_scored must be 0 where no reward was asked for", report.num_scored)
    if plan.sums is not None:
        _check_sums(plan.sums, report.num_examples if plan.train is None else report.num_scored, report)


def _check_sums(asked: AskedSums, num_examples: int, report: Report) -> None:
    sums = report.metric_sums or {}
    _expect(1 <= num_examples < MAX_EXAMPLES, f"num_scored must be >= 1 and < {MAX_EXAMPLES}", num_examples)
    _expect(set(sums) == set(asked.names), f"metric_sums must name exactly {sorted(asked.names)}", sorted(sums))
    for name, value in sums.items():
        _expect(isfinite(value), f"metric_sums.{name} must be finite", value)
        if asked.privacy is None or asked.privacy.noise_at == "sum":  # noise may leave the range, a raw sum cannot
            is_mean = isinstance(asked.privacy, ClientPrivacyTerms)
            num_records, whose = (1, "a client") if is_mean else (num_examples, f"{num_examples} examples")
            low, high = (end * num_records for end in asked.range_of(name))
            rule = f"metric_sums.{name} of {whose} must be in [{low:g}, {high:g}]"
            _expect(low - 1e-6 * num_records <= value <= high + 1e-6 * num_records, rule, value)


def _expect(condition: object, rule: str, value: object) -> None:
    if not condition:
        raise BadMessageError(f"{rule}, got {value!r:.200}")
