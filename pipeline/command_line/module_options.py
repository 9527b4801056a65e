"""What `handheld compile --module` is told about a torch module, and its way to the compiler."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from device_runtime.specs import DType, ExampleSpec, InputSpec

THE_INPUT = "x"  # of a module with one, where nobody names it: forward's own name for it does not matter


@dataclass(frozen=True)
class ModuleOptions:
    """The options that an architecture does not take.

    Attributes:
        inputs: Of one example; one alone is called `x`, or by forward's name for it.
        num_classes: None where the specification tells.
        segments: Name patterns by segment.
        freeze: Name patterns of what is not trained.
        weights: State dict to start from, None for the factory's own values.
    """

    inputs: tuple[InputSpec, ...] = ()
    num_classes: int | None = None
    loss: str = "cross_entropy"
    label_smoothing: float = 0.0
    segments: Mapping[str, str] = field(default_factory=dict)
    freeze: tuple[str, ...] = ()
    weights: Path | None = None
    replace_batchnorm: bool = False


@dataclass(frozen=True)
class Job:
    """What both kinds of networks take.

    Attributes:
        spec: None to derive it.
        seed: Of the initial parameters.
    """

    output: Path
    spec: ExampleSpec | None
    batch_size: int
    seed: int


def parse_input(text: str) -> InputSpec:
    """Read `3x32x32`, `64:int64` or `ids=64:int64`; raises ValueError."""
    match = re.fullmatch(r"(?:([A-Za-z_]\w*)=)?(\d+(?:x\d+)*)(?::(float32|int64))?", text, re.ASCII)
    if match is None:
        raise ValueError(
            f"--input must be sizes of one example as 3x32x32, with :int64 for whole numbers and NAME= where there "
            f"are several (ids=64:int64), got {text!r}"
        )
    name, sizes, dtype = match.groups()
    shape = tuple(map(int, sizes.split("x")))
    return InputSpec(name or THE_INPUT, shape, cast(DType, dtype or "float32"))


def parse_segments(texts: Sequence[str]) -> dict[str, str]:
    """Read `head=classifier.*` of each segment; raises ValueError."""
    segments: dict[str, str] = {}
    for text in texts:
        name, equals, pattern = text.partition("=")
        if not (name and equals and pattern) or name in segments:
            raise ValueError(f"--segment must be NAME=PATTERN, each name once, as head=classifier.*, got {text!r}")
        segments[name] = pattern
    return segments


def compile_module(target: str, options: ModuleOptions, job: Job) -> None:
    """Make the module of `package.file:factory` and write its artifact.

    Raises:
        ValueError: The options do not say what the network takes, or contradict each other.
        CompileError: The module cannot be made, or not be compiled.
    """
    import torch  # noqa: PLC0415  (heavy)

    from pipeline.compile.artifact import compile_artifact  # noqa: PLC0415
    from pipeline.compile.factory import freeze, load_weights, make_module  # noqa: PLC0415
    from pipeline.compile.losses import Loss  # noqa: PLC0415

    inputs, num_classes = _complete(options, job.spec)
    loss = Loss(options.loss, options.label_smoothing)
    module = make_module(target, job.seed)
    if options.weights is not None:
        load_weights(module, options.weights)
    freeze(module, options.freeze)
    examples = {one.name: torch.zeros(one.shape, dtype=getattr(torch, one.dtype)) for one in inputs}
    compile_artifact(
        module,
        examples[THE_INPUT] if list(examples) == [THE_INPUT] else examples,
        num_classes,
        job.output,
        batch_size=job.batch_size,
        loss=loss,
        segments=options.segments,
        spec=job.spec,
        name=target,
        replace_batchnorm=options.replace_batchnorm,
    )


def _complete(options: ModuleOptions, spec: ExampleSpec | None) -> tuple[tuple[InputSpec, ...], int]:
    """Inputs and outputs, from the specification where the options leave them out."""
    inputs, num_classes = options.inputs, options.num_classes
    if spec is not None:
        inputs = inputs or spec.inputs or (InputSpec(THE_INPUT, spec.shape, spec.dtype),)
        num_classes = num_classes or len(spec.labels)
    if not inputs:
        raise ValueError("--module needs --input, the shape of one example as 3x32x32, or --spec")
    if num_classes is None:
        raise ValueError("--module needs --classes, the number of classes or values, or --spec")
    if len({one.name for one in inputs}) != len(inputs):
        raise ValueError("each of several --input needs forward's name for it, as ids=64:int64; each name once")
    return inputs, num_classes
