"""Certify an artifact: compare its graphs with torch in float64, and check that each example stays on its own.

No certificate, no artifact. Batches, masks and clip norms are drawn from a fixed seed, so that compiling twice
certifies the same numbers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import inf, prod

import numpy as np
import onnxruntime
import torch

from device_runtime.arrays import Vector
from device_runtime.artifact import Artifact
from pipeline.compile.comparison import (
    Comparison,
    first_above,
    gradient_errors,
    worst_of,
    worst_relative,
    wrong_in_norms,
)
from pipeline.compile.compiled_step import CompiledStep, open_step
from pipeline.compile.extremes import (
    EXTREME_SCALE,
    LARGEST_NORM,
    OFFSETS,
    check_all_masked,
    check_clip,
    check_huge,
    check_zeros,
)
from pipeline.compile.isolation import Isolation, half_the_median, isolate, worst_isolation
from pipeline.compile.measuring import measured_memory, median_ms
from pipeline.compile.reference import Reference, Sampler, draw_batch, torch_step
from pipeline.compile.steady_points import TOLERANCE, CertificateError, Point, SteadyPoints

NUM_BATCHES = 3
MOVED_SHARE = 0.02  # of each parameter, of its root mean square, or of 1 where it is 0: in the last batch


@dataclass(frozen=True)
class Errors:
    """How far the step was off, the worst of all comparisons.

    Attributes:
        loss, norm: Relative error of an example's loss and of its gradient's norm.
        gradient: The same of the parameter whose clipped and summed gradient is worst.
        independence: Largest relative change of another example's norm or loss when one example was replaced.
        replacement: How far at most the clipped sum then moved beyond twice `max_grad_norm`, relative to that; at or
            below 0 up to rounding.
        removal: The same of `max_grad_norm` when one example was masked.
    """

    loss: float
    norm: float
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
        forms: How each parameter's per-example gradients are held, by name.
        step_ms, evaluate_ms: Median time of gradient.onnx and of evaluate.onnx for one batch, one thread, on the
            machine that compiled.
        step_memory_mib: Peak memory of opening gradient.onnx and running it for one batch, in a process of its own on
            that machine, above what the process takes without it.
        checks: What was run, in words.
        versions: Of ONNX Runtime and torch.
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
    forms: dict[str, str]
    step_ms: float
    evaluate_ms: float
    step_memory_mib: float
    checks: tuple[str, ...]
    versions: dict[str, str]
    ort_training: str = "written"
    schema: int = 1


@dataclass(frozen=True)
class _Case:
    """One run of the step: a mask, a clip norm, and which segments take part."""

    mask: Vector
    max_grad_norm: float
    segment: str | None = None  # None for all


@dataclass(frozen=True)
class _Compared:
    """All cases of all batches, and the batches."""

    points: tuple[Point, ...]
    errors: Comparison
    num_cases: int


def certify(
    artifact: Artifact, module: torch.nn.Module, parameters: Vector, *, forms: Mapping[str, str], sample: Sampler
) -> Certificate:
    """Check an artifact against the module it was compiled from, at f32[P] parameters.

    Args:
        module: Its frozen parameters and buffers hold what the artifact was compiled with.
        forms: Of each parameter's per-example gradients, for the record.
        sample: Draws x for a number of examples: numbers, and ids that the network knows.

    Raises:
        CertificateError: Above `TOLERANCE`, or not finite; names the first layer that disagrees.
    """
    step, rng = open_step(artifact, parameters), np.random.default_rng(0)
    double, single = (torch_step(module, artifact.manifest, dtype) for dtype in (np.float64, np.float32))
    steady = SteadyPoints(double, single, parameters, sample, rng)
    examples = draw_batch(artifact.manifest, sample, rng, artifact.manifest.batch_size)
    with measured_memory(artifact.gradient, step.gradient_inputs(examples)) as memory_mib:
        compared = _compare(step, steady)
        batches = [point.batch for point in compared.points]
        others = [draw_batch(artifact.manifest, sample, rng, len(batch.y)) for batch in batches]
        isolation = worst_isolation([isolate(step, *pair) for pair in zip(batches, others, strict=True)])
        check_huge(step, batches[0])
        check_clip(step, batches[0])
        check_all_masked(step, batches[0])
        zero_inputs = check_zeros(step, single, batches[0])
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
        forms=dict(forms),
        step_ms=median_ms(lambda: step.gradient(batches[0], 1.0)),
        evaluate_ms=median_ms(lambda: step.losses(batches[0])),
        step_memory_mib=step_memory_mib,
        checks=_checks_in_words(step),
        versions={"onnxruntime": onnxruntime.__version__, "torch": torch.__version__},
    )


def _errors(compared: Comparison, isolation: Isolation) -> Errors:
    return Errors(compared.loss, compared.norm, max(compared.gradient.values()), **vars(isolation))


def _compare(step: CompiledStep, steady: SteadyPoints) -> _Compared:
    points: list[Point] = []
    errors: list[Comparison] = []
    for number in range(NUM_BATCHES):
        if number == NUM_BATCHES - 1:
            moved = _moved(step)
            step, steady.parameters = replace(step, parameters=moved), moved
        point, found = _compare_point(step, steady)
        errors += found
        points.append(replace(point, truth=Reference(point.truth.losses, np.zeros((0, 0)))))  # the rest is large
    return _Compared(tuple(points), worst_of(errors), len(errors))


def _moved(step: CompiledStep) -> Vector:
    """A second set of parameters: what forward took as a number at the first, or a gate at 0, shows there."""
    rng = np.random.default_rng(1)
    moved = step.parameters.copy()
    for entry in step.artifact.manifest.layout:
        part = moved[entry.offset : entry.offset + prod(entry.shape)]
        size = float(np.sqrt(np.mean(np.square(part, dtype=np.float64)))) or 1.0
        part += (MOVED_SHARE * size * rng.standard_normal(part.shape)).astype(np.float32)
    return moved


def _compare_point(step: CompiledStep, steady: SteadyPoints) -> tuple[Point, list[Comparison]]:
    """The next batch and its errors."""
    point = steady.draw()
    while True:
        _check_range(point)
        try:
            return point, [_compare_case(step, point, case) for case in _cases(step, point)]
        except CertificateError:
            redrawn = steady.redraw(point, step.gradient(point.batch.unmasked())[2])
            if redrawn is None:
                raise
            point = redrawn


def _check_range(point: Point) -> None:
    if (largest := float(point.truth.norms().max())) > LARGEST_NORM:
        raise CertificateError(
            f"an example's gradient has norm {largest:.2g}, in torch too, and its square exceeds float32; use fewer "
            "layers or normalise over more values"
        )


def _cases(step: CompiledStep, point: Point) -> Iterator[_Case]:
    """All segments first, and without a clip: with it, one wrong gradient scales all the others."""
    names = step.artifact.manifest.segments
    for segment in (None, *(names if len(names) > 1 else ())):
        clip = half_the_median(_restricted(step, point, segment).norms())
        for max_grad_norm in (inf, clip):
            for mask in (np.ones_like(point.batch.mask), point.batch.mask):
                yield _Case(mask, max_grad_norm, segment)


def _compare_case(step: CompiledStep, point: Point, case: _Case) -> Comparison:
    manifest, batch = step.artifact.manifest, replace(point.batch, mask=case.mask)
    truth = _restricted(step, point, case.segment)
    weight = np.array([case.segment in {None, name} for name in manifest.segments], np.float32)
    gradient_sum, loss_sum, norms = step.gradient(batch, case.max_grad_norm, weight)
    losses = truth.losses * case.mask
    sums = worst_relative(np.array([loss_sum]), np.array([losses.sum()]))
    found = Comparison(
        loss=float(np.max([worst_relative(step.losses(batch), losses), sums])),
        norm=worst_relative(norms, truth.norms() * case.mask),
        gradient=gradient_errors(manifest, gradient_sum, truth, truth.factors(case.mask, case.max_grad_norm)),
    )
    if complaint := _complaint(found):
        if not found.norm <= TOLERANCE and first_above(found.gradient, TOLERANCE) is None:
            complaint += f", and {wrong_in_norms(manifest, norms, truth, case.mask)!r} explains it best"
        alone = f" with segment {case.segment!r} alone" if case.segment else ""
        raise CertificateError(f"{complaint}{alone}; replace that layer or the one behind it, and report it")
    return found


def _restricted(step: CompiledStep, point: Point, segment: str | None) -> Reference:
    """The truth about one segment alone."""
    if segment is None:
        return point.truth
    layout = step.artifact.manifest.layout
    parts = [np.full(prod(entry.shape), entry.segment == segment, np.float64) for entry in layout]
    return point.truth.restricted(np.concatenate(parts))


def _complaint(found: Comparison) -> str | None:
    """What is first wrong from the loss backwards."""
    if name := first_above(found.gradient, TOLERANCE):
        return (
            f"the compiled gradient of {name!r} differs from torch by {found.gradient[name]:.2g} (relative), above "
            f"{TOLERANCE:g}, and is the first that does from the loss backwards"
        )
    for name, error in (("loss", found.loss), ("norm", found.norm)):
        if not error <= TOLERANCE:  # a NaN is not
            return f"the compiled step's {name} error is {error:.2g}, above {TOLERANCE:g}"
    return None


def _checks_in_words(step: CompiledStep) -> tuple[str, ...]:
    num_segments = len(step.artifact.manifest.segments)
    segments = f", {num_segments} segments together and each alone" if num_segments > 1 else ""
    compared = "loss, norms, clipped sum of each parameter against torch in float64"
    batches = f"{NUM_BATCHES} batches of {step.artifact.manifest.batch_size}, all and about 70% unmasked"
    batches += f", the last at parameters moved by {MOVED_SHARE:.0%}"
    moves = "changes no other's norm or loss and moves the sum by at most twice the clip norm"
    offsets = " and ".join(f"{offset:g}" for offset in OFFSETS)
    return (
        f"{batches}, clip at half the median norm and none{segments}: {compared}",
        f"replacing one example {moves}, masking one moves it by at most the clip norm",
        f"one example alone sums to its clip norm at most, scaled by {EXTREME_SCALE:g} and moved by {offsets}",
        f"finite on inputs scaled by {EXTREME_SCALE:g} and on zeros, exactly zero when all examples are masked",
    )
