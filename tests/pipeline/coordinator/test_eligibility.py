from dataclasses import replace
from typing import get_args

import pytest

from device_runtime.accounting import Budget, Release, ReleaseKind
from device_runtime.wire import CheckIn, Headroom
from pipeline.coordinator.eligibility import (
    Device,
    UpgradeRequiredError,
    WrongKindError,
    WrongSpecError,
    check_kind_and_spec,
    check_versions,
    fits_budget,
    fits_headroom,
    is_eligible,
    version_numbers,
)
from pipeline.coordinator.plans import Run
from pipeline.coordinator.rounds import BadMessageError, plan_round

CHECK_IN = CheckIn("1.19.2", 17, "spec", {"train": 20, "validation": 6})
PHONE = Device("phone", "real", "key")
RELEASE = Release("update", "train", 0.25, 2.0, 3)


def test_a_device_takes_part_in_the_runs_of_its_kind_and_specification():
    runs = (Run("a", "real", "spec", 0), Run("b", "emulated", "spec", 0), Run("c", "real", "other", 0))
    assert check_kind_and_spec(PHONE, CHECK_IN, runs) == runs[:1]
    assert check_kind_and_spec(PHONE, CHECK_IN, ()) == ()


def test_emulated_and_real_do_not_mix():
    with pytest.raises(WrongKindError, match="enrolled as 'real' and every run here is 'emulated'"):
        check_kind_and_spec(PHONE, CHECK_IN, [Run("b", "emulated", "spec", 0)])


def test_another_specification_is_told_with_both_ids():
    with pytest.raises(WrongSpecError, match="have specification spec, the runs here take other"):
        check_kind_and_spec(PHONE, CHECK_IN, [Run("c", "real", "other", 0)])


@pytest.fixture
def rounds(world):
    old, new = world.manifest(minimum_runtime="1.14.0"), world.manifest(minimum_runtime="1.20", opset=18)
    return plan_round(world.plan(), old, "run-0", 0.0), plan_round(world.plan(), new, "run-1", 0.0)


def test_a_device_is_given_only_rounds_that_it_can_run(rounds):
    assert check_versions(CHECK_IN, rounds) == rounds[:1]
    assert check_versions(replace(CHECK_IN, runtime_version="1.20.0+cpu", opset=21), rounds) == rounds
    assert check_versions(CHECK_IN, ()) == ()


@pytest.mark.parametrize(
    "changes",
    [{"runtime_version": "1.13.9"}, {"opset": 16}, {"schemas": (2,)}, {"encodings": ("int8",)}],
    ids=str,
)
def test_a_device_older_than_every_round_needs_is_told_to_upgrade(rounds, changes):
    with pytest.raises(UpgradeRequiredError, match=r"needs ONNX Runtime 1.14.0, opset 17.*update the app"):
        check_versions(replace(CHECK_IN, **changes), rounds)


@pytest.mark.parametrize(("text", "numbers"), [("1.20.0+cpu", (1, 20)), ("1.9", (1, 9)), ("2", (2,)), ("0", ())])
def test_versions_are_compared_as_numbers(text, numbers):
    assert version_numbers(text) == numbers


def test_a_version_without_a_number_is_refused():
    with pytest.raises(BadMessageError, match="runtime_version must start with a number, got 'newest'"):
        version_numbers("newest")


def test_a_round_is_for_its_eligible_devices_that_hold_enough_examples(world):
    assert is_eligible(world.plan(), "phone", CHECK_IN)
    assert is_eligible(world.plan(eligible=("phone", "other")), "phone", CHECK_IN)
    assert not is_eligible(world.plan(eligible=("other",)), "phone", CHECK_IN)
    assert is_eligible(world.plan(min_train_examples=20), "phone", CHECK_IN)
    assert not is_eligible(world.plan(min_train_examples=21), "phone", CHECK_IN)
    assert is_eligible(world.plan(**world.evaluation(), min_train_examples=21), "phone", CHECK_IN)
    assert not is_eligible(world.plan(**world.evaluation(split="test")), "phone", CHECK_IN)


def test_the_budget_is_used_up_to_its_last_digit_and_not_beyond():
    budget = Budget(8.0, 1e-5, 8)
    cost = RELEASE.rdp(8)
    assert fits_budget(budget, {"train": budget.rdp() - cost}, [RELEASE])
    assert not fits_budget(budget, {"train": budget.rdp() - cost * 0.999}, [RELEASE])
    assert fits_budget(budget, {"validation": budget.rdp()}, [RELEASE])
    assert not fits_budget(budget, {"train": budget.rdp() - cost}, [RELEASE, RELEASE])


def test_the_phones_own_ledger_is_respected_at_its_own_order():
    cost = RELEASE.rdp(5)
    assert fits_headroom([RELEASE], Headroom(5, {"train": cost}))
    assert not fits_headroom([RELEASE], Headroom(5, {"train": cost * 0.999, "validation": 100.0}))
    assert not fits_headroom([RELEASE], Headroom(6, {"train": cost}))
    assert not fits_headroom([RELEASE], Headroom(5, {"validation": 100.0}))


@pytest.mark.parametrize("kind", get_args(ReleaseKind))
def test_every_kind_of_release_counts_for_the_budget_and_for_the_headroom(kind):
    budget, release = Budget(8.0, 1e-5, 8), replace(RELEASE, kind=kind)
    enough, less = release.rdp(8), release.rdp(8) * 0.999
    for others in ((), (replace(RELEASE, kind="metrics", split="validation"),)):
        assert fits_budget(budget, {"train": budget.rdp() - enough}, [*others, release])
        assert not fits_budget(budget, {"train": budget.rdp() - less}, [*others, release])
        assert fits_headroom([*others, release], Headroom(8, {"train": enough, "validation": 1.0}))
        assert not fits_headroom([*others, release], Headroom(8, {"train": less, "validation": 1.0}))


def test_private_rounds_are_for_phones_with_a_budget_and_others_for_phones_without():
    assert fits_headroom([], None)
    assert not fits_headroom([RELEASE], None)
    assert not fits_headroom([], Headroom(5, {"train": 100.0}))
