"""Which devices may serve a round: kind, specification, versions, examples and privacy; pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from device_runtime.accounting import Budget, BudgetExceededError, Release, check_fits, rdp_by_split
from device_runtime.terms import Split
from device_runtime.wire import CheckIn, Headroom, RunKind
from pipeline.coordinator.plans import RoundPlan, Run
from pipeline.coordinator.rounds import BadMessageError, Round
from profiles.records import SCHEMA

# What is left was computed by a subtraction; the phone's own filter has the last word.
ROUNDING = 1e-12


class WrongKindError(Exception):
    """The device is emulated and every run here is real, or the other way round."""


class WrongSpecError(Exception):
    """The device's examples are not what any run here is about."""


class UpgradeRequiredError(Exception):
    """Every open round needs newer software than the device has."""


@dataclass(frozen=True)
class Device:
    """An enrolled device.

    Attributes:
        public_key: SPKI DER in base64.
        check_in: Its last check-in; None before the first.
    """

    device_id: str
    kind: RunKind
    public_key: str
    check_in: CheckIn | None = None


def check_kind_and_spec(device: Device, check_in: CheckIn, runs: Iterable[Run]) -> tuple[Run, ...]:
    """The runs that the device may ever take part in.

    Raises:
        WrongKindError, WrongSpecError: There are runs, and none is for such a device.
    """
    runs = tuple(runs)
    of_kind = tuple(run for run in runs if run.kind == device.kind)
    if runs and not of_kind:
        raise WrongKindError(
            f"this device enrolled as {device.kind!r} and every run here is {runs[0].kind!r}; start a run of its kind, "
            "or enrol the client without a given key or seed for a real one"
        )
    of_spec = tuple(run for run in of_kind if run.spec_id in {None, check_in.spec_id})
    if of_kind and not of_spec:
        raise WrongSpecError(
            f"this device's examples have specification {check_in.spec_id}, the runs here take "
            f"{', '.join(sorted({str(run.spec_id) for run in of_kind}))}; give both the same data specification"
        )
    return of_spec


def check_versions(check_in: CheckIn, rounds: Iterable[Round]) -> tuple[Round, ...]:
    """The rounds whose artifact the device can run.

    Raises:
        UpgradeRequiredError: There are rounds, and the device is older than what each needs.
        BadMessageError: The device's runtime version does not start with a number.
    """
    rounds, version = tuple(rounds), version_numbers(check_in.runtime_version)
    is_readable = SCHEMA in check_in.schemas and "float32" in check_in.encodings
    able = tuple(
        round_
        for round_ in rounds
        if is_readable and check_in.opset >= round_.opset and version >= version_numbers(round_.minimum_runtime)
    )
    if rounds and not able:
        raise UpgradeRequiredError(
            f"every open round needs ONNX Runtime {rounds[0].minimum_runtime}, opset {rounds[0].opset}, schema "
            f"{SCHEMA} and encoding 'float32'; this device has {check_in.runtime_version}, opset {check_in.opset}, "
            f"schemas {list(check_in.schemas)}, encodings {list(check_in.encodings)}: update the app or onnxruntime"
        )
    return able


def is_eligible(plan: RoundPlan, device_id: str, check_in: CheckIn) -> bool:
    """Whether the plan names this device, and it holds enough examples."""
    if plan.eligible_ids is not None and device_id not in plan.eligible_ids:
        return False
    return all(check_in.num_examples.get(split, 0) >= count for split, count in plan.min_examples.items())


def fits_budget(budget: Budget, spent_rdp: Mapping[Split, float], releases: Sequence[Release]) -> bool:
    """Whether the run's filter allows all of these releases together.

    Args:
        spent_rdp: What each of the device's splits has spent in this run, at the budget's order.
    """
    try:
        check_fits(budget, spent_rdp, releases)
    except BudgetExceededError:
        return False
    return True


def fits_headroom(releases: Sequence[Release], headroom: Headroom | None) -> bool:
    """Whether the phone's own ledger allows all of these releases together, by what it said.

    A phone without a privacy budget takes no private part. One that has a budget takes no other: a release without
    noise would cost infinity.
    """
    if not releases or headroom is None:
        return not releases and headroom is None
    needed = rdp_by_split(releases, headroom.order)
    return all(rdp <= headroom.rdp.get(split, 0.0) * (1 + ROUNDING) + ROUNDING for split, rdp in needed.items())


def version_numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version, without trailing zeros: 1.20.0+cpu -> (1, 20)."""
    match = re.match(r"\d+(\.\d+)*", text)
    if match is None:
        raise BadMessageError(f"runtime_version must start with a number, got {text!r:.80}")
    numbers = [int(part) for part in match.group().split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
