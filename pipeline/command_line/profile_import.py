"""`handheld profile import`: times that other tools measured, for `handheld profile transfer`."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from device_runtime.console import JsonOption, print_result
from device_runtime.output_files import check_record_output, write_record
from pipeline.command_line.compile import read_record
from profiles.few import FewTimes
from profiles.importing import Imported, import_times
from profiles.kernel import Kernel
from search.architecture import Architecture
from search.cost import kernels_of

EXAMPLE = "handheld profile import docs/examples/latency-table.csv -o runs/few.json"
_SHOWN = 12


def import_table(  # noqa: PLR0913  (the command's own options)
    *,
    file: Annotated[Path, typer.Argument(help="What another tool wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="few.json to write.")],
    form: Annotated[
        Literal["auto", "ort-profile", "ort-perf-test", "tflite-benchmark", "lookup-table", "etdump"],
        typer.Option("--format", help="What wrote it; left out, found out."),
    ] = "auto",
    model: Annotated[
        str,
        typer.Option(
            help="What the times of a whole model are of: mobilenet_v1, mobilenet_v2 or an Architecture's JSON."
        ),
    ] = "",
    every_line: Annotated[
        bool, typer.Option("--all", help="Tell all lines that cannot be used, not the first few.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Read times that another tool measured on a phone: kernels where shapes are told, else whole models.

    Known are ONNX Runtime's profiler (JSON) and onnxruntime_perf_test, TFLite's benchmark_model (its output or CSV),
    latency lookup tables (PaddleSlim, Paddle Lite, CSV) and ExecuTorch's Inspector (TSV or CSV). What cannot be used
    is told line by line. `handheld profile transfer` makes a profile of the result.
    """
    check_record_output(output, FewTimes, (file, Path(model)))
    name, kernels = _model_of(model)
    found = import_times(file.read_bytes(), None if form == "auto" else form, name, kernels, str(file))
    write_record(output, found.few)
    print_result(found, json, _view(found, output, every_line))


def _model_of(model: str) -> tuple[str, tuple[Kernel, ...]]:
    if not model.endswith(".json"):
        return model, ()
    path = Path(model)
    return path.stem, kernels_of(read_record(Architecture, path))


def _view(found: Imported, output: Path, every_line: bool) -> Group:
    few = found.few
    table = Table(title=escape(f"{few.source} ({found.form})"), title_justify="left")
    for name in ("used", "batch", "ms", "p90 ms", "runs"):
        table.add_column(name, justify="left" if name == "used" else "right")
    for (family, batch_size), count in Counter((one.kernel.family, one.batch_size) for one in few.kernels).items():
        times = [one.median_ms for one in few.kernels if (one.kernel.family, one.batch_size) == (family, batch_size)]
        span = f"{min(times):.4g} to {max(times):.4g}" if count > 1 else f"{times[0]:.4g}"
        table.add_row(f"{count} x {family}", str(batch_size), span, "", "")
    for one in few.models:
        p90 = "" if one.p90_ms is None else f"{one.p90_ms:.4g}"
        table.add_row(
            escape(f"model {one.model}"), str(one.batch_size), f"{one.median_ms:.4g}", p90, str(one.repetitions)
        )
    shown = found.unused if every_line else found.unused[:_SHOWN]
    lines = [f"not used: {one.where}: {one.reason}" + (f" ({one.ms:.4g} ms)" if one.ms else "") for one in shown]
    if len(shown) < len(found.unused):
        lines.append(f"... and {len(found.unused) - len(shown)} more: --all tells them")
    notes = [f"note: {note}" for note in found.notes]
    return Group(
        table,
        *map(escape, (*lines, *notes)),  # names of nodes have brackets, which are no markup
        f"next: handheld profile transfer --from PHONE --with {output} --name NAME -o profile.json",
    )
