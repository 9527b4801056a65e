"""Certify an artifact: compare its graphs with torch in float64, and check that each example stays on its own.

No certificate, no artifact. Batches, masks and clip norms are drawn from a fixed seed, so that compiling twice
certifies the same numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
import onnx
import onnxruntime
import torch

from device_runtime.arrays import Vector
from device_runtime.artifact import Artifact
from pipeline.compile.cases import compare_cases
from pipeline.compile.comparison import Comparison, worst_of
from pipeline.compile.compiled_step import CompiledStep, open_step
from pipeline.compile.extremes import (
    EXTREME_SCALE,
    OFFSETS,
    check_all_masked,
    check_clip,
    check_huge,
    check_zeros,
)
from pipeline.compile.isolation import Isolation, isolate, worst_isolation
from pipeline.compile.measuring import measured_memory, median_ms
from pipeline.compile.reference import Reference, Sampler, draw_batch, torch_step
from pipeline.compile.steady_points import TOLERANCE, Point, SteadyPoints

NUM_BATCHES = 3
MOVED_SHARE = 0.02  # of each parameter, of its root mean square, or of 1 where it is tiny: in the last batch
# A gate (LayerScale's 1e-6, or 0) whose root mean square is less hides what is behind it below the comparison's floor.
# Weights that are drawn for less than 10,000 inputs are above it.
_TINY = 5e-3


@dataclass(frozen=True)
class Errors:
    """How far the step was off, the worst of all comparisons.

    Attributes:
        loss, norm: Relative error of an example's loss and of its gradient's norm.
        metric: Largest distance of an example's metric, which is in [0, 1].
        gradient_sum: Relative error of the clipped sum.
        gradient: The same of the parameter whose part of that sum is worst.
        independence: Largest relative change of another example's norm, loss or metric when one example was replaced.
        replacement: How far at most the clipped sum then moved beyond twice `max_grad_norm`, relative to that; at or
            below 0 up to rounding.
        removal: The same of `max_grad_norm` when one example was masked.
    """

    loss: float
    norm: float
    metric: float
    gradient_sum: float
    gradient: float
    independence: float
    replacement: float
    removal: float


@dataclass(frozen=True)
class Certificate:
    """What was checked and measured; `certificate.json`, outside the artifact id.

    Attributes:
        tolerance: What each error had to stay below.
        float32_error: Largest relative error of an example's loss or gradient in torch's own float32.
        num_comparisons: Runs of gradient.onnx that were compared with torch.
        examples_set_aside: Examples on which nothing was compared, as torch's own float32 was off there.
        failures_set_aside: Examples set aside after the step was off, as torch's float32 is next to them.
        zero_inputs: What the step makes of examples of zeros: finite, or left out.
        step_ms, evaluate_ms: Median time of gradient.onnx and of evaluate.onnx for one batch, one thread, on the
            machine that compiled.
        step_memory_mib: Peak memory of opening gradient.onnx and running it for one batch, in a process of its own on
            that machine, above what the process takes without it.
        checks: What was run, in words.
        versions: Of ONNX Runtime and torch.
        forms: How each parameter's per-example gradients are held, by name; whoever writes the artifact fills it in.
        ort_training: Whether the classic files were `written`, or `left out: REASON`.
    """

    artifact_id: str
    errors: Errors
    tolerance: float
    float32_error: float
    num_comparisons: int
    examples_set_aside: int
    failures_set_aside: int
    zero_inputs: str
    step_ms: float
    evaluate_ms: float
    step_memory_mib: float
    checks: tuple[str, ...]
    versions: dict[str, str]
    forms: dict[str, str] = field(default_factory=dict)
    ort_training: str = "written"
    schema: int = 1


@dataclass(frozen=True)
class _Compared:
    """All cases of all batches, and the batches."""

    points: tuple[Point, ...]
    errors: Comparison
    num_cases: int


def certify(
    artifact: Artifact,
    module: torch.nn.Module,
    parameters: Vector,
    sample: Sampler,
    layers: Callable[[], onnx.ModelProto],
) -> Certificate:
    """Check an artifact against the module it was compiled from, at f32[P] parameters.

    Args:
        module: Its frozen parameters and buffers hold what the artifact was compiled with.
        sample: Draws x for a number of examples: numbers, and ids that the network knows.
        layers: Makes the graph of what each layer gives, by which one that is wrong is found.

    Raises:
        CertificateError: Above `TOLERANCE`, or not finite; names the first layer that disagrees.
    """
    step, rng = open_step(artifact, parameters), np.random.default_rng(0)
    double, single = (torch_step(module, artifact.manifest, dtype) for dtype in (np.float64, np.float32))
    steady = SteadyPoints(double, single, parameters, sample, rng)
    examples = draw_batch(artifact.manifest, sample, rng, artifact.manifest.batch_size)
    with measured_memory(artifact.gradient, step.gradient_inputs(examples)) as memory_mib:
        compared = _compare(step, steady, layers)
        batches = [point.batch for point in compared.points]
        others = [draw_batch(artifact.manifest, sample, rng, len(batch.y)) for batch in batches]
        isolation = worst_isolation([isolate(step, *pair) for pair in zip(batches, others, strict=True)])
        check_huge(step, batches[0])
        check_clip(step, batches[0])
        zero_inputs = check_zeros(step, single, batches[0])
        check_all_masked(step, batches[0], zero_inputs)
        step_memory_mib = memory_mib()
    return Certificate(
        artifact_id=artifact.artifact_id,
        errors=_errors(compared.errors, isolation),
        tolerance=TOLERANCE,
        float32_error=max(float(point.float32.max()) for point in compared.points),
        num_comparisons=compared.num_cases,
        examples_set_aside=steady.num_unsteady,
        failures_set_aside=steady.num_failed,
        zero_inputs=zero_inputs,
        step_ms=median_ms(lambda: step.gradient(batches[0], 1.0)),
        evaluate_ms=median_ms(lambda: step.evaluate(batches[0])),
        step_memory_mib=step_memory_mib,
        checks=_checks_in_words(step),
        versions={"onnxruntime": onnxruntime.__version__, "torch": torch.__version__},
    )


def _errors(compared: Comparison, isolation: Isolation) -> Errors:
    numbers = {name: getattr(compared, name) for name in ("loss", "norm", "metric", "gradient_sum")}
    return Errors(**numbers, gradient=max(compared.gradient.values()), **vars(isolation))


def _compare(step: CompiledStep, steady: SteadyPoints, layers: Callable[[], onnx.ModelProto]) -> _Compared:
    points: list[Point] = []
    errors: list[Comparison] = []
    for number in range(NUM_BATCHES):
        if number == NUM_BATCHES - 1:
            moved = _moved(step)
            step, steady.parameters = replace(step, parameters=moved), moved
        point, found = compare_cases(step, steady, layers)
        errors += found
        points.append(replace(point, truth=Reference(np.zeros(0), np.zeros(0), np.zeros((0, 0)))))  # it is large
    return _Compared(tuple(points), worst_of(errors), len(errors))


def _moved(step: CompiledStep) -> Vector:
    """A second set of parameters: what forward took as a number at the first, or a gate near 0 hid, shows there."""
    rng = np.random.default_rng(1)
    moved = step.parameters.copy()
    for entry in step.artifact.manifest.layout:
        part = moved[entry.offset : entry.offset + prod(entry.shape)]
        size = float(np.sqrt(np.mean(np.square(part, dtype=np.float64))))
        size = size if size > _TINY else 1.0
        part += (MOVED_SHARE * size * rng.standard_normal(part.shape)).astype(np.float32)
    return moved


def _checks_in_words(step: CompiledStep) -> tuple[str, ...]:
    num_segments = len(step.artifact.manifest.segments)
    segments = f", {num_segments} segments together and each alone" if num_segments > 1 else ""
    compared = "loss, metric, norms, clipped sum and each parameter's part of it against torch in float64"
    batches = f"{NUM_BATCHES} batches of {step.artifact.manifest.batch_size}, all and about 70% unmasked"
    batches += f", the last at parameters moved by {MOVED_SHARE:.0%}"
    moves = "changes no other's norm, loss or metric and moves the sum by at most twice the clip norm"
    offsets = ", ".join(f"{offset:g}" for offset in OFFSETS)
    alone = f"one example alone, scaled by {EXTREME_SCALE:g}, moved by {offsets}, or nearly the same at all positions"
    return (
        f"{batches}, clip at half the median norm and none{segments}: {compared}",
        f"replacing one example {moves}, masking one moves it by at most the clip norm",
        f"{alone}, sums to its clip norm at most",
        f"finite on inputs scaled by {EXTREME_SCALE:g} and on zeros, exactly zero when all examples are masked",
    )
