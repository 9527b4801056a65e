"""`handheld compile`: an architecture file, or any torch module, becomes a training artifact."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console

from device_runtime.console import JsonOption, print_result
from device_runtime.specs import ExampleSpec, InputSpec
from pipeline.command_line.compile_result import describe, table_of
from pipeline.command_line.module_options import Job, ModuleOptions, compile_module, parse_input, parse_segments
from pipeline.compile.versions import DEFAULT_BATCH_SIZE
from profiles.records import RecordError, decode_record
from search.architecture import Architecture

T = TypeVar("T")
EXAMPLE = (
    "handheld compile docs/examples/architecture.json -o runs/artifact; "
    "handheld compile --module mypackage.nets:make_net --input 3x32x32 --classes 10 -o runs/artifact; "
    "handheld compile --module nets:make_tagger --input ids=64:int64 --input image=3x32x32 --classes 5 "
    "--loss bce_with_logits --freeze 'features.*' --segment 'head=classifier.*' -o runs/artifact"
)


ArchitectureFile = Annotated[
    Path | None, typer.Argument(help="JSON of an Architecture, as docs/examples/architecture.json.")
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder to write; an artifact there is replaced.")]
ModuleOption = Annotated[
    str | None,
    typer.Option(
        help="package.file:factory instead of an architecture: a function or class to call without arguments, or a "
        "torch.nn.Module. The current directory is importable."
    ),
]
InputsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        help="Shape of one example, without the batch: 3x32x32, or 64:int64. Of several inputs each: ids=64:int64.",
    ),
]
ClassesOption = Annotated[
    int | None, typer.Option(min=1, help="Classes, or values for bce_with_logits and mse.", show_default=False)
]
LossOption = Annotated[str, typer.Option(help="cross_entropy, bce_with_logits or mse.")]
LabelSmoothingOption = Annotated[float, typer.Option(help="Of cross_entropy, from 0 to below 1.")]
SegmentsOption = Annotated[
    list[str] | None,
    typer.Option("--segment", help="NAME=PATTERN of parameters that can be trained alone, as head=classifier.*"),
]
FreezeOption = Annotated[
    list[str] | None,
    typer.Option(help="PATTERN of parameters that are not trained, as features.*; a BatchNorm among them is folded."),
]
WeightsOption = Annotated[Path | None, typer.Option(help="Safetensors file of the module's state_dict, to start from.")]
ReplaceBatchnormOption = Annotated[
    bool, typer.Option("--replace-batchnorm", help="Put GroupNorm in the place of BatchNorm, which mixes examples.")
]
SpecOption = Annotated[
    Path | None,
    typer.Option(help="JSON of an ExampleSpec; left out, it is derived. With it, --input and --classes may go."),
]
BatchSizeOption = Annotated[
    int, typer.Option(min=1, help="B, the examples that a graph takes at a time: a matter of memory.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Of the initial parameters; no part of the artifact's id.")]


def compile_network(  # noqa: PLR0913  (the command's own options)
    architecture: ArchitectureFile = None,
    *,
    output: OutputOption,
    module: ModuleOption = None,
    inputs: InputsOption = None,
    classes: ClassesOption = None,
    loss: LossOption = "cross_entropy",
    label_smoothing: LabelSmoothingOption = 0.0,
    segments: SegmentsOption = None,
    freeze: FreezeOption = None,
    weights: WeightsOption = None,
    replace_batchnorm: ReplaceBatchnormOption = False,
    spec: SpecOption = None,
    batch_size: BatchSizeOption = DEFAULT_BATCH_SIZE,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Compile an architecture or a torch module into a training artifact, and certify it against torch."""
    options = ModuleOptions(
        inputs=tuple(map(parse_input, inputs or ())),
        num_classes=classes,
        loss=loss,
        label_smoothing=label_smoothing,
        segments=parse_segments(segments or ()),
        freeze=tuple(freeze or ()),
        weights=weights,
        replace_batchnorm=replace_batchnorm,
    )
    job = Job(output, read_record(ExampleSpec, spec) if spec else None, batch_size, seed)
    # Standard output is for the result: what a user's file prints goes beside the progress.
    with redirect_stdout(sys.stderr):
        _compile(architecture, module, options, job)
    result = describe(output, is_spec_derived=spec is None)
    print_result(result, json, table_of(result))


def read_record(cls: type[T], path: Path) -> T:
    """Read a record's file; raises RecordError, which names it."""
    try:
        return decode_record(cls, path.read_bytes())
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}; name a JSON file of {cls.__name__}") from error
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from error


def _compile(architecture: Path | None, module: str | None, options: ModuleOptions, job: Job) -> None:
    if (architecture is None) == (module is None):
        raise ValueError("compile takes either an architecture's JSON file or --module package.file:factory")
    if architecture is not None:
        if options != ModuleOptions():
            raise ValueError("an architecture takes --spec, --batch-size and --seed only; the rest is for --module")
        _compile_architecture(read_record(Architecture, architecture), job)
    elif module is not None:
        with Console(stderr=True).status("compiling"):
            compile_module(module, options, job)


def _compile_architecture(architecture: Architecture, job: Job) -> None:
    with Console(stderr=True).status("importing torch"):
        from pipeline.compile.artifact import CompileRequest, compile_architecture  # noqa: PLC0415  (heavy)
        from pipeline.compile.inputs import derive_spec  # noqa: PLC0415
    inputs = (InputSpec("x", architecture.input_shape),)
    spec = job.spec or derive_spec(inputs, architecture.num_classes)
    with Console(stderr=True).status("compiling"):
        compile_architecture(CompileRequest(architecture, spec, job.batch_size), job.output, job.seed)
