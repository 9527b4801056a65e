from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from device_runtime.terms import EvaluateTerms, PrivacyTerms, TrainTerms
from device_runtime.wire import Report
from pipeline.coordinator.plans import RoundPlan
from pipeline.coordinator.rounds import (
    BadMessageError,
    ConflictingReportError,
    Round,
    RoundClosedError,
    abort,
    accept_report,
    assign,
    assignment_of,
    check_report,
    expire_lease,
)

TRAIN = TrainTerms(0.1, local_steps=1, batch_size=4)


def make_round(**changes) -> Round:
    plan = {"cohort_size": 2, "min_reports": 1, "deadline_s": 100.0, "lease_s": 30.0, "train": TRAIN} | changes
    kind = "train" if plan["train"] else "evaluate"
    plan = RoundPlan("run", "key", "search", kind, "a" * 64, "b" * 64, **plan)
    return Round("run-0", plan, 6, 17, "1.14", 0.0, plan.deadline_s)


def begin(round_: Round, device: str, now: float = 0.0):
    place = assign(round_, device, None, now)
    assert place is not None
    return place.round_, place.lease


def test_the_first_assignment_has_the_lease_of_its_plan():
    round_, lease = begin(make_round(), "phone")
    assert (lease.assignment_id, lease.ends_at, lease.status) == ("run-0-0", 30.0, "open")
    assert (round_.num_open, round_.num_assigned, round_.num_reported) == (1, 1, 0)


def test_a_lease_never_outlives_its_round():
    assert begin(make_round(), "phone", now=90.0)[1].ends_at == 100.0


@pytest.mark.parametrize(("cohort_size", "over_selection", "places"), [(100, 1.1, 110), (10, 1.0, 10), (3, 1.3, 4)])
def test_places_are_the_cohort_times_over_selection_rounded_up(cohort_size, over_selection, places):
    round_ = make_round(cohort_size=cohort_size, over_selection=over_selection)
    for number in range(places):
        round_, _ = begin(round_, f"phone {number}")
    assert assign(round_, "one more", None, 1.0) is None


def test_a_lost_lease_gives_its_place_to_another():
    round_, lease = begin(make_round(cohort_size=1), "slow")
    assert expire_lease(round_, lease, 29.9) == (round_, lease)
    round_, lease = expire_lease(round_, lease, 30.0)
    assert lease.status == "lost"
    assert begin(round_, "other", 30.0)[1].assignment_id == "run-0-1"


def test_a_lost_device_holds_the_same_assignment_again_while_a_place_is_free():
    round_, lease = expire_lease(*begin(make_round(cohort_size=1), "slow"), 30.0)
    place = assign(round_, "slow", lease, 40.0)
    assert place is not None
    assert (place.lease.assignment_id, place.lease.ends_at, place.is_new) == ("run-0-0", 70.0, False)
    assert place.round_.num_assigned == 1


def test_a_late_report_counts_while_its_place_is_free():
    round_, lease = expire_lease(*begin(make_round(), "slow"), 30.0)
    assert accept_report(round_, lease, "r", 40.0)[0].num_reported == 1


def test_a_late_report_is_refused_once_its_place_is_taken():
    round_, lease = expire_lease(*begin(make_round(cohort_size=1), "slow"), 30.0)
    round_, _ = begin(round_, "other", 30.0)
    with pytest.raises(RoundClosedError, match="its place went to another"):
        accept_report(round_, lease, "r", 40.0)


@pytest.mark.parametrize("status", ["aborted", "reported"])
def test_a_device_that_had_its_part_gets_no_second_one(status):
    round_, lease = begin(make_round(), "phone")
    assert assign(round_, "phone", replace(lease, status=status), 1.0) is None


def test_the_same_report_twice_changes_nothing_even_after_the_end():
    round_, lease = accept_report(*begin(make_round(), "phone"), "r", 1.0)
    assert accept_report(round_, lease, "r", 2.0) == (round_, lease)
    assert accept_report(replace(round_, status="closed"), lease, "r", 1e6)[0].num_reported == 1


