"""Ask the operating system what device this is: CPU, cores, frequencies, memory, and what may disturb a measurement."""

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from device_runtime.conditions import read_governors
from device_runtime.processors import Fields, read_abi, read_clusters, read_processors
from device_runtime.system_files import SystemFiles, read_root
from profiles.boards import find_soc
from profiles.schema import Cluster, Figure

BUSY_LOAD = 0.5  # running processes a core before we begin
_ABIS = {"aarch64": "arm64-v8a", "armv7l": "armeabi-v7a", "armv8l": "armeabi-v7a", "AMD64": "x86_64", "i686": "x86"}
# What Android calls a board, the surest first: a chip before a phone, a family of chips last.
_CHIP_PROPERTIES = ("ro.soc.model", "ro.chipname", "ro.hardware.chipname")
_BOARD_PROPERTIES = ("ro.product.board", "ro.product.device", "ro.hardware", "ro.board.platform")


class NoSystemError(ValueError):
    """Files of no Linux or Android system."""


@dataclass(frozen=True)
class Host:
    """What the operating system tells; the fields of a DeviceProfile.

    Attributes:
        cpu: Model of the CPU or SoC.
        warnings: What may disturb a measurement.
        battery_mah: None where there is none or the system does not tell.
    """

    cpu: str
    clusters: tuple[Cluster, ...]
    ram_mib: Figure
    abi: str
    os: str
    warnings: tuple[str, ...]
    battery_mah: Figure | None = None


@dataclass(frozen=True)
class DevicePart:
    """The part of a DeviceProfile that files of a system tell.

    Attributes:
        soc: Marketing name where the table of boards has it, else what the system calls its hardware.
        clusters: The slowest first; `max_mhz` is None for cores that told nothing because they slept.
        ram_mib, abi, os, battery_mah: None where the files do not tell.
        governors: That set the frequencies, sorted.
        warnings: What a reader should not rely on, and what may disturb a measurement.
    """

    soc: str
    clusters: tuple[Cluster, ...]
    abi: str | None
    ram_mib: Figure | None
    os: str | None
    battery_mah: Figure | None
    governors: tuple[str, ...]
    warnings: tuple[str, ...]


def describe_device(files: SystemFiles) -> DevicePart:
    """Read the device part of a profile out of a system's files, of this machine or another.

    Raises:
        NoSystemError: When they tell of no core.
    """
    clusters, processors = read_clusters(files), read_processors(files)
    if not clusters:
        raise NoSystemError(
            "the files must tell of a CPU, got neither /proc/cpuinfo nor /sys/devices/system/cpu/possible; "
            "copy them with their folders, or give --dump"
        )
    governors = read_governors(files)
    return DevicePart(
        soc=_soc(files, processors, sum(cluster.num_cores for cluster in clusters)) or "unknown",
        clusters=clusters,
        abi=read_abi(files),
        ram_mib=_told_ram(files),
        os=_told_os(files),
        battery_mah=_battery(files),
        governors=governors,
        warnings=(*_sleep_warnings(clusters), *_governor_warnings(governors)),
    )


def probe_host(root: Path = Path("/"), load: float | None = None) -> Host:
    """Describe this device.

    Args:
        root: Where `proc` and `sys` are.
        load: Running processes; None asks the system.
    """
    files = read_root(root)
    processors = read_processors(files)
    clusters = read_clusters(files) or (Cluster(_machine(), os.cpu_count() or 1, None),)
    cores = sum(cluster.num_cores for cluster in clusters)
    return Host(
        cpu=_soc(files, processors, cores) or _machine(),
        clusters=clusters,
        ram_mib=_ram(),
        abi=files.properties.get("ro.product.cpu.abi") or _ABIS.get(platform.machine(), platform.machine()),
        os=_os_name(),
        warnings=(
            *_governor_warnings(read_governors(files)),
            *_load_warnings(os.getloadavg()[0] if load is None else load, cores),
        ),
        battery_mah=_battery(files),
    )


def _soc(files: SystemFiles, processors: list[Fields], num_cores: int) -> str:
    """The SoC that the table of boards has under one of the device's names, else the best of those names, if any."""
    first = processors[0] if processors else {}
    hardware, machine = first.get("Hardware", ""), files.texts.get("/sys/devices/soc0/machine", "").strip()
    chips = [files.properties.get(name, "") for name in _CHIP_PROPERTIES]
    boards = [files.properties.get(name, "") for name in _BOARD_PROPERTIES]
    found = find_soc([*chips, machine, *hardware.split()[-1:], *boards], num_cores)
    return found or next(filter(None, [hardware, *chips, machine, *reversed(boards)]), first.get("model name", ""))


def _machine() -> str:
    return platform.processor() or platform.machine()


def _told_ram(files: SystemFiles) -> Figure | None:
    found = re.search(r"^MemTotal:\s*(\d+) kB", files.texts.get("/proc/meminfo", ""), re.MULTILINE)
    return Figure(round(int(found[1]) / 1024), "MiB", "measured", "/proc/meminfo: MemTotal") if found else None


def _told_os(files: SystemFiles) -> str | None:
    release = files.properties.get("ro.build.version.release")
    return f"Android {release}" if release else None


def _battery(files: SystemFiles) -> Figure | None:
    """Of the largest battery: a mouse's may be listed too."""
    paths = [path for path in files.texts if path.endswith("/charge_full_design")]
    capacities = {path: capacity for path in paths if (capacity := files.number(path))}
    if not capacities:
        return None
    path = max(capacities, key=lambda one: capacities[one])
    return Figure(round(capacities[path] / 1000), "mAh", "measured", path)


def _ram() -> Figure:
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Figure(round(size / 2**20), "MiB", "measured", "physical pages that the operating system tells")


def _os_name() -> str:
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {platform.system()} {platform.release()}"
    except OSError:
        return f"{platform.system()} {platform.release()}"


def _sleep_warnings(clusters: tuple[Cluster, ...]) -> tuple[str, ...]:
    silent = sum(cluster.num_cores for cluster in clusters if cluster.max_mhz is None)
    if not silent:
        return ()
    return (f"{silent} core(s) told no frequency: asleep, or none is set; probe again while the device is busy",)


def _governor_warnings(governors: tuple[str, ...]) -> tuple[str, ...]:
    found = [governor for governor in governors if governor != "performance"]
    if not found:
        return ()
    return (f"the frequency follows the load (governor {', '.join(found)}): small kernels may be measured too slow",)


def _load_warnings(load: float, cores: int) -> tuple[str, ...]:
    if load <= BUSY_LOAD * cores:
        return ()
    return (f"other programs were running (load {load:.1f} on {cores} cores); close them and measure again",)
