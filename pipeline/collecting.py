"""Collect profiles of real devices: one `measure` round at a running server, one file for each device that measured."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from device_runtime.private_random import PrivateRandom
from device_runtime.terms import MeasureTerms
from pipeline.coordinator.blobs import BlobFolder, profiles_of_round
from pipeline.coordinator.plans import RoundPlan, Run
from pipeline.coordinator.publish import publish_pack
from pipeline.coordinator.round_rows import load_round
from pipeline.coordinator.store import Store
from pipeline.coordinator.worker import run_rounds
from pipeline.searching.rounds import open_server_state
from profiles.records import decode_record
from profiles.schema import DeviceProfile

LEASE_S = 900.0  # a phone takes up to ten minutes
ID_DIGITS = 12  # of a device's id, in the name of its file


class TooFewProfilesError(RuntimeError):
    """Fewer devices measured than were asked for; the message says how many were asked and what to do."""


@dataclass(frozen=True)
class CollectRequest:
    """What `handheld profile collect` was asked to do.

    Attributes:
        state: Folder of the server.
        pack: Folder of the measurement pack.
        min_reports: Fewer profiles at the deadline are an error.
    """

    state: Path
    pack: Path
    is_quick: bool
    min_reports: int
    deadline_s: float


@dataclass(frozen=True)
class Collected:
    """One device's profile, in short."""

    device_id: str
    file: str
    device_class: str
    soc: str
    num_cores: int
    ram_mib: float
    num_kernels: int
    is_stable: bool


def collect_profiles(
    request: CollectRequest, output: Path, now: Callable[[], float], wait: Callable[[int, int], None]
) -> tuple[Collected, ...]:
    """Ask every device to measure itself, until all that are enrolled did or the deadline is over; write `output`.

    Args:
        now: The server's clock, seconds.
        wait: Told how many profiles came and how many are wanted, until the round is due; rests a moment.

    Raises:
        FileNotFoundError: No server has ever used the state folder.
        PackError: The folder is no measurement pack.
        TooFewProfilesError: See `CollectRequest`; no file is written.
    """
    store, blobs = open_server_state(request.state)
    run = None
    try:
        pack_id = publish_pack(store, blobs, request.pack)
        run = _add_run(store)
        plan = _plan(request, run, pack_id, _count_real_devices(store))
        round_id = _hold(store, blobs, plan, now, wait)
        with store.transaction():
            names = profiles_of_round(store, round_id)
        return tuple(_write(device_id, blobs.get(sha256), output) for device_id, sha256 in names.items())
    finally:
        if run is not None:  # however this ends, no other device shall begin to measure
            with store.transaction():
                store.finish_run(run.run_id)
        store.close()


def _add_run(store: Store) -> Run:
    """A run of its own, for devices of any specification."""
    with store.transaction():
        known = store.run_ids()
        number = next(i for i in range(1, len(known) + 2) if f"profiles-{i}" not in known)
        run = Run(f"profiles-{number}", "real", None, seed=0)
        store.add_run(run)
    return run


def _count_real_devices(store: Store) -> int:
    with store.transaction():
        return sum(device.kind == "real" for device in store.list_devices())


def _plan(request: CollectRequest, run: Run, pack_id: str, num_devices: int) -> RoundPlan:
    return RoundPlan(
        run_id=run.run_id,
        round_key="profiles",
        phase="profile",
        kind="measure",
        artifact_id=pack_id,
        parameters_sha256=None,
        cohort_size=max(request.min_reports, num_devices),
        min_reports=request.min_reports,
        deadline_s=request.deadline_s,
        lease_s=min(LEASE_S, request.deadline_s),
        measure=MeasureTerms(request.is_quick),
    )


def _hold(
    store: Store, blobs: BlobFolder, plan: RoundPlan, now: Callable[[], float], wait: Callable[[int, int], None]
) -> str:
    """Hold the round and return its id."""

    def tell(round_ids: tuple[str, ...]) -> None:
        with store.transaction():
            num_reported = load_round(store, round_ids[0]).num_reported
        wait(num_reported, plan.cohort_size)

    result = run_rounds(store, blobs, [plan], now, tell, lambda _: PrivateRandom.from_system())[0]
    if result.status == "failed":
        raise TooFewProfilesError(
            f"{result.reason}; start clients (handheld-device run --server URL), or give them longer with --deadline"
        )
    return result.round_id


def _write(device_id: str, data: bytes, output: Path) -> Collected:
    """Write the bytes as they came; a name that the device chose is part of no path."""
    profile = decode_record(DeviceProfile, data)
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"{device_id[:ID_DIGITS]}.json"
    path.write_bytes(data)
    return Collected(
        device_id=device_id,
        file=str(path),
        device_class=profile.device_class,
        soc=profile.soc,
        num_cores=sum(cluster.num_cores for cluster in profile.clusters),
        ram_mib=profile.ram_mib.value,
        num_kernels=len(profile.kernels),
        is_stable=profile.is_stable,
    )
