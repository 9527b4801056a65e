"""One emulated phone: the real client's state and ledger, on a profile, with a share of the data and a link."""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field, replace

import numpy as np

from device_runtime.accounting import Budget, Release
from device_runtime.client_records import ClientState, Request
from device_runtime.ledger import Ledger
from device_runtime.ledger_storage import LedgerMemory
from device_runtime.signing import SigningKey
from device_runtime.wire import Assignment, CheckIn
from device_runtime.work import charge_assignment, releases_of
from pipeline.fleet.availability import Availability
from pipeline.fleet.durations import ChunkRuns, ChunkTimes
from pipeline.fleet.strain import Heat, tailed_seconds
from profiles.records import later
from profiles.schema import DeviceProfile, Link
from profiles.sustained import TailModel

CACHED_BLOBS = 16


@dataclass(frozen=True)
class Charge:
    """What a phone's ledger noted of an assignment, as it is kept with the run.

    Attributes:
        release: The first of its releases.
        further: The others.
    """

    phone: int
    assignment_id: str
    release: Release
    further: tuple[Release, ...] = later(())

    @property
    def releases(self) -> tuple[Release, ...]:
        """All of them, in the ledger's order."""
        return (self.release, *self.further)


@dataclass(frozen=True)
class LinkSpeed:
    """A phone's connection."""

    download_mbit_s: float
    upload_mbit_s: float
    latency_ms: float


@dataclass
class Phone:
    """What an emulated phone has.

    Attributes:
        index: Its number in the fleet.
        check_in: What it says of itself, but for its headroom.
        cached: sha256 of the blobs it holds, the ones used last at the end.
        heat: None for a phone that work does not heat.
        tail: Of its single runs; None where each takes its median.
        updates: Stored update bytes by sha256, until their report was answered.
    """

    index: int
    key: SigningKey
    profile: DeviceProfile
    link: LinkSpeed
    availability: Availability
    check_in: CheckIn
    ledger: Ledger | None
    state: ClientState
    heat: Heat | None = None
    tail: TailModel | None = None
    cached: OrderedDict[str, None] = field(default_factory=OrderedDict)
    updates: dict[str, bytes] = field(default_factory=dict, repr=False)

    def describe(self) -> CheckIn:
        """What the phone says at check-in; an update that no report waits for is dropped now."""
        if self.state.report is None:
            self.updates.clear()
        return self.check_in if self.ledger is None else replace(self.check_in, headroom=self.ledger.headroom())

    def body_of(self, request: Request) -> bytes:
        """What a request carries."""
        return request.body if request.blob is None else self.updates[request.blob]

    def keep_blob(self, sha256: str) -> None:
        """Note that the phone holds a blob, and forget the one it used longest ago."""
        self.cached[sha256] = None
        self.cached.move_to_end(sha256)
        while len(self.cached) > CACHED_BLOBS:
            self.cached.popitem(last=False)

    def charge(self, assignment: Assignment) -> Charge | None:
        """Charge the ledger for an assignment, as the real client does before it works; raises BudgetExceededError."""
        charge_assignment(assignment, self.ledger)
        releases = releases_of(assignment)
        return Charge(self.index, assignment.assignment_id, releases[0], releases[1:]) if releases else None

    def work(self, assignment_id: str, runs: ChunkRuns, times: ChunkTimes, now: float) -> float:
        """Seconds that work takes which begins now; the phone is as hot as it leaves it once they are over."""
        seconds = runs.seconds(times)
        if self.tail is not None:
            rng = np.random.default_rng(self._digest(f"{assignment_id}/{now!r}"))
            seconds = tailed_seconds(self.tail, runs, times, rng)
        if self.heat is not None:
            seconds, self.heat = self.heat.work(now, seconds)
        return seconds

    def rest_fraction(self, now: float) -> float:
        """Where in a window this phone comes back, in [0, 1): differs by phone and moment, the same in every replay."""
        return (self._digest(f"{now!r}") >> 208) / 2**48

    def _digest(self, event: str) -> int:
        """256 bits that differ by phone and event, the same in every replay."""
        return int.from_bytes(hashlib.sha256(f"{self.key.key_id}/{event}".encode()).digest(), "big")


def link_speed(profile: DeviceProfile) -> LinkSpeed:
    """The link of a profile; one without is of a device on a desk, which emulates no network."""
    link = profile.link
    if link is None:
        raise ValueError(
            f"profile {profile.name!r} has no link: a fleet needs download_mbit_s, upload_mbit_s, latency_ms"
        )
    if min(link.download_mbit_s.value, link.upload_mbit_s.value) <= 0:
        raise ValueError(f"profile {profile.name!r} must have download_mbit_s and upload_mbit_s > 0 to be in a fleet")
    return speed_of(link)


def speed_of(link: Link) -> LinkSpeed:
    """The numbers of a link."""
    return LinkSpeed(link.download_mbit_s.value, link.upload_mbit_s.value, link.latency_ms.value)


def new_ledger(budget: Budget | None, device_id: str) -> Ledger | None:
    """A phone's ledger in memory."""
    return None if budget is None else Ledger(LedgerMemory(), device_id, budget)
