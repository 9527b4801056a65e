"""What held while a device was measured: whether its times can be relied on, and compared with another day's."""

from dataclasses import dataclass
from typing import Literal

Grade = Literal["A", "B", "C", "unstable"]


@dataclass(frozen=True)
class Session:
    """What held while a device was measured; None and empty where the system did not tell.

    Attributes:
        pack_id: Of the measurement pack.
        measured_on: A date, YYYY-MM-DD, given by whoever measured.
        affinity: Numbers of the cores that the process may run on.
        governors: That set the frequencies, sorted.
        mhz_before, mhz_after: Of each cluster, the slowest first.
        celsius_before, celsius_after: The hottest sensor.
        battery_before, battery_after: Percent.
        runtime_build: The runtime's own words on its build.
        warm_up: Untimed runs before those of each visit.
        rounds: Visits to each graph.
        drift: How much longer the slowest round took than the fastest, as a share.
        grade: `A` as good as a quiet machine, `B` usable, `C` usable for rough figures; `unstable`: measure again.
        seconds: That it took.
    """

    pack_id: str
    measured_on: str | None
    threads: int
    affinity: tuple[int, ...]
    governors: tuple[str, ...]
    mhz_before: tuple[float | None, ...]
    mhz_after: tuple[float | None, ...]
    celsius_before: float | None
    celsius_after: float | None
    battery_before: float | None
    battery_after: float | None
    runtime_build: str
    warm_up: int
    rounds: int
    drift: float
    grade: Grade
    seconds: float
