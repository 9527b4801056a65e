"""Where emulated phones compute: in this process, in a pool of others or on a Ray cluster, to the same bytes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

from device_runtime.examples import ClientSource, DataSet, open_source
from device_runtime.private_random import PrivateRandom
from device_runtime.signing import SigningKey
from device_runtime.specs import ExampleSpec
from device_runtime.wire import AbortReason, Assignment
from device_runtime.work import ABORT_REASONS, Holdings, SessionCache, WorkResult, abort_reason_of, perform_charged
from pipeline.digits import DATA_SCHEMES
from pipeline.fleet.pool import Pool
from pipeline.fleet.ray_workers import RayWorkers

Engine = Literal["process", "ray"]
MAX_SESSIONS = 8
MAX_SHARES = 4096


@dataclass(frozen=True)
class FleetData:
    """What a process needs to stand in for any phone of the fleet.

    Attributes:
        source: As in the run file, e.g. `digits`.
        spec: Of the examples.
        shares: Ids of each phone's examples, by phone.
        blobs: The server's blob folder: a phone's cache holds the same bytes under the same names.
        seed: All keys and private randomness are derived from it.
        split_key: Of every phone.
    """

    source: str
    spec: ExampleSpec
    shares: tuple[tuple[str, ...], ...] = field(repr=False)
    blobs: Path
    seed: bytes = field(repr=False)
    split_key: bytes = field(repr=False)


@dataclass(frozen=True)
class Failure:
    """An assignment that cannot be done, as the client's step function wants to hear it."""

    reason: AbortReason
    detail: str


Outcome = WorkResult | Failure


class PhoneWork:
    """Does assignments for the phones of a fleet; sessions and decoded examples are shared."""

    def __init__(self, data: FleetData, source: DataSet) -> None:
        self._data = data
        self._sessions = SessionCache(MAX_SESSIONS)
        # A share is looked up in all of the source's ids, which may be many more.
        self._share = lru_cache(MAX_SHARES)(lambda phone: ClientSource(source, data.shares[phone]))

    def perform(self, phone: int, assignment: Assignment) -> Outcome:
        """Do one phone's assignment, which its ledger was charged for."""
        holdings = Holdings(self._share(phone), self._data.split_key, None, trusts_sums=True)
        random = PrivateRandom.derived(self._data.seed, f"phone {phone}/{assignment.assignment_id}")
        try:
            return perform_charged(assignment, holdings, self._read_blob, random, self._sessions)
        except tuple(ABORT_REASONS) as error:
            return Failure(abort_reason_of(error), str(error))

    def _read_blob(self, sha256: str) -> bytes:
        return (self._data.blobs / sha256).read_bytes()


class Workers:
    """Owns the processes of a fleet, if it has any of its own.

    Attributes:
        pool: Processes of this machine, for other work as well; None where all is done in this one.
    """

    def __init__(self, data: FleetData, source: DataSet, num_workers: int, engine: Engine = "process") -> None:
        """Get ready; processes start with the first assignment.

        Args:
            source: All phones' examples, for this process; others open `data.source`.
            num_workers: 1 computes in this process, more in as many others; on a Ray cluster in as many actors.

        Raises:
            RayError: There is no Ray, or its cluster is too small or too busy.
        """
        if num_workers < 1:
            raise ValueError(f"workers must be >= 1, got {num_workers}")
        self._inline = PhoneWork(data, source)
        self._actors = RayWorkers(data, num_workers) if engine == "ray" else None
        # With actors the pool has other work alone, which needs no data.
        open_process = None if self._actors else partial(_open_process, data)
        self.pool = Pool(num_workers, open_process) if num_workers > 1 else None

    def begin(self, phone: int, assignment: Assignment) -> Callable[[], Outcome]:
        """Begin one phone's assignment; the answer gives its outcome, and waits or computes for it.

        The answer raises FleetError when the process or actor that computes it has died.
        """
        if self._actors is not None:
            return self._actors.begin(phone, assignment)
        if self.pool is not None:
            return self.pool.begin(_perform_in_process, phone, assignment)
        return partial(self._inline.perform, phone, assignment)

    def close(self) -> None:
        """Let the processes go."""
        if self._actors is not None:
            self._actors.close()
        if self.pool is not None:
            self.pool.close()


def phone_key(seed: bytes, phone: int) -> SigningKey:
    """The key of one phone."""
    return SigningKey.derived(seed, f"phone {phone}")


def open_work(data: FleetData) -> PhoneWork:
    """The work of a fleet in a process that has nothing but its description."""
    return PhoneWork(data, open_source(data.source, data.spec, DATA_SCHEMES))


_process_work: list[PhoneWork] = []


def _open_process(data: FleetData) -> None:
    _process_work[:] = [open_work(data)]


def _perform_in_process(phone: int, assignment: Assignment) -> Outcome:
    return _process_work[0].perform(phone, assignment)