def test_a_second_different_report_conflicts():
    round_, lease = accept_report(*begin(make_round(), "phone"), "r", 1.0)
    with pytest.raises(ConflictingReportError, match="one is counted"):
        accept_report(round_, lease, "other", 2.0)


@pytest.mark.parametrize("changes", [{"status": "closed"}, {"status": "failed"}, {"closes_at": 1.0}])
def test_nothing_is_taken_after_the_end(changes):
    round_, lease = begin(make_round(), "phone")
    with pytest.raises(RoundClosedError, match="has ended"):
        accept_report(replace(round_, **changes), lease, "r", 1.0)
    assert assign(replace(round_, **changes), "other", None, 1.0) is None


def test_an_abort_frees_the_place_once_and_ends_the_part():
    round_, lease = abort(*begin(make_round(), "phone"))
    assert round_.num_open == 0
    assert abort(round_, lease) == (round_, lease)
    with pytest.raises(RoundClosedError, match="given back by its abort"):
        accept_report(round_, lease, "r", 1.0)


def test_an_abort_after_the_report_takes_nothing_back():
    reported = accept_report(*begin(make_round(), "phone"), "r", 1.0)
    assert abort(*reported) == reported


def test_a_round_is_due_when_its_cohort_is_complete_or_its_deadline_passed():
    round_, _ = accept_report(*begin(make_round(cohort_size=1), "phone"), "r", 1.0)
    assert round_.is_due(1.0)
    assert not make_round().is_due(99.9)
    assert make_round().is_due(100.0)


def test_a_round_that_closes_at_its_deadline_waits_for_it():
    round_, _ = accept_report(*begin(make_round(cohort_size=1, is_at_deadline=True), "phone"), "r", 1.0)
    assert not round_.is_due(99.9)
    assert round_.is_due(100.0)


def test_the_message_carries_the_plan_and_the_seconds_left():
    round_, lease = begin(make_round(rotation=3), "phone")
    message = assignment_of(round_, lease, 12.0)
    assert (message.assignment_id, message.lease_s, message.rotation, message.train) == ("run-0-0", 18.0, 3, TRAIN)
    assert assignment_of(round_, lease, 31.0).lease_s == 0.0


class AnyRound(RuleBasedStateMachine):
    """Devices and time do whatever they like; the invariants hold after every step."""

    devices = st.sampled_from(["a", "b", "c", "d", "e"])

    @initialize(size=st.integers(1, 3), over_selection=st.sampled_from([1.0, 1.5]), is_at_deadline=st.booleans())
    def open(self, size, over_selection, is_at_deadline):
        self.round = make_round(cohort_size=size, over_selection=over_selection, is_at_deadline=is_at_deadline)
        self.leases, self.counted, self.now = {}, {}, 0.0

    @rule(seconds=st.floats(0.0, 40.0))
    def wait(self, seconds):
        self.now += seconds
        for device, lease in self.leases.items():
            self.round, self.leases[device] = expire_lease(self.round, lease, self.now)

    @rule(device=devices)
    def check_in(self, device):
        before = self.leases.get(device)
        if before is not None and before.status == "open":
            return
        place = assign(self.round, device, before, self.now)
        if place is not None:
            assert place.is_new is (before is None)
            assert before is None or before.assignment_id == place.lease.assignment_id
            assert self.now < place.lease.ends_at <= self.round.closes_at
            self.round, self.leases[device] = place.round_, place.lease

    @rule(device=devices, report=st.sampled_from(["one", "other"]))
    def report(self, device, report):
        lease = self.leases.get(device)
        if lease is None:
            return
        try:
            self.round, self.leases[device] = accept_report(self.round, lease, report, self.now)
        except RoundClosedError:
            assert lease.status != "open" or self.now >= self.round.closes_at
        except ConflictingReportError:
            assert self.counted[device] != report
        else:
            assert self.counted.setdefault(device, report) == report

    @rule(device=devices)
    def abort(self, device):
        if device in self.leases:
            self.round, self.leases[device] = abort(self.round, self.leases[device])

    @invariant()
    def counts_are_those_of_the_leases(self):
        statuses = [lease.status for lease in self.leases.values()]
        assert self.round.num_open == statuses.count("open")
        assert self.round.num_reported == statuses.count("reported") == len(self.counted)
        assert self.round.num_assigned == len({lease.assignment_id for lease in self.leases.values()}) == len(statuses)

    @invariant()
    def places_are_never_exceeded(self):
        assert self.round.num_open + self.round.num_reported <= self.round.plan.num_places

    @invariant()
    def lost_devices_never_stall_it(self):
        round_ = self.round
        later = self.now + round_.plan.lease_s
        for lease in self.leases.values():
            round_, _ = expire_lease(round_, lease, later)
        is_full = round_.num_reported >= round_.plan.cohort_size
        assert is_full or round_.is_due(later) or assign(round_, "fresh", None, later) is not None
        assert round_.is_due(round_.closes_at)


