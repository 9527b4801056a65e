"""Where a search holds its rounds: with an emulated fleet, or at a running server with the devices that come."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Protocol

from device_runtime.private_random import PrivateRandom
from device_runtime.wire import SPLITS
from pipeline.coordinator.blobs import BlobFolder
from pipeline.coordinator.plans import RoundPlan, Run
from pipeline.coordinator.rounds import RoundResult
from pipeline.coordinator.store import Store
from pipeline.coordinator.worker import run_rounds
from profiles.records import from_plain, later
from profiles.schema import DeviceProfile

POLL_S = 0.2
_CLIENTS, _RUN_FILE = "clients", "run file"  # keys of the run's records


class OtherSearchError(ValueError):
    """The server has a run of this name already, and it is not known to be this search."""


@dataclass(frozen=True)
class RunClient:
    """A device of a run, as it was when the run began.

    Attributes:
        num_examples: By split, which are public.
        profile: Name of its profile; empty where nobody knows.
        device_class: That a real device named; empty where it named none.
    """

    device_id: str
    num_examples: dict[str, int]
    profile: str = ""
    device_class: str = later("")


class Rounds(Protocol):
    """Holds rounds of one run."""

    store: Store
    blobs: BlobFolder
    run: Run

    def hold_all(self, plans: Sequence[RoundPlan]) -> list[RoundResult]:
        """Hold rounds side by side; of those that were held before, their results."""
        ...

    def close(self) -> None:
        """Let everything go; what was held is kept."""
        ...


def open_server_state(state: Path) -> tuple[Store, BlobFolder]:
    """Database and blobs of a `handheld serve` that may be running.

    Raises:
        FileNotFoundError: No server has ever used the folder.
    """
    database = state / "handheld.db"
    if not database.exists():
        raise FileNotFoundError(f"{state} is no server's state folder; start `handheld serve --state {state}` first")
    return Store(f"sqlite:///{database}"), BlobFolder(state / "blobs")


class AttachedRounds:
    """Rounds at a running `handheld serve`: the two meet in its database and its blobs."""

    def __init__(self, run: Run, state: Path, run_file_sha256: str, is_resumed: bool) -> None:
        """Open the state folder of a server; nothing is written before `begin`.

        Args:
            run_file_sha256: Of the run file's text: by it alone a search knows its own run again.

        Raises:
            FileNotFoundError: No server has ever used the folder.
            OtherSearchError: The server has the run and the search is not resumed, or began with another run file.
            StoreError: The run has other settings, though the file is the same: its examples are specified otherwise.
        """
        self.store, self.blobs = open_server_state(state)
        self.run, self._run_file_sha256, self._is_resumed = run, run_file_sha256, is_resumed
        try:
            with self.store.transaction():
                self._is_begun()
        except BaseException:
            self.store.close()
            raise

    def begin(self, clients: tuple[RunClient, ...]) -> None:
        """Keep the run, its run file and the devices that it begins with, all or nothing; a resumed one has them.

        A search that is refused or killed before leaves nothing that would be in the way of the next.

        Raises:
            OtherSearchError: Another search of this name began meanwhile.
        """
        with self.store.transaction():
            if not self._is_begun():
                self.store.add_run(self.run)
                self.store.put_record(self.run.run_id, _RUN_FILE, self._run_file_sha256)
                self.store.put_record(self.run.run_id, _CLIENTS, clients)

    def _is_begun(self) -> bool:
        """Whether the server has the run, which is then this search's own."""
        name = self.run.run_id
        if name not in self.store.run_ids():
            return False
        if not self._is_resumed:
            raise OtherSearchError(
                f"the server has a run {name!r} already: choose another [run] name, or go on with --resume in the "
                "folder that it began in"
            )
        kept = self.store.get_record(name, _RUN_FILE)
        if kept != self._run_file_sha256:
            known = (
                "no run file of it was kept, since no search began it or an older version of handheld did"
                if kept is None
                else f"it began with another run file, of sha256 {kept}, this one's is {self._run_file_sha256}"
            )
            raise OtherSearchError(
                f"the server's run {name!r} is not known to be this search: {known}; resume it with its own file and "
                "folder, or begin anew in another folder with another [run] name"
            )
        self.store.add_run(self.run)  # or its examples have another specification by now
        return True

    def hold_all(self, plans: Sequence[RoundPlan]) -> list[RoundResult]:
        """Hold rounds side by side; of those that were held before, their results."""
        return run_rounds(
            self.store,
            self.blobs,
            plans,
            time.time,
            lambda _: time.sleep(POLL_S),
            lambda _: PrivateRandom.from_system(),
        )

    def clients(self, profiles: Sequence[DeviceProfile]) -> tuple[RunClient, ...]:
        """The devices of the run's kind and examples that have checked in; of a run that has begun, had then.

        Args:
            profiles: Of the run's targets; a class's devices are dealt out among its targets.
        """
        with self.store.transaction():
            found = self.store.get_record(self.run.run_id, _CLIENTS)
            if found is not None:
                return tuple(from_plain(RunClient, one) for one in found)
            return _dealt(
                [
                    RunClient(
                        device.device_id,
                        {split: device.check_in.num_examples.get(split, 0) for split in SPLITS},
                        device_class=device.check_in.device_class or "",
                    )
                    for device in self.store.list_devices()
                    if device.kind == self.run.kind and device.check_in and device.check_in.spec_id == self.run.spec_id
                ],
                profiles,
            )

    def close(self) -> None:
        """Close the database; the run stays open for its resumption unless it was finished."""
        self.store.close()


def _dealt(clients: Sequence[RunClient], profiles: Sequence[DeviceProfile]) -> tuple[RunClient, ...]:
    """The clients with profiles: those of a device class take turns at its targets, in the order of their ids."""
    turns: dict[str, Iterator[str]] = {
        name: cycle([profile.name for profile in profiles if profile.device_class == name])
        for name in {profile.device_class for profile in profiles}
    }
    dealt = {
        client.device_id: next(turns[client.device_class])
        for client in sorted(clients, key=lambda client: client.device_id)
        if client.device_class in turns
    }
    return tuple(replace(client, profile=dealt.get(client.device_id, "")) for client in clients)
