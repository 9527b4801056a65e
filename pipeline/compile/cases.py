"""Compare a step with torch on one batch, in every case of a mask, a clip norm and the segments that take part."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import inf, prod

import numpy as np
import onnx

from device_runtime.arrays import Inputs, Vector
from pipeline.compile.comparison import (
    SMALLEST_SEGMENT,
    Comparison,
    first_above,
    row_errors,
    sum_errors,
    worst_relative,
    wrong_in_norms,
)
from pipeline.compile.compiled_step import CompiledStep, open_graph
from pipeline.compile.export import LOGITS
from pipeline.compile.extremes import LARGEST_NORM
from pipeline.compile.isolation import half_the_median
from pipeline.compile.reference import Reference, TorchStep
from pipeline.compile.steady_points import TOLERANCE, CertificateError, Point, SteadyPoints


@dataclass(frozen=True)
class _Case:
    """One run of the step, and the losses and metrics [B] that evaluate.onnx gives with that mask."""

    mask: Vector
    losses: Vector
    metrics: Vector
    max_grad_norm: float
    segment: str | None  # None for all


def compare_cases(
    step: CompiledStep, steady: SteadyPoints, layers: Callable[[], onnx.ModelProto]
) -> tuple[Point, list[Comparison]]:
    """The next batch and its errors.

    Args:
        layers: Makes the graph of what each layer gives, for a step that is wrong.

    Raises:
        CertificateError: The step is off; names the first layer that disagrees, of forward or from the loss backwards.
    """
    point = steady.draw()
    while True:
        _check_range(point)
        try:
            return point, [_compare_case(step, point, case) for case in _cases(step, point)]
        except CertificateError as error:
            redrawn = steady.redraw(point, step.gradient(point.batch.unmasked())[2])
            if redrawn is None:
                raise CertificateError(f"{error}; {_cure(step, steady.double, point, layers())}") from error
            point = redrawn


def _check_range(point: Point) -> None:
    if (largest := float(point.truth.norms.max())) > LARGEST_NORM:
        raise CertificateError(
            f"an example's gradient has norm {largest:.2g}, in torch too, and its square exceeds float32; use fewer "
            "layers or normalise over more values"
        )


def _cases(step: CompiledStep, point: Point) -> Iterator[_Case]:
    """All segments first, and without a clip: with it, one wrong gradient scales all the others."""
    names = step.artifact.manifest.segments
    masks = [np.ones_like(point.batch.mask), point.batch.mask]
    evaluated = [(mask, *step.evaluate(replace(point.batch, mask=mask))) for mask in masks]
    for segment in (None, *(names if len(names) > 1 else ())):
        clip = half_the_median(_restricted(step, point, segment).norms)
        for max_grad_norm in (inf, clip):
            for mask, losses, metrics in evaluated:
                yield _Case(mask, losses, metrics, max_grad_norm, segment)


def _compare_case(step: CompiledStep, point: Point, case: _Case) -> Comparison:
    manifest, whole = step.artifact.manifest, point.truth.norms * case.mask
    truth = _restricted(step, point, case.segment)
    weight = np.array([case.segment in {None, name} for name in manifest.segments], np.float32)
    batch = replace(point.batch, mask=case.mask)
    gradient_sum, loss_sum, norms = step.gradient(batch, case.max_grad_norm, weight)
    losses = truth.losses * case.mask
    sums = worst_relative(np.array([loss_sum]), np.array([losses.sum()]))
    factors = truth.factors(case.mask, case.max_grad_norm)
    floor = 0.0 if case.segment is None else SMALLEST_SEGMENT * float(whole.max())
    found = Comparison(
        float(np.max([worst_relative(case.losses, losses), sums])),
        worst_relative(norms, truth.norms * case.mask, floor),
        float(np.abs(case.metrics - truth.metrics * case.mask).max()),
        *sum_errors(manifest, gradient_sum, truth, factors, None if case.segment is None else whole),
    )
    if complaint := _complaint(found):
        if not found.norm <= TOLERANCE and first_above(found.gradient, TOLERANCE) is None:
            complaint += f", and {wrong_in_norms(manifest, norms, truth, case.mask)!r} explains it best"
        raise CertificateError(complaint + (f" with segment {case.segment!r} alone" if case.segment else ""))
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
    for name in ("loss", "gradient_sum", "norm", "metric"):
        if not (error := getattr(found, name)) <= TOLERANCE:  # a NaN is not
            return f"the compiled step's {name} error is {error:.2g}, above {TOLERANCE:g}"
    return None


def _cure(step: CompiledStep, double: TorchStep, point: Point, layers: onnx.ModelProto) -> str:
    """A wrong forward makes every gradient wrong: then the layer is the first that gives something else."""
    if (layer := _first_wrong_layer(step, double, point, layers)) is None:
        return "forward gives what torch does; replace that layer or the one behind it, and report it"
    return (
        f"the output of {layer!r} is the first in forward that differs from torch; replace that layer, or what forward "
        "does in front of it, and report it"
    )


def _first_wrong_layer(step: CompiledStep, double: TorchStep, point: Point, layers: onnx.ModelProto) -> str | None:
    """The first layer whose output is no value of the compiled forward; None where the logits are right."""
    graph, inputs = open_graph(layers.SerializeToString()), step.evaluate_inputs(point.batch)
    names = [output.name for output in graph.get_outputs()]
    outputs = graph.run(names, {value.name: inputs[value.name] for value in graph.get_inputs()})
    expected = double.layer_outputs(step.parameters, point.batch)
    if _is_near(dict(zip(names, outputs, strict=True))[LOGITS], expected[LOGITS]):
        return None
    wrong = (path for path, output in expected.items() if not any(_is_near(found, output) for found in outputs))
    return next(wrong, LOGITS)


def _is_near(found: Inputs, expected: Inputs) -> bool:
    if found.shape != expected.shape:
        return False
    errors = row_errors(found.reshape(len(found), -1), expected.reshape(len(found), -1))
    return bool(errors.max() <= TOLERANCE)
