"""`handheld profile transfer`: the profile of a phone of which a few times are known, by another phone's."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.table import Table

from device_runtime.console import JsonOption, print_result
from device_runtime.measure_command import read_link
from device_runtime.output_files import check_record_output, write_record
from device_runtime.probe import describe_device
from device_runtime.system_files import read_dump
from pipeline.command_line.compile import read_record
from profiles.catalogue import load_profile
from profiles.few import FewTimes, ModelLatency, few_of, join_few, read_few, with_networks
from profiles.schema import DeviceClass, DeviceProfile, Figure
from search.architecture import Architecture
from search.cost import KERNELS_OF

EXAMPLE = "handheld profile transfer --from pixel-4 --with docs/examples/few.json --name my-phone -o runs/my-phone.json"


def transfer(  # noqa: PLR0913  (the command's own options)
    *,
    sources: Annotated[
        list[str],
        typer.Option(
            "--from",
            help="Phone whose times are carried over, by name or file; of several the most alike one.",
        ),
    ],
    few: Annotated[
        list[Path],
        typer.Option(
            "--with", help="What is known of the new phone: few.json, or a profile measured with --quick; repeatable."
        ),
    ],
    name: Annotated[str, typer.Option(help="Of the new phone.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Profile to write, JSON.")],
    dump: Annotated[
        Path | None,
        typer.Option(help="Files of its system, as `handheld profile probe` reads them: cores, memory, battery."),
    ] = None,
    device_class: Annotated[
        DeviceClass | None, typer.Option(help="Which budgets of a run file hold for it; left out, as --from.")
    ] = None,
    link: Annotated[
        str | None, typer.Option(help="Its link as DOWN,UP,LATENCY in Mbit/s and ms; left out, as --from.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make a profile of a phone that only a few kernels or models were timed on.

    few.json lists them (`handheld profile import` writes one): at least one, better five of different size. Times of
    models with {"model": "mobilenet_v1", "median_ms": 41.5} or, of a network of your own, {"model": "mine",
    "architecture": "network.json", "median_ms": 3.2}. The rest is another phone's, as many times as long; the
    intervals of its predictions are as wide as anchors left out in turn say.
    """
    read = [*map(Path, sources), *few, *([dump] if dump else [])]
    check_record_output(output, DeviceProfile, read)
    with Console(stderr=True).status("importing scikit-learn"):
        from profiles.carrying import carry_over  # noqa: PLC0415  (help must not wait for it)
    others = [load_profile(one) for one in sources]
    known = [read_few(one.read_bytes(), str(one)) for one in few]
    measured = next((one for one in known if isinstance(one, DeviceProfile)), None)
    device = _as_told(_facts_of(measured, others[0], dump), name, device_class, link)
    times = [
        few_of(one) if isinstance(one, DeviceProfile) else with_networks(_with_architectures(one, path.parent))
        for one, path in zip(known, few, strict=True)
    ]
    with Console(stderr=True).status("carrying over"):
        made = carry_over(others, join_few(times), device)
    write_record(output, made)
    print_result(made, json, _view(made, output))


def _as_told(device: DeviceProfile, name: str, device_class: DeviceClass | None, link: str | None) -> DeviceProfile:
    """The device with what its owner says of it."""
    device = replace(device, name=name, device_class=device_class or device.device_class)
    return replace(device, link=read_link(link)) if link else device


def _facts_of(measured: DeviceProfile | None, other: DeviceProfile, dump: Path | None) -> DeviceProfile:
    """The device's facts: its own, those that its system tells, or the other phone's, marked as such."""
    if measured is not None:
        return replace(measured, link=measured.link or other.link)
    taken = f"{other.name}'s, taken over: nobody told the new phone's"
    assumed = replace(
        other,
        soc=f"not told (as {other.name})",
        ram_mib=_estimated(other.ram_mib, taken),
        warnings=(),
        battery_mah=None,
    )
    if dump is None:
        warning = f"memory, cores and system are {other.name}'s: give --dump, files of the phone's own system"
        clusters = tuple(replace(one, max_mhz=one.max_mhz and _estimated(one.max_mhz, taken)) for one in other.clusters)
        return replace(assumed, clusters=clusters, warnings=(warning,))
    found = describe_device(read_dump(dump))
    ram_mib = found.ram_mib or assumed.ram_mib
    warnings = () if found.ram_mib else (f"the dump tells no memory: {other.name}'s is taken",)
    return replace(
        assumed,
        soc=found.soc,
        clusters=found.clusters,
        ram_mib=ram_mib,
        battery_mah=found.battery_mah,
        abi=found.abi or other.abi,
        os=found.os or other.os,
        warnings=(*warnings, *found.warnings),
    )


def _estimated(figure: Figure, source: str) -> Figure:
    return replace(figure, provenance="estimated", source=source)


def _with_architectures(few: FewTimes, folder: Path) -> FewTimes:
    """The same, with the kernels of networks that files beside few.json tell."""
    return replace(few, models=tuple(_resolved(model, folder) for model in few.models))


def _resolved(model: ModelLatency, folder: Path) -> ModelLatency:
    if model.architecture is None:
        return model
    network = read_record(Architecture, folder / model.architecture)
    return replace(model, kernels=KERNELS_OF[model.direction](network))


def _view(profile: DeviceProfile, output: Path) -> Group:
    measured = sum(time.repetitions > 0 for time in profile.kernels)
    table = Table(title=f"profile {profile.name} in {output}", show_header=False, title_justify="left")
    table.add_row("kernels", f"{measured} measured, {len(profile.kernels) - measured} carried over")
    for one in profile.calibrations:
        table.add_row(one.direction, f"95% of networks within {one.low95:.2f} to {one.high95:.2f} times the prediction")
        table.add_row("", one.source)
    for warning in profile.warnings:
        table.add_row("warning", warning)
    return Group(table, f"next: handheld profile predict docs/examples/architecture.json --profile {output}")