AnyRound.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestAnyRound = AnyRound.TestCase


def make_report(**changes) -> Report:
    return Report(**({"assignment_id": "run-0-0", "num_examples": 10, "update_sha256": "c" * 64} | changes))


def test_a_train_report_as_asked_passes():
    check_report(make_round().plan, "run-0-0", make_report(work_s=3.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"assignment_id": "run-0-1"}, "assignment_id must be the one in the path"),
        ({"num_examples": 2**53}, "num_examples must be >= 1 and < 2147483648, got 9007199254740992"),
        ({"num_examples": 0}, r"num_examples must be >= 1 and < 2147483648, got 0"),
        ({"work_s": -1.0}, "work_s must be >= 0"),
        ({"update_sha256": None}, "update_sha256 must name the update"),
        ({"metric_sums": {"loss": 1.0}}, "metric_sums must be left out"),
    ],
)
def test_a_train_report_that_says_something_else_is_refused(changes, message):
    with pytest.raises(BadMessageError, match=message):
        check_report(make_round().plan, "run-0-0", make_report(**changes))


def test_a_private_report_may_not_tell_its_time():
    plan = make_round(
        train=TrainTerms(0.1, local_steps=1, max_grad_norm=1.0, privacy=PrivacyTerms("device", 0.5, 1.0))
    ).plan
    with pytest.raises(BadMessageError, match="time tells what was drawn"):
        check_report(plan, "run-0-0", make_report(work_s=1.0))


PLAIN = EvaluateTerms("validation", ("loss", "accuracy"))
PRIVATE = EvaluateTerms("validation", ("loss", "accuracy"), 4.0, PrivacyTerms("device", 0.5, 1.0))


@pytest.mark.parametrize(
    ("terms", "sums", "message"),
    [
        (PLAIN, None, r"exactly \['accuracy', 'loss'\]"),
        (PLAIN, {"loss": 1.0}, r"exactly \['accuracy', 'loss'\], got \['loss'\]"),
        (PLAIN, {"loss": 1.0, "accuracy": 11.0}, r"accuracy of 10 examples must be in \[0, 10\], got 11"),
        (PLAIN, {"loss": float("inf"), "accuracy": 1.0}, "loss must be finite"),
    ],
)
def test_metric_sums_that_cannot_be_are_refused(terms, sums, message):
    with pytest.raises(BadMessageError, match=message):
        check_report(
            make_round(train=None, evaluate=terms).plan, "x", make_report(assignment_id="x", **evaluated(sums))
        )


def test_noise_may_take_a_sum_out_of_its_range():
    plan = make_round(train=None, evaluate=PRIVATE).plan
    check_report(plan, "x", make_report(assignment_id="x", **evaluated({"loss": -3.0, "accuracy": 14.0})))


def evaluated(sums):
    return {"update_sha256": None, "metric_sums": sums}
