"""Ask the operating system what device this is: CPU, cores, frequencies, memory, and what may disturb a measurement."""

import os
import platform
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from profiles.schema import Cluster, Figure

BUSY_LOAD = 0.5  # running processes a core before we begin
# (implementer, part) of Arm's Main ID Register, named as Linux's lscpu names them.
_ARM_CORES = {
    ("0x41", "0xc07"): "Cortex-A7",
    ("0x41", "0xc08"): "Cortex-A8",
    ("0x41", "0xc09"): "Cortex-A9",
    ("0x41", "0xc0f"): "Cortex-A15",
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd04"): "Cortex-A35",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd09"): "Cortex-A73",
    ("0x41", "0xd0a"): "Cortex-A75",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0d"): "Cortex-A77",
    ("0x41", "0xd41"): "Cortex-A78",
    ("0x41", "0xd44"): "Cortex-X1",
    ("0x41", "0xd46"): "Cortex-A510",
    ("0x41", "0xd47"): "Cortex-A710",
    ("0x41", "0xd48"): "Cortex-X2",
    ("0x41", "0xd4d"): "Cortex-A715",
    ("0x41", "0xd4e"): "Cortex-X3",
    ("0x48", "0xd40"): "Cortex-A76",
    ("0x51", "0x800"): "Kryo 2XX Gold",
    ("0x51", "0x801"): "Kryo 2XX Silver",
    ("0x51", "0x802"): "Kryo 3XX Gold",
    ("0x51", "0x803"): "Kryo 3XX Silver",
    ("0x51", "0x804"): "Kryo 4XX Gold",
    ("0x51", "0x805"): "Kryo 4XX Silver",
}
_ABIS = {"aarch64": "arm64-v8a", "armv7l": "armeabi-v7a", "armv8l": "armeabi-v7a", "AMD64": "x86_64", "i686": "x86"}


@dataclass(frozen=True)
class Host:
    """What the operating system tells; the fields of a DeviceProfile.

    Attributes:
        cpu: Model of the CPU or SoC.
        warnings: What may disturb a measurement.
    """

    cpu: str
    clusters: tuple[Cluster, ...]
    ram_mib: Figure
    abi: str
    os: str
    warnings: tuple[str, ...]


def probe_host(root: Path = Path("/"), load: float | None = None) -> Host:
    """Describe this device.

    Args:
        root: Where `proc` and `sys` are.
        load: Running processes; None asks the system.
    """
    processors = read_processors(root)
    clusters = read_clusters(root, processors)
    cores = sum(cluster.num_cores for cluster in clusters)
    return Host(
        cpu=_cpu_model(processors),
        clusters=clusters,
        ram_mib=_ram(),
        abi=_ABIS.get(platform.machine(), platform.machine()),
        os=_os_name(),
        warnings=(*_governor_warnings(root), *_load_warnings(os.getloadavg()[0] if load is None else load, cores)),
    )


def read_processors(root: Path) -> list[dict[str, str]]:
    """Fields of each processor in /proc/cpuinfo; empty where there is none (macOS)."""
    path = root / "proc/cpuinfo"
    if not path.is_file():
        return []
    blocks = [_fields(block) for block in path.read_text(encoding="utf-8", errors="replace").split("\n\n")]
    # Old kernels tell the part once for all cores, and the hardware's name in a block of its own.
    shared = {key: value for block in blocks for key, value in block.items()}
    return [{**shared, **block} for block in blocks if block.get("processor", "").isdigit()]


def read_clusters(root: Path, processors: list[dict[str, str]]) -> tuple[Cluster, ...]:
    """Cores by kind and highest frequency, the slowest first."""
    if not processors:
        return (Cluster(platform.processor() or platform.machine(), os.cpu_count() or 1, None),)
    kinds = Counter((_max_mhz(root, fields["processor"]), _core_name(fields)) for fields in processors)
    source = "/sys/devices/system/cpu/*/cpufreq/cpuinfo_max_freq"
    return tuple(
        Cluster(core, count, Figure(mhz, "MHz", "measured", source) if mhz else None)
        for (mhz, core), count in sorted(kinds.items())
    )


def _fields(block: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in block.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _core_name(fields: dict[str, str]) -> str:
    key = fields.get("CPU implementer", ""), fields.get("CPU part", "")
    return _ARM_CORES.get(key) or fields.get("model name") or f"implementer {key[0]} part {key[1]}"


def _cpu_model(processors: list[dict[str, str]]) -> str:
    first = processors[0] if processors else {}
    return first.get("Hardware") or first.get("model name") or platform.processor() or platform.machine()


def _max_mhz(root: Path, processor: str) -> float:
    path = root / f"sys/devices/system/cpu/cpu{processor}/cpufreq/cpuinfo_max_freq"
    return int(path.read_text(encoding="ascii")) / 1000 if path.is_file() else 0.0


def _ram() -> Figure:
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Figure(round(size / 2**20), "MiB", "measured", "physical pages that the operating system tells")


def _os_name() -> str:
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {platform.system()} {platform.release()}"
    except OSError:
        return f"{platform.system()} {platform.release()}"


def _governor_warnings(root: Path) -> tuple[str, ...]:
    files = sorted(root.glob("sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"))
    found = sorted({path.read_text(encoding="ascii").strip() for path in files} - {"performance"})
    if not found:
        return ()
    return (f"the frequency follows the load (governor {', '.join(found)}): small kernels may be measured too slow",)


def _load_warnings(load: float, cores: int) -> tuple[str, ...]:
    if load <= BUSY_LOAD * cores:
        return ()
    return (f"other programs were running (load {load:.1f} on {cores} cores); close them and measure again",)
