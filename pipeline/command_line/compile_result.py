"""What `handheld compile` tells about the artifact that it made."""

from collections import Counter
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from device_runtime.specs import ExampleSpec, FrozenTensors, InputSpec
from profiles.records import decode_record

if TYPE_CHECKING:
    from pipeline.compile.certificate import Certificate

NO_GRADIENT, WRITTEN = "reaches no loss", "written"  # as in the certificate


@dataclass(frozen=True)
class Compiled:
    """What `handheld compile` made.

    Attributes:
        is_spec_derived: Whether the specification was made up from the network's shapes.
        segments: Parameters in each part of the layout.
        frozen: Tensors in `frozen.safetensors`, which artifacts of one backbone share.
        operators: Types of both graphs.
        certificate: As in `certificate.json`.
        files: Bytes of each file by its path in the folder.
    """

    folder: str
    artifact_id: str
    architecture_id: str
    num_parameters: int
    batch_size: int
    spec: ExampleSpec
    is_spec_derived: bool
    loss: str
    label_smoothing: float
    segments: dict[str, int]
    frozen: FrozenTensors | None
    operators: tuple[str, ...]
    certificate: "Certificate"
    files: dict[str, int]


def describe(folder: Path, *, is_spec_derived: bool) -> Compiled:
    """Read back what was written."""
    from device_runtime.artifact import read_artifact  # noqa: PLC0415  (ONNX Runtime)
    from pipeline.compile.certificate import Certificate  # noqa: PLC0415  (torch)

    artifact = read_artifact(folder)
    manifest = artifact.manifest
    segments: Counter[str] = Counter()
    for entry in manifest.layout:
        segments[entry.segment] += prod(entry.shape)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return Compiled(
        folder=str(folder),
        artifact_id=artifact.artifact_id,
        architecture_id=manifest.architecture_id,
        num_parameters=manifest.num_parameters,
        batch_size=manifest.batch_size,
        spec=manifest.spec,
        is_spec_derived=is_spec_derived,
        loss=manifest.loss,
        label_smoothing=manifest.label_smoothing,
        segments={name: segments[name] for name in manifest.segments},
        frozen=manifest.frozen,
        operators=manifest.operators,
        certificate=decode_record(Certificate, (folder / "certificate.json").read_bytes()),
        files={path.relative_to(folder).as_posix(): path.stat().st_size for path in paths},
    )


def table_of(result: Compiled) -> Table:
    """For a reader."""
    table = Table(
        title=f"artifact {result.artifact_id[:12]} in {result.folder}", show_header=False, title_justify="left"
    )
    table.add_column()
    table.add_column(overflow="fold")  # ids are there to be copied whole
    for row in _rows(result):
        table.add_row(*row)
    return table


def _rows(result: Compiled) -> list[tuple[str, str]]:
    certificate = result.certificate
    errors = ", ".join(f"{name} {value:.1e}" for name, value in asdict(certificate.errors).items())
    times = f"gradient {certificate.step_ms:.2f} ms, evaluation {certificate.evaluate_ms:.2f} ms"
    rows = {
        "parameters": _parameters_in_words(result),
        "gradients": _forms_in_words(certificate.forms),
        "frozen": _frozen_in_words(result.frozen) if result.frozen else "",
        "batch size": str(result.batch_size),
        "examples": _spec_in_words(result),
        "loss": result.loss + (f", label smoothing {result.label_smoothing:g}" if result.label_smoothing else ""),
        "operators": f"{len(result.operators)} standard ones: {', '.join(result.operators)}",
        "certificate": f"{errors}; passed (relative errors against torch in float64)",
        "time here": f"{times} a batch, one thread; {certificate.step_memory_mib:.1f} MiB",
        "files": "\n".join(f"{name}  {size / 1024:.1f} KiB" for name, size in result.files.items()),
        "ort_training": certificate.ort_training if certificate.ort_training != WRITTEN else "",
        "architecture id": result.architecture_id,
        "artifact id": result.artifact_id,
    }
    return [(name, told) for name, told in rows.items() if told]


def _parameters_in_words(result: Compiled) -> str:
    told = f"{result.num_parameters:,}"
    if len(result.segments) > 1:
        told += ": " + ", ".join(f"{num:,} in {name}" for name, num in result.segments.items())
    return told


def _forms_in_words(forms: dict[str, str]) -> str:
    held = Counter(form for form in forms.values() if form != NO_GRADIENT)
    told = ", ".join(f"{num} {form}" for form, num in held.most_common())
    unreached = [name for name, form in forms.items() if form == NO_GRADIENT]
    if unreached:
        more = f" and {len(unreached) - 5} more" if len(unreached) > 5 else ""
        told += f"; warning: forward does not use {', '.join(unreached[:5])}{more}: their gradient is zero"
    return told


def _frozen_in_words(frozen: FrozenTensors) -> str:
    num, tensors = sum(prod(shape) for shape in frozen.shapes.values()), len(frozen.shapes)
    return f"{num:,} values of {tensors} tensor{'s' * (tensors > 1)} in frozen.safetensors, {frozen.sha256[:12]}"


def _spec_in_words(result: Compiled) -> str:
    spec = result.spec
    inputs = spec.inputs or (InputSpec("x", spec.shape, spec.dtype),)
    shapes = [f"{'x'.join(map(str, one.shape))} {one.dtype}" for one in inputs]
    named = [f"{one.name} {shape}" for one, shape in zip(inputs, shapes, strict=True)] if spec.inputs else shapes
    colour = f", colour {spec.colour}" if spec.colour != "none" else ""
    told = f"{', '.join(named)}{colour}, labels {' to '.join(dict.fromkeys((spec.labels[0], spec.labels[-1])))}"
    return f"{told}; derived from the network, give --spec for your data's" if result.is_spec_derived else told
