"""Hold one round from its plan to its result, for a search that may be killed and resumed at any moment."""

from collections.abc import Callable

from device_runtime.measurement_pack import PackManifest, decode_manifest
from device_runtime.private_random import PrivateRandom
from device_runtime.specs import Manifest
from pipeline.coordinator.blobs import BlobFolder
from pipeline.coordinator.closing import close_round
from pipeline.coordinator.plans import RoundPlan, check_plan
from pipeline.coordinator.round_rows import add_round, find_round, load_round, next_round_id
from pipeline.coordinator.rounds import RoundResult, plan_round
from pipeline.coordinator.store import Store
from profiles.records import decode_record


class OtherPlanError(ValueError):
    """A round of this key was planned with other settings."""


def run_round(  # noqa: PLR0913, PLR0917  (what a round needs from outside: where, what, time, chance)
    store: Store,
    blobs: BlobFolder,
    plan: RoundPlan,
    now: Callable[[], float],
    wait: Callable[[str], None],
    private_random: PrivateRandom,
) -> RoundResult:
    """Hold a round and return its result. A round of the same key is continued, or its result given, not held twice.

    Args:
        wait: Called with the round's id until it is due: sleeps a moment, or lets a fleet do its next event.
        private_random: See `close_round`.
    """
    round_id = open_round(store, blobs, plan, now())
    while not is_due_or_closed(store, round_id, now()):
        wait(round_id)
    return close_round(store, blobs, round_id, now(), private_random)


def open_round(store: Store, blobs: BlobFolder, plan: RoundPlan, now: float) -> str:
    """Plan a round, or find the one of its key, and return its id; opens its own transaction.

    Raises:
        OtherPlanError: The key is taken by another plan.
        ValueError: See `check_plan`.
        UnknownBlobError: The artifact or the parameters were not published.
    """
    with store.transaction():
        known = find_round(store, plan.run_id, plan.round_key)
        if known is not None:
            if known.plan != plan:
                raise OtherPlanError(
                    f"round {plan.round_key!r} of run {plan.run_id!r} was planned with other settings: "
                    "resume the run unchanged, or start another"
                )
            return known.round_id
        manifest = _read_manifest(blobs, plan)
        check_plan(store.load_run(plan.run_id), plan, manifest)
        round_ = plan_round(plan, manifest, next_round_id(store, plan.run_id), now)
        add_round(store, round_)
    return round_.round_id


def _read_manifest(blobs: BlobFolder, plan: RoundPlan) -> Manifest | PackManifest:
    """Of what the round's clients are to run, all of which must have been published."""
    data = blobs.get(plan.artifact_id)
    if plan.parameters_sha256 is None:
        return decode_manifest(data, f"measurement pack {plan.artifact_id}")
    blobs.get(plan.parameters_sha256)
    return decode_record(Manifest, data)


def is_due_or_closed(store: Store, round_id: str, now: float) -> bool:
    """Whether `close_round` may be called; opens its own transaction."""
    with store.transaction():
        round_ = load_round(store, round_id)
    return round_.status != "open" or round_.is_due(now)


def closes_at(store: Store, round_id: str) -> float:
    """When the round's deadline is, on the server's clock; opens its own transaction."""
    with store.transaction():
        return load_round(store, round_id).closes_at
