"""Hold rounds with an emulated fleet: server, phones and clock of one run, kept after every round."""

import hashlib
import hmac
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from device_runtime.examples import DataSet
from device_runtime.private_random import PrivateRandom
from device_runtime.signing import SigningKey
from pipeline.coordinator.blobs import BlobFolder
from pipeline.coordinator.discarding import last_round_number
from pipeline.coordinator.plans import RoundPlan, Run
from pipeline.coordinator.rounds import RoundResult
from pipeline.coordinator.store import Store
from pipeline.coordinator.worker import closes_at, run_rounds
from pipeline.fleet.asgi import AsgiTransport
from pipeline.fleet.fleet import Fleet, VirtualClock, World
from pipeline.fleet.population import FleetTerms, make_phones
from pipeline.fleet.saving import resume_fleet, save_fleet
from pipeline.fleet.workers import FleetData, Workers
from pipeline.server.app import create_app


class EmulatedRounds:
    """Owns the database, the fleet and its workers; `hold` is all that a search needs, and `workers.pool` helps it."""

    def __init__(self, run: Run, folder: Path, terms: FleetTerms, data: FleetData, source: DataSet) -> None:
        """Open the run's folder and switch the fleet on, or put it back to where its last round left it.

        Args:
            folder: Gets `handheld.db`; blobs lie where `data` says.
            source: All phones' examples.
        """
        folder.mkdir(parents=True, exist_ok=True)
        phones = make_phones(run.budget, terms, data, source)
        self.store = Store(f"sqlite:///{folder / 'handheld.db'}", "OFF")
        self.blobs = BlobFolder(data.blobs, is_durable=False)
        with self.store.transaction():
            self.store.add_run(run)
        self.run, self.clock = run, VirtualClock()
        self._seed = data.seed
        self._transport = AsgiTransport(create_app(self.store, self.blobs, *_server_keys(data.seed), self.clock.now))
        self.workers = Workers(data, source, terms.num_workers, terms.engine)
        self.fleet = Fleet(phones, World(self._transport, self.blobs, self.workers, self.clock, terms.times_of))
        try:
            self._saved = resume_fleet(self.store, self.blobs, run.run_id, self.fleet)
        except BaseException:
            self.close()
            raise
        if self._saved is None:
            self.fleet.start()

    def hold(self, plan: RoundPlan, watch: Callable[[int], None] = lambda _: None) -> RoundResult:
        """Hold one round; see `hold_all`."""
        return self.hold_all([plan], watch)[0]

    def hold_all(self, plans: Sequence[RoundPlan], watch: Callable[[int], None] = lambda _: None) -> list[RoundResult]:
        """Hold rounds side by side; of those that were held before, their results.

        The run is kept when all of them are over: killed before, it holds all of them again.

        Args:
            watch: Told how many reports the server took so far, each time one came.

        Raises:
            FleetError: Every phone has stopped.
        """
        before, deadlines = self.fleet.num_reports, dict[str, float]()

        def wait(round_ids: tuple[str, ...]) -> None:
            for round_id in round_ids:
                if round_id not in deadlines:
                    self.fleet.check_alive()
                    deadlines[round_id] = closes_at(self.store, round_id)
            self.fleet.run_until_report(min(deadlines[round_id] for round_id in round_ids))
            watch(self.fleet.num_reports - before)

        def private_random(plan: RoundPlan) -> PrivateRandom:
            return PrivateRandom.derived(self._seed, f"round {plan.round_key}")

        results = run_rounds(self.store, self.blobs, plans, self.clock.now, wait, private_random)
        newest = last_round_number(self.store, self.run.run_id)
        if self._saved is None or newest > self._saved.last_round:
            self._saved = save_fleet(self.store, self.run.run_id, self.fleet, self._saved, newest)
        return results

    def close(self) -> None:
        """Let everything go."""
        self.workers.close()
        self._transport.close()
        self.store.close()

    def __enter__(self) -> "EmulatedRounds":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _server_keys(seed: bytes) -> tuple[SigningKey, bytes]:
    """The server's key and its secret for nonces."""
    return SigningKey.derived(seed, "server"), hmac.digest(seed, b"nonces", hashlib.sha256)
