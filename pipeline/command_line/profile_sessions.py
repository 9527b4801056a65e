"""`handheld profile merge`, `compare` and `check`: profiles of several sessions, and whether one may be relied on."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.table import Table

from device_runtime.console import JsonOption, print_result
from device_runtime.output_files import check_record_output, write_record
from pipeline.command_line.compile import read_record
from pipeline.command_line.profile_predict import MAX_BATCH_SIZE
from profiles.catalogue import load_profile
from profiles.checking import find_faults, find_holes
from profiles.merging import Comparison, compare_profiles, merge_profiles
from profiles.records import encode_record
from profiles.schema import DeviceProfile, KernelKey
from search.architecture import Architecture
from search.cost import kernel_keys

EXAMPLES = {
    "merge": "handheld profile merge runs/monday.json runs/tuesday.json -o runs/my-pc.json",
    "compare": "handheld profile compare runs/monday.json runs/tuesday.json",
    "check": "handheld profile check runs/my-pc.json",
}
_SHOWN = 5  # holes in the table; --json has all


class FaultyProfileError(RuntimeError):
    """A profile that should not be relied on."""


@dataclass(frozen=True)
class MergedProfile:
    """What `handheld profile merge` wrote."""

    file: str
    profile_id: str
    num_sessions: int
    num_kernels: int
    num_networks: int


@dataclass(frozen=True)
class CheckedProfile:
    """What `handheld profile check` found.

    Attributes:
        profile_id: sha256 of the record's canonical bytes.
        sha256: Of the file, which differs where somebody edited or laid it out anew.
        grades: Of the sessions, the oldest first.
        faults: Why it should not be relied on.
        num_wanted: Kernels that the networks asked about need, in all directions.
        holes: Those that nobody measured; they are predicted from others.
    """

    file: str
    profile_id: str
    sha256: str
    schema: int
    grades: tuple[str, ...]
    num_kernels: int
    num_networks: int
    faults: tuple[str, ...]
    num_wanted: int
    holes: tuple[KernelKey, ...]


def merge(
    one: Annotated[Path, typer.Argument(help="Profile of one session or more; its name and link are kept.")],
    other: Annotated[Path, typer.Argument(help="Profile of other sessions of the same device.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Profile to write, JSON.")],
    json: JsonOption = False,
) -> None:
    """Join the sessions of one device, threads and runtime into one profile."""
    check_record_output(output, DeviceProfile, (one, other))
    merged = merge_profiles(load_profile(one), load_profile(other))
    data = write_record(output, merged)
    counts = len(merged.sessions), len(merged.kernels), len(merged.networks)
    summary = MergedProfile(str(output), hashlib.sha256(data).hexdigest(), *counts)
    line = (
        f"{counts[0]} sessions, {counts[1]} kernels, {counts[2]} graphs, profile {summary.profile_id[:12]} in {output}"
    )
    print_result(summary, json, line)


def compare(
    one: Annotated[str, typer.Argument(help="Name in the catalogue, or a profile's file.")],
    other: Annotated[str, typer.Argument(help="Likewise.")],
    json: JsonOption = False,
) -> None:
    """Compare what two profiles measured: times of the second divided by those of the first."""
    mine, its = load_profile(one), load_profile(other)
    found = compare_profiles(mine, its)
    print_result(found, json, _comparison_table(mine, its, found))


def check(
    profile: Annotated[Path, typer.Argument(help="A profile's file.")],
    architecture: Annotated[
        list[Path] | None, typer.Option(help="JSON of an Architecture whose kernels should be there; repeatable.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, max=MAX_BATCH_SIZE, help="B, the examples of one training step.")
    ] = 16,
    json: JsonOption = False,
) -> None:
    """Check a profile before a search relies on it: bytes, stability, and kernels that nobody measured.

    Ends with an error where it should not be relied on; kernels that are missing are only told.
    """
    found = load_profile(profile)
    networks = [read_record(Architecture, path) for path in architecture or ()]
    checked = _checked(found, profile, [key for network in networks for key in kernel_keys(network, batch_size)])
    print_result(checked, json, _checked_view(checked))
    if checked.faults:
        raise FaultyProfileError(f"{profile} should not be relied on: {checked.faults[0]}")


def _checked(found: DeviceProfile, path: Path, wanted: list[KernelKey]) -> CheckedProfile:
    profile_id, sha256 = hashlib.sha256(encode_record(found)).hexdigest(), hashlib.sha256(path.read_bytes()).hexdigest()
    edited = (f"its bytes are not as they were written ({sha256[:12]}, not {profile_id[:12]}): fetch it again",)
    return CheckedProfile(
        file=str(path),
        profile_id=profile_id,
        sha256=sha256,
        schema=found.schema,
        grades=tuple(session.grade for session in found.sessions),
        num_kernels=len(found.kernels),
        num_networks=len(found.networks),
        faults=(*(edited if sha256 != profile_id else ()), *find_faults(found)),
        num_wanted=len(set(wanted)),
        holes=find_holes(found, wanted),
    )


def _comparison_table(one: DeviceProfile, other: DeviceProfile, found: tuple[Comparison, ...]) -> Table:
    runtimes = (f"{profile.name} ({profile.runtime.name} {profile.runtime.version})" for profile in (other, one))
    table = Table(title=" / ".join(runtimes), title_justify="left")
    for column in ("family", "direction", "count", "median", "10%", "90%", "within 10%"):
        table.add_column(column, justify="left" if column in {"family", "direction"} else "right")
    for row in found:
        ratios = (f"{value:.3f}" for value in (row.median_ratio, row.low_ratio, row.high_ratio))
        table.add_row(row.family, row.direction, str(row.count), *ratios, f"{row.within_10:.0%}")
    return table


def _checked_view(checked: CheckedProfile) -> Group:
    table = Table(title=checked.file, title_justify="left", show_header=False)
    table.add_row("id", checked.profile_id)
    table.add_row("sessions", f"{len(checked.grades)}, graded {', '.join(checked.grades) or 'nothing'}")
    table.add_row("measured", f"{checked.num_kernels} kernels, {checked.num_networks} graphs")
    if checked.num_wanted:
        table.add_row("not measured", f"{len(checked.holes)} of {checked.num_wanted} kernels")
        for kernel, batch_size, direction in checked.holes[:_SHOWN]:
            shapes = " to ".join("x".join(map(str, shape)) for shape in (kernel.input_shape, kernel.output_shape))
            table.add_row("", f"{kernel.family} {shapes}, {direction} of {batch_size}")
    return Group(table, *(f"fault: {fault}" for fault in checked.faults))
