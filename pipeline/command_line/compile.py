"""`handheld compile`: an architecture file becomes a training artifact."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from device_runtime.console import JsonOption, print_result
from device_runtime.specs import Colour, ExampleSpec
from profiles.records import RecordError, decode_record
from search.architecture import Architecture

if TYPE_CHECKING:
    from pipeline.compile.certificate import Certificate

T = TypeVar("T")
DEFAULT_BATCH_SIZE = 16
_COLOURS: dict[int, Colour] = {1: "grey", 3: "rgb"}


@dataclass(frozen=True)
class Compiled:
    """What `handheld compile` made.

    Attributes:
        is_spec_derived: Whether the specification was made up from the architecture.
        operators: Types of both graphs.
        errors: Of the certificate, against torch in float64.
        step_ms, evaluate_ms: Of one batch, one thread, on this machine.
        files: Bytes of each file by its path in the folder.
    """

    folder: str
    artifact_id: str
    architecture_id: str
    num_parameters: int
    batch_size: int
    spec: ExampleSpec
    is_spec_derived: bool
    operators: tuple[str, ...]
    errors: dict[str, float]
    tolerance: float
    step_ms: float
    evaluate_ms: float
    files: dict[str, int]


def compile_architecture(  # noqa: PLR0913  (the command's own options)
    architecture: Annotated[Path, typer.Argument(help="JSON of an Architecture, as docs/examples/architecture.json.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; an artifact there is replaced.")],
    spec: Annotated[
        Path | None, typer.Option(help="JSON of an ExampleSpec; left out, it is derived from the architecture.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="B, the examples that a graph takes at a time: a matter of memory.")
    ] = DEFAULT_BATCH_SIZE,
    seed: Annotated[int, typer.Option(min=0, help="Of the initial parameters; no part of the artifact's id.")] = 0,
    json: JsonOption = False,
) -> None:
    """Compile an architecture into a training artifact, and certify it against torch."""
    design = read_record(Architecture, architecture)
    meaning = read_record(ExampleSpec, spec) if spec else derive_spec(design)
    with Console(stderr=True).status("importing torch"):
        from pipeline.compile.artifact import CompileRequest, compile_artifact  # noqa: PLC0415  (heavy)
        from pipeline.compile.certificate import Certificate  # noqa: PLC0415
    request = CompileRequest(design, meaning, batch_size)
    with Console(stderr=True).status("compiling"):
        compile_artifact(request, output, seed)
    certificate = decode_record(Certificate, (output / "certificate.json").read_bytes())
    result = _describe(output, certificate, is_spec_derived=spec is None)
    print_result(result, json, _table(result))


def derive_spec(architecture: Architecture) -> ExampleSpec:
    """The specification of raw images in the architecture's shape, not normalised, with classes "0", "1" and so on."""
    channels = architecture.input_shape[0]
    return ExampleSpec(
        shape=architecture.input_shape,
        labels=tuple(map(str, range(architecture.num_classes))),
        colour=_COLOURS.get(channels, "none"),
        mean=(0.0,) * channels,
        deviation=(1.0,) * channels,
    )


def read_record(cls: type[T], path: Path) -> T:
    """Read a record's file; raises RecordError, which names it."""
    try:
        return decode_record(cls, path.read_bytes())
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}; name a JSON file of {cls.__name__}") from error
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from error


def _describe(folder: Path, certificate: "Certificate", *, is_spec_derived: bool) -> Compiled:
    from device_runtime.artifact import read_artifact  # noqa: PLC0415  (ONNX Runtime)

    manifest = read_artifact(folder).manifest
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return Compiled(
        folder=str(folder),
        artifact_id=certificate.artifact_id,
        architecture_id=manifest.architecture_id,
        num_parameters=manifest.num_parameters,
        batch_size=manifest.batch_size,
        spec=manifest.spec,
        is_spec_derived=is_spec_derived,
        operators=manifest.operators,
        errors=asdict(certificate.errors),
        tolerance=certificate.tolerance,
        step_ms=certificate.step_ms,
        evaluate_ms=certificate.evaluate_ms,
        files={path.relative_to(folder).as_posix(): path.stat().st_size for path in paths},
    )


def _table(result: Compiled) -> Table:
    table = Table(
        title=f"artifact {result.artifact_id[:12]} in {result.folder}", show_header=False, title_justify="left"
    )
    table.add_column()
    table.add_column(overflow="fold")  # ids are there to be copied whole
    for row in _rows(result):
        table.add_row(*row)
    return table


def _rows(result: Compiled) -> list[tuple[str, str]]:
    errors = ", ".join(f"{name} {value:.1e}" for name, value in result.errors.items())
    return [
        ("parameters", f"{result.num_parameters:,}"),
        ("batch size", str(result.batch_size)),
        ("examples", _spec_in_words(result)),
        ("operators", f"{len(result.operators)} standard ones: {', '.join(result.operators)}"),
        ("certificate", f"{errors}; passed (relative errors against torch in float64)"),
        ("time here", f"gradient {result.step_ms:.2f} ms, evaluation {result.evaluate_ms:.2f} ms a batch, one thread"),
        ("files", "\n".join(f"{name}  {size / 1024:.1f} KiB" for name, size in result.files.items())),
        ("architecture id", result.architecture_id),
        ("artifact id", result.artifact_id),
    ]


def _spec_in_words(result: Compiled) -> str:
    spec, shape = result.spec, "x".join(map(str, result.spec.shape))
    told = f"{shape} {spec.dtype}, colour {spec.colour}, labels {spec.labels[0]} to {spec.labels[-1]}"
    return f"{told}; derived from the architecture, give --spec for your data's" if result.is_spec_derived else told
