"""What holds at one moment of a measurement, as far as the system tells: cores, frequencies, heat, battery."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from device_runtime.processors import CPU, read_clusters, read_cores, read_processors
from device_runtime.system_files import SystemFiles, read_root

_THERMAL = re.compile(r"/sys/class/thermal/thermal_zone\d+/temp")
_BATTERY = re.compile(r"/sys/class/power_supply/[^/]+/capacity")
_DECIMAL = re.compile(r"\d{1,5}(\.\d+)?")
_CELSIUS = (-40.0, 150.0)  # a sensor that tells more or less is none, or is broken


@dataclass(frozen=True)
class Conditions:
    """One moment; None and empty where the system does not tell.

    Attributes:
        affinity: Numbers of the cores that the process may run on.
        governors: That set the frequencies, sorted.
        mhz: Of each cluster now, the slowest cluster first; the mean over its cores.
        celsius: The hottest sensor.
        battery: Percent.
    """

    affinity: tuple[int, ...]
    governors: tuple[str, ...]
    mhz: tuple[float | None, ...]
    celsius: float | None
    battery: float | None


def read_conditions(root: Path = Path("/")) -> Conditions:
    """Read the conditions of this device; `root` is where `proc` and `sys` are."""
    return describe_conditions(read_root(root), _affinity())


def describe_conditions(files: SystemFiles, affinity: tuple[int, ...] = ()) -> Conditions:
    """Read conditions out of a system's files."""
    celsius = [value for text in _texts(files, _THERMAL) if (value := _celsius(text)) is not None]
    batteries = [float(text) for text in _texts(files, _BATTERY) if text.strip().isdigit()]
    return Conditions(
        affinity=affinity,
        governors=read_governors(files),
        mhz=_cluster_mhz(files),
        celsius=max(celsius, default=None),
        battery=min(batteries, default=None),
    )


def read_governors(files: SystemFiles) -> tuple[str, ...]:
    """What sets the frequencies of the cores, sorted."""
    found = {text.strip() for path, text in files.texts.items() if re.fullmatch(rf"{CPU}/cpu\d+/.*_governor", path)}
    return tuple(sorted(found - {""}))


def _affinity() -> tuple[int, ...]:
    # macOS and Windows have no such call.
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def _texts(files: SystemFiles, pattern: re.Pattern[str]) -> list[str]:
    return [text for path, text in files.texts.items() if pattern.fullmatch(path)]


def _celsius(text: str) -> float | None:
    """Kernels tell thousandths of a degree, some old ones degrees."""
    if not re.fullmatch(r"\s*-?\d{1,7}\s*", text):
        return None
    value = int(text) / 1000 if abs(int(text)) > _CELSIUS[1] else float(int(text))
    return value if _CELSIUS[0] <= value <= _CELSIUS[1] and value != 0 else None


def _cluster_mhz(files: SystemFiles) -> tuple[float | None, ...]:
    """By the kernel's frequency of each core, else by what /proc/cpuinfo says of it."""
    clusters, cores = read_clusters(files), read_cores(files)
    limits = {core: files.number(f"{CPU}/cpu{core}/cpufreq/cpuinfo_max_freq") for core in cores}
    now = _mhz_by_core(files, cores)
    found: list[float | None] = []
    for cluster in clusters:
        max_khz = cluster.max_mhz.value * 1000 if cluster.max_mhz else None
        members = [now[core] for core in now if len(clusters) == 1 or limits[core] == max_khz]
        found.append(round(sum(members) / len(members), 1) if members else None)
    return tuple(found)


def _mhz_by_core(files: SystemFiles, cores: Iterable[int]) -> dict[int, float]:
    khz = {core: files.number(f"{CPU}/cpu{core}/cpufreq/scaling_cur_freq") for core in cores}
    told = {int(block["processor"]): block.get("cpu MHz", "") for block in read_processors(files)}
    found = {core: float(mhz) for core, mhz in told.items() if _DECIMAL.fullmatch(mhz)}
    return found | {core: value / 1000 for core, value in khz.items() if value}
