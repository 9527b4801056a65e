"""Where a search holds its rounds: with an emulated fleet, or at a running server with the devices that come."""

import time
from pathlib import Path
from typing import Protocol

from device_runtime.private_random import PrivateRandom
from pipeline.coordinator.blobs import BlobFolder
from pipeline.coordinator.plans import RoundPlan, Run
from pipeline.coordinator.rounds import RoundResult
from pipeline.coordinator.store import Store
from pipeline.coordinator.worker import run_round

POLL_S = 0.2


class Rounds(Protocol):
    """Holds rounds of one run."""

    store: Store
    blobs: BlobFolder
    run: Run

    def hold(self, plan: RoundPlan) -> RoundResult:
        """Hold a round; of one that was held before, its result."""
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

    def __init__(self, run: Run, state: Path) -> None:
        """Open the state folder of a server.

        Raises:
            FileNotFoundError: No server has ever used the folder.
        """
        self.store, self.blobs = open_server_state(state)
        self.run = run
        with self.store.transaction():
            self.store.add_run(run)

    def hold(self, plan: RoundPlan) -> RoundResult:
        """Hold a round; of one that was held before, its result."""
        return run_round(
            self.store, self.blobs, plan, time.time, lambda _: time.sleep(POLL_S), PrivateRandom.from_system()
        )

    def close(self) -> None:
        """Close the database; the run stays open for its resumption unless it was finished."""
        self.store.close()
