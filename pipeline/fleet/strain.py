"""Phones in use: work that heats them takes longer, and now and then a single run does (`profiles.sustained`)."""

from dataclasses import dataclass, replace

import numpy as np

from pipeline.fleet.durations import ChunkRuns, ChunkTimes
from profiles.energy import big_core_curve
from profiles.schema import DeviceProfile
from profiles.sustained import TailModel, ThermalModel, draw_sustained, draw_tail, rest, thermal_model, work_on

_DRAW = 2  # beside the draws of the phone's spells and of stragglers


@dataclass(frozen=True)
class Heat:
    """How hot a phone is.

    Attributes:
        level: In [0, 1], at the moment `since`, from which on it rests.
    """

    model: ThermalModel
    level: float = 0.0
    since: float = 0.0

    def work(self, now: float, cool_s: float) -> tuple[float, "Heat"]:
        """Seconds that `cool_s` seconds of a cool phone's work take which begins now, and the heat that it leaves."""
        seconds, level = work_on(self.model, rest(self.model, self.level, now - self.since), cool_s)
        return seconds, replace(self, level=level, since=now + seconds)


def cool_phone(profile: DeviceProfile, seed: int, index: int) -> Heat:
    """A phone that nothing has heated; how slow it ends at under load is drawn for each from what was published.

    Its work counts as full load, as of the four busy threads of the published runs: training on one thread heats less.
    """
    curve = big_core_curve(profile)
    sustained = draw_sustained(np.random.default_rng((seed, index, _DRAW)))
    return Heat(thermal_model(sustained, curve.mhz if curve else ()))


def tailed_seconds(tail: TailModel, runs: ChunkRuns, times: ChunkTimes, rng: np.random.Generator) -> float:
    """What chunks take whose runs scatter about their medians."""
    drawn = draw_tail(tail, rng, runs.train + runs.evaluate)
    return float(drawn[: runs.train].sum() * times.train_s + drawn[runs.train :].sum() * times.evaluate_s)
