"""What the benches share: interleaved timing, machine and versions beside every figure, one JSON object at the end."""

import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from device_runtime.console import versions_of
from profiles.records import to_plain

_CHOOSING = ("--quick", "--methods", "--seeds", "--part", "--full-rounds", "--kept")
_FILE_COLUMNS = 240  # of a table that goes to no terminal; 80, the default there, would cut its figures off


@dataclass(frozen=True)
class Bar:
    """A claim with a number: `value` must reach `bar`."""

    name: str
    value: float
    bar: float
    met: bool


@dataclass(frozen=True)
class Result:
    """What a bench prints.

    Attributes:
        rows: Plain data, one a method, with what was measured and not only its summary.
        bars: Empty where the figures are for reading only.
    """

    bench: str
    versions: dict[str, str]
    machine: dict[str, Any]
    rows: list[dict[str, Any]]
    bars: list[Bar]


def time_interleaved(
    methods: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 3,
    clock: Callable[[], float] = time.perf_counter,
    settle: int = 0,
) -> dict[str, list[float]]:
    """Milliseconds of each call of each method.

    Before it is timed, a method is called `settle` times: one that runs again and again finds its data in the caches,
    where the others' turns leave none.

    The methods take turns, and another one begins each round: whatever else the machine does falls on all alike, so
    figures of one run can be compared with each other, and with no other run's.
    """
    for work in methods.values():
        for _ in range(warm_up):
            work()
    times: dict[str, list[float]] = {name: [] for name in methods}
    for i in range(rounds):
        first = i % len(methods)
        for name in [*methods][first:] + [*methods][:first]:
            for _ in range(settle):
                methods[name]()
            start = clock()
            methods[name]()
            times[name].append((clock() - start) * 1e3)
    return times


def spread_of(times_ms: Sequence[float]) -> dict[str, float]:
    """Median, minimum, quartiles and maximum of two or more times."""
    p25, median, p75 = statistics.quantiles(times_ms, n=4, method="inclusive")
    summary = {"median_ms": median, "min_ms": min(times_ms), "p25_ms": p25, "p75_ms": p75, "max_ms": max(times_ms)}
    return {name: round(value, 4) for name, value in summary.items()}


def describe_machine() -> dict[str, Any]:
    """Processor, cores, system, Python, and how busy the machine was before the bench began."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def new_result(bench: str, packages: Sequence[str]) -> Result:
    """A result without rows; make it before measuring, since it holds the machine's load."""
    return Result(bench, versions_of(packages), describe_machine(), [], [])


def print_result(
    result: Result,
    columns: Sequence[str],
    output: Path | None = None,
    is_kept: Callable[[dict[str, Any], str], bool] = lambda *_: True,
) -> None:
    """For readers a table of some columns and the missed bars on standard error; on standard output one JSON line.

    Args:
        output: File for the same, laid out in lines.
        is_kept: Whether a row's column goes there.
    """
    table = Table(title=result.bench)
    for column in columns:
        table.add_column(column)
    for row in result.rows:
        table.add_row(*(_cell(row[name]) for name in columns))
    Console(stderr=True, width=None if sys.stderr.isatty() else _FILE_COLUMNS).print(table)
    for bar in result.bars:
        if not bar.met:
            sys.stderr.write(f"missed: {bar.name}: {bar.value:g}, bar {bar.bar:g}\n")
    line = json.dumps(to_plain(result), ensure_ascii=False, allow_nan=False)
    if output is not None:
        # What is kept says when and how it came about; what is printed is of this moment anyway.
        rows = [{name: value for name, value in row.items() if is_kept(row, name)} for row in result.rows]
        kept = {"date": datetime.now(UTC).date().isoformat(), "command": _command(result.bench), **to_plain(result)}
        kept |= {"rows": to_plain(rows)}
        output.write_text(json.dumps(kept, ensure_ascii=False, allow_nan=False, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(line + "\n")


def _command(bench: str) -> str:
    """With the options that say what is measured, and none of this machine's paths."""
    kept, is_kept = ["python", "-m", f"bench.{bench}"], False
    for argument in sys.argv[1:]:
        if argument.startswith("-"):
            is_kept = argument in _CHOOSING
        if is_kept:
            kept.append(argument)
    return shlex.join(kept)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Hardware"))]
    return named[0] if named else platform.processor()
