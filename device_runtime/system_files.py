"""What a Linux or Android system tells in files, from the running one, a copied folder, or a dump in one file.

All three become the same: texts by absolute path, and Android's properties. Everything else reads only these.
"""

import gzip
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PATTERNS = (
    "proc/cpuinfo",
    "proc/meminfo",
    "sys/devices/soc0/machine",
    "sys/devices/system/cpu/possible",
    "sys/devices/system/cpu/present",
    "sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq",
    "sys/devices/system/cpu/cpu[0-9]*/cpufreq/related_cpus",
    "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq",
    "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor",
    "sys/devices/system/cpu/cpu[0-9]*/regs/identification/midr_el1",
    "sys/devices/system/cpu/cpu[0-9]*/topology/core_siblings_list",
    "sys/class/power_supply/*/capacity",
    "sys/class/power_supply/*/charge_full_design",
    "sys/class/thermal/thermal_zone[0-9]*/temp",
    "system/build.prop",
)
_PROPERTY = re.compile(r"\[([^\]]+)\]: \[(.*)\]$")  # a line of Android's `getprop`


class DumpError(ValueError):
    """A file that is no dump of a system."""


@dataclass(frozen=True)
class SystemFiles:
    """Files of one system.

    Attributes:
        texts: By absolute path; what the system lacks or does not let us read is not there.
        properties: Of Android; empty elsewhere.
    """

    texts: dict[str, str]
    properties: dict[str, str] = field(default_factory=dict)

    def number(self, path: str) -> float | None:
        """The number that a file holds; None where there is no such file or no number in it."""
        found = re.match(r"\s*(\d+)\s*$", self.texts.get(path, ""))
        return float(found[1]) if found else None


def read_root(root: Path) -> SystemFiles:
    """Read the files below a folder: `/`, or where `proc`, `sys` and `system` were copied to."""
    texts: dict[str, str] = {}
    for pattern in _PATTERNS:
        for path in sorted(root.glob(pattern)):
            text = _read_text(path)
            if text is not None:
                texts["/" + path.relative_to(root).as_posix()] = text
    return SystemFiles(texts, _build_properties(texts))


def read_dump(path: Path) -> SystemFiles:
    """Read a dump: JSON (also .gz) of texts by path, or what `grep -sH "" FILES; getprop` printed.

    JSON is `{"files": {path: text}, "props": {name: value}}`, or the texts by path alone.

    Raises:
        DumpError: When it is neither.
    """
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", errors="replace")
    if text.lstrip().startswith("{"):
        return _parse_json(text, path)
    return _parse_lines(text, path)


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # a core that sleeps, or a file that Android keeps from programs: the system does not tell
        return None


def _build_properties(texts: dict[str, str]) -> dict[str, str]:
    lines = texts.get("/system/build.prop", "").splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def _parse_json(text: str, path: Path) -> SystemFiles:
    try:
        plain: Any = json.loads(text)
    except ValueError as error:
        raise DumpError(f"{path} must be a dump of one system: {error}") from error
    texts, properties = plain.get("files", plain), plain.get("props", {})
    parts_are_texts = (
        isinstance(part, dict) and all(isinstance(value, str) for value in part.values())
        for part in (texts, properties)
    )
    if not all(parts_are_texts):
        raise DumpError(f"{path} must hold the texts of one system by their paths; cut one system out of a collection")
    return SystemFiles(texts, {**_build_properties(texts), **properties})


def _parse_lines(text: str, path: Path) -> SystemFiles:
    texts: dict[str, str] = {}
    properties: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        if line.startswith("/") and colon:
            texts[name] = texts.get(name, "") + rest + "\n"
        elif found := _PROPERTY.match(line):
            properties[found[1]] = found[2]
    if not texts:
        raise DumpError(f'{path} must be JSON or lines of `grep -sH "" FILES`, as /proc/cpuinfo:processor : 0')
    return SystemFiles(texts, {**_build_properties(texts), **properties})
