"""`handheld profile`: the catalogue of phones, and packs to measure devices with."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.progress import Progress
from rich.table import Table

from device_runtime.console import JsonOption, print_result
from pipeline.command_line.compile import read_record
from pipeline.command_line.profile_predict import MAX_BATCH_SIZE
from profiles.catalogue import catalogue_names, load_profile
from profiles.schema import DeviceProfile
from search.architecture import Architecture

if TYPE_CHECKING:
    from device_runtime.measurement_pack import Pack

PACK_BATCH_SIZE = 16  # of the pack that ships with the client
EXAMPLES = {
    "list": "handheld profile list",
    "pack": "handheld profile pack --architecture docs/examples/architecture.json -o runs/pack",
    "measure": "handheld profile measure --quick -o runs/my-pc.json",
}


@dataclass(frozen=True)
class PackSummary:
    """What `handheld profile pack` wrote."""

    folder: str
    pack_id: str
    num_networks: int
    num_kernels: int
    size_bytes: int


def list_profiles(json: JsonOption = False) -> None:
    """List the phones of the catalogue."""
    profiles = [load_profile(name) for name in catalogue_names()]
    table = Table(title="the catalogue")
    for column in ("name", "class", "SoC", "cores", "memory MiB", "GMAC/s", "GB/s"):
        is_text = column in {"name", "class", "SoC"}
        table.add_column(column, justify="left" if is_text else "right", no_wrap=is_text)
    for profile in sorted(profiles, key=lambda one: -one.throughput.forward.gmac_s.value):
        table.add_row(*_list_cells(profile))
    print_result(profiles, json, table)


def pack(  # noqa: PLR0913  (the command's own options)
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; a pack there is replaced.")],
    architecture: Annotated[
        list[Path] | None, typer.Option(help="JSON of an Architecture to be measured; repeatable.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Run file whose search's networks are to be measured.")] = None,
    draws: Annotated[int, typer.Option(min=1, help="Networks that show most of the search space.")] = 24,
    random_draws: Annotated[
        int, typer.Option(min=0, help="Further ones, drawn by chance, that are measured without evaluation.")
    ] = 150,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_BATCH_SIZE, help="B, the examples of one training step; left out, the run file's, or 16."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compile a measurement pack; with neither --architecture nor --run, the default one.

    Carry the folder to a device and run `handheld-device measure --pack` there.
    """
    with Console(stderr=True).status("importing torch"):
        from pipeline.packs import compile_pack, default_architectures, default_random  # noqa: PLC0415
    networks, further = [read_record(Architecture, path) for path in architecture or ()], list[Architecture]()
    chunk = PACK_BATCH_SIZE
    if run:
        drawn, further, chunk = _networks_of(run, draws, random_draws)
        networks += drawn
    if not networks:
        networks, further = list(default_architectures()), list(default_random())
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("compiling networks", total=len(networks) + len(further))
        written = compile_pack(networks, batch_size or chunk, output, lambda: progress.advance(bar), further=further)
    summary = _summarize(written, output)
    counts = f"{summary.num_networks} networks of {summary.num_kernels} kernels, {summary.size_bytes / 1024:.0f} KiB"
    line = f"{counts}, pack {summary.pack_id[:12]} in {output}"
    print_result(summary, json, Group(line, f"next: handheld-device measure --pack {output} -o profile.json"))


def _networks_of(run: Path, num_telling: int, num_random: int) -> tuple[list[Architecture], list[Architecture], int]:
    """Networks that a run file's search may come to over its data, telling ones and random ones, and its chunk size."""
    # What the data source imports may be heavy.
    from device_runtime.examples import SpecOverrides, open_source  # noqa: PLC0415
    from pipeline.digits import DATA_SCHEMES  # noqa: PLC0415
    from pipeline.packs import random_architectures, telling_architectures  # noqa: PLC0415
    from pipeline.run_file import read_run_file  # noqa: PLC0415
    from pipeline.searching.choices import reachable_space  # noqa: PLC0415

    run_file = read_run_file(run)
    source = open_source(run_file.data.source, SpecOverrides(), DATA_SCHEMES)
    space = reachable_space(run_file, source.spec)
    telling = telling_architectures(space, num_telling)
    drawn = random_architectures(space, num_random, telling)
    return list(telling), list(drawn), run_file.training.artifact_batch_size


def _list_cells(profile: DeviceProfile) -> tuple[str, ...]:
    cores = "+".join(str(cluster.num_cores) for cluster in profile.clusters)
    forward, memory = profile.throughput.forward, f"{profile.ram_mib.value:,.0f}"
    rates = (f"{forward.gmac_s.value:.1f}", f"{forward.memory_gb_s.value:.1f}")
    return (profile.name, profile.device_class, profile.soc, cores, memory, *rates)


def _summarize(pack: "Pack", folder: Path) -> PackSummary:
    size = sum(path.stat().st_size for path in folder.iterdir())
    return PackSummary(str(folder), pack.pack_id, len(pack.manifest.networks()), len(pack.manifest.kernels), size)
