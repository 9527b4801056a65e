"""What work costs a battery: published power at each frequency of each cluster, times time.

Power is kdrag0n/freqbench's (MIT; phones/freqbench/freqbench_all.csv): ONE core of the cluster runs CoreMark at a fixed
frequency, all others but one idling core are off, so is the screen; volts times amperes at the battery, less the least
that the phone drew before with nothing running. So it is power above idle of the whole phone, conversion losses
included, for integer work: neural networks keep more of a core's vector units and memory busy, and what they draw is
not published. Read an energy as a lower estimate, and compare networks on one phone rather than phones.
"""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from profiles.schema import DeviceProfile

_SOURCE = "phones/freqbench/freqbench_all.csv"


@dataclass(frozen=True)
class PowerCurve:
    """Power of one busy core of a cluster.

    Attributes:
        num_cores: In the cluster.
        mhz: Frequencies at which power was measured, rising.
        mw: Milliwatts above idle at each of them.
        source: File and run.
    """

    num_cores: int
    mhz: tuple[float, ...]
    mw: tuple[float, ...]
    source: str

    def __post_init__(self) -> None:
        if len(self.mhz) != len(self.mw) or not self.mhz or list(self.mhz) != sorted(set(self.mhz)):
            raise ValueError(f"a power curve must have one power for each of rising frequencies, got {self.source}")


def power_curves(soc: str) -> tuple[PowerCurve, ...]:
    """Curves of a SoC's clusters, the slowest first; empty where nothing is published."""
    return _known_curves().get(soc, ())


def big_core_curve(profile: DeviceProfile) -> PowerCurve | None:
    """The curve of a device's fastest cluster, where a profile's times are from; None where nothing is published."""
    curves = power_curves(profile.soc)
    return curves[-1] if curves else None


def power_mw(curve: PowerCurve, mhz: float | None = None) -> float:
    """Milliwatts above idle of one busy core; between the published frequencies by a straight line.

    Args:
        mhz: None for the highest frequency.

    Raises:
        ValueError: For a frequency outside the published ones.
    """
    lowest, highest = curve.mhz[0], curve.mhz[-1]
    wanted = highest if mhz is None else mhz
    if not lowest <= wanted <= highest:
        raise ValueError(f"mhz must be in [{lowest:g}, {highest:g}], where power is published, got {wanted:g}")
    return float(np.interp(wanted, curve.mhz, curve.mw))


def energy_mj(curve: PowerCurve, ms: float, mhz: float | None = None, num_cores: int = 1) -> float:
    """Millijoules above idle of `ms` milliseconds of work.

    Args:
        mhz: None for the highest frequency.
        num_cores: Busy at once. Each counts as much as the first one, though they share what the first one wakes: an
            upper estimate for more than one.

    Raises:
        ValueError: For less than no time, a frequency without published power, or more cores than the cluster has.
    """
    if ms < 0:
        raise ValueError(f"ms must be >= 0, got {ms}")
    if not 1 <= num_cores <= curve.num_cores:
        raise ValueError(f"num_cores must be in [1, {curve.num_cores}], the cores of the cluster, got {num_cores}")
    return power_mw(curve, mhz) * num_cores * ms / 1e3


@cache
def _known_curves() -> dict[str, tuple[PowerCurve, ...]]:
    text = files("profiles.catalogue").joinpath("power.csv").read_text(encoding="utf-8")
    curves: dict[str, tuple[PowerCurve, ...]] = {}
    for row in csv.DictReader(text.splitlines()):
        steps = [tuple(map(float, step.split(":"))) for step in row["mhz_mw"].split()]
        curve = PowerCurve(
            num_cores=int(row["num_cores"]),
            mhz=tuple(mhz for mhz, _ in steps),
            mw=tuple(mw for _, mw in steps),
            source=f"{_SOURCE}: {row['run']}",
        )
        curves[row["soc"]] = (*curves.get(row["soc"], ()), curve)
    return curves
