"""Hold rounds from their plans to their results, for a search that may be killed and resumed at any moment."""

from collections.abc import Callable, Collection, Sequence

from device_runtime.measurement_pack import PackManifest, decode_manifest
from device_runtime.private_random import PrivateRandom
from device_runtime.specs import Manifest
from pipeline.coordinator.blobs import BlobFolder
from pipeline.coordinator.closing import close_round
from pipeline.coordinator.plans import RoundPlan, check_plan
from pipeline.coordinator.round_rows import add_round, find_round, load_round, next_round_id, open_rounds
from pipeline.coordinator.rounds import RoundResult, plan_round
from pipeline.coordinator.store import Store
from profiles.records import decode_record


class OtherPlanError(ValueError):
    """A round of this key was planned with other settings."""


def run_rounds(  # noqa: PLR0913, PLR0917  (what rounds need from outside: where, what, time, chance)
    store: Store,
    blobs: BlobFolder,
    plans: Sequence[RoundPlan],
    now: Callable[[], float],
    wait: Callable[[tuple[str, ...]], None],
    private_random: Callable[[RoundPlan], PrivateRandom],
) -> list[RoundResult]:
    """Hold rounds side by side and return their results, each closed as soon as it is due.

    A round of the same key is continued, or its result given, not held twice.

    Args:
        wait: Called with the ids of the rounds that are open until one is due: sleeps a moment, or lets a fleet do its
            next event.
        private_random: Of each round, see `close_round`.
    """
    ids = {open_round(store, blobs, plan, now()): plan for plan in plans}
    results: dict[str, RoundResult] = {}
    while len(results) < len(ids):
        waiting = waiting_rounds(store, tuple(ids), now())
        for round_id, plan in ids.items():
            if round_id not in waiting and round_id not in results:
                results[round_id] = close_round(store, blobs, round_id, now(), private_random(plan))
        if waiting:
            wait(waiting)
    return [results[round_id] for round_id in ids]


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


def waiting_rounds(store: Store, round_ids: Collection[str], now: float) -> tuple[str, ...]:
    """Those of the rounds that `close_round` would not close yet, oldest first; opens its own transaction."""
    with store.transaction():
        rounds = open_rounds(store)
    return tuple(one.round_id for one in rounds if one.round_id in round_ids and not one.is_due(now))


def closes_at(store: Store, round_id: str) -> float:
    """When the round's deadline is, on the server's clock; opens its own transaction."""
    with store.transaction():
        return load_round(store, round_id).closes_at
