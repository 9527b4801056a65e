"""Which CPU cores a Linux or Android system has, of which kind, how fast, and which instruction set.

Phones put cores to sleep, and what sleeps tells little: its frequency is then that of the cores it shares a clock with,
or a cluster with. Nothing is guessed across clusters: a cluster that slept as a whole has no frequency.
"""

import re
from collections import Counter
from collections.abc import Iterable

from device_runtime.arm_cores import arm_core
from device_runtime.system_files import SystemFiles
from profiles.schema import Cluster, Figure

Fields = dict[str, str]
CPU = "/sys/devices/system/cpu"
_MANY_CORES = 4096  # a list of more is no list of cores
_HEXADECIMAL = re.compile(r"0x[0-9a-f]+")


def read_processors(files: SystemFiles) -> list[Fields]:
    """Fields of each processor in /proc/cpuinfo; empty where there is none (macOS)."""
    blocks = _blocks(files)
    # Old kernels tell the part once for all cores, and the hardware's name in a block of its own.
    shared = {key: value for block in blocks for key, value in block.items()}
    return [{**shared, **block} for block in blocks if "processor" in block]


def read_clusters(files: SystemFiles) -> tuple[Cluster, ...]:
    """Cores by kind and highest frequency, the slowest first; empty where the system tells of no core."""
    cores = read_cores(files)
    frequencies = _max_mhz(files, cores)
    names = _core_names(files, cores, frequencies)
    kinds = Counter((frequencies.get(core, 0.0), names[core]) for core in cores)
    source = f"{CPU}/*/cpufreq/cpuinfo_max_freq"
    return tuple(
        Cluster(name, count, Figure(mhz, "MHz", "measured", source) if mhz else None)
        for (mhz, name), count in sorted(kinds.items())
    )


def read_cores(files: SystemFiles) -> tuple[int, ...]:
    """Numbers of all cores that the device has, asleep or not."""
    # Virtual machines hold places for cores that they do not have; phones' kernels call a core that sleeps absent.
    wanted = ("possible",) if files.properties else ("present", "possible")
    told = next((found for name in wanted if (found := parse_list(files.texts.get(f"{CPU}/{name}", "")))), set[int]())
    return tuple(sorted({int(fields["processor"]) for fields in read_processors(files)} | told))


def read_abi(files: SystemFiles) -> str | None:
    """Android's name of the instruction set that programs run in; None where nothing tells.

    Android's own property decides: many phones run 32-bit programs on 64-bit cores.
    """
    told = files.properties.get("ro.product.cpu.abi")
    processors = read_processors(files)
    if told or not processors:
        return told
    first = processors[0]
    if "flags" in first:
        return "x86_64" if "lm" in first["flags"].split() else "x86"
    version = re.match(r"\d+", first.get("CPU architecture", ""))
    if version is None:
        return None
    return "arm64-v8a" if int(version[0]) >= 8 else "armeabi-v7a"  # Armv8 is the first of 64 bits


def parse_list(text: str) -> set[int]:
    """Numbers of a kernel's list, e.g. `0-3,7` or `0 1 2`; empty where the text is none."""
    found: set[int] = set()
    for first, last in re.findall(r"(\d{1,4})(?:-(\d{1,4}))?", text):
        found.update(range(int(first), min(int(last or first), _MANY_CORES) + 1))
    return found


def _blocks(files: SystemFiles) -> list[Fields]:
    """Blocks of /proc/cpuinfo; a processor's begins with its number, also where no empty line ends the one before."""
    blocks: list[Fields] = [{}]
    for line in files.texts.get("/proc/cpuinfo", "").splitlines():
        key, colon, value = (part.strip() for part in line.partition(":"))
        if not colon or (key == "processor" and value.isdigit()):
            blocks.append({})
        # Old Arm kernels name the model as `Processor`; only a number is a processor.
        if colon and (key != "processor" or value.isdigit()):
            blocks[-1][key] = value
    return [block for block in blocks if block]


def _max_mhz(files: SystemFiles, cores: Iterable[int]) -> dict[int, float]:
    """Highest frequency by core, as far as known."""
    found: dict[int, float] = {}
    for core in cores:
        khz = files.number(f"{CPU}/cpu{core}/cpufreq/cpuinfo_max_freq")
        if khz:
            # The list decides, not the folder: a core that fell asleep while it was read shows another cluster's clock.
            for related in parse_list(files.texts.get(f"{CPU}/cpu{core}/cpufreq/related_cpus", "")) or {core}:
                found.setdefault(related, khz / 1000)
    for core, siblings in _siblings(files, cores).items():
        known = {found[sibling] for sibling in siblings if sibling in found}
        if core not in found and len(known) == 1:
            found[core] = known.pop()
    return found


def _siblings(files: SystemFiles, cores: Iterable[int]) -> dict[int, set[int]]:
    """Cores of the same cluster by core; also of those that sleep and have no list of their own."""
    lists = [parse_list(files.texts.get(f"{CPU}/cpu{core}/topology/core_siblings_list", "")) for core in cores]
    return {core: next((found for found in lists if core in found), {core}) for core in cores}


def _core_names(files: SystemFiles, cores: Iterable[int], frequencies: dict[int, float]) -> dict[int, str]:
    """A core's kind: from its own register or its own block, else that of the cores with its frequency."""
    own, told_once = _own_names(files, cores)
    if told_once:
        one_kind = len({frequencies.get(core) for core in cores}) == 1
        return dict.fromkeys(cores, told_once if one_kind else f"unknown (one core is a {told_once})")
    names = {}
    for core in cores:
        mhz = frequencies.get(core)
        alike = {own[other] for other in own if mhz and frequencies.get(other) == mhz}
        names[core] = own.get(core) or (alike.pop() if len(alike) == 1 else "unknown")
    return names


def _own_names(files: SystemFiles, cores: Iterable[int]) -> tuple[dict[int, str], str | None]:
    """Kinds by core; or, of a kernel that tells one core's kind for all, that kind, and nobody knows whose it is."""
    registers = {core: files.texts.get(f"{CPU}/cpu{core}/regs/identification/midr_el1", "").strip() for core in cores}
    values = {core: int(text, 16) for core, text in registers.items() if _HEXADECIMAL.fullmatch(text)}
    own = {core: arm_core(value >> 24 & 0xFF, value >> 4 & 0xFFF) for core, value in values.items() if value}
    if own:
        return own, None
    blocks = _blocks(files)
    told = {block.get("processor"): name for block in blocks if (name := _block_name(block))}
    if len(told) == 1 and (None in told or sum("processor" in block for block in blocks) > 1):
        return {}, next(iter(told.values()))
    return {int(number): name for number, name in told.items() if number}, None


def _block_name(block: Fields) -> str | None:
    implementer, part = block.get("CPU implementer", ""), block.get("CPU part", "")
    if _HEXADECIMAL.fullmatch(implementer) and _HEXADECIMAL.fullmatch(part):
        return arm_core(int(implementer, 16), int(part, 16))
    return block.get("model name") if "flags" in block else None
