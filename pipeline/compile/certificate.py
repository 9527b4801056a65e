"""Certify an artifact: compare its graphs with torch in float64, and check that each example stays on its own.

No certificate, no artifact. Batches, masks and clip norms are drawn from a fixed seed, so that compiling twice
certifies the same numbers.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np
import onnxruntime
import torch

from device_runtime.arrays import Inputs, Vector
from device_runtime.artifact import Artifact
from device_runtime.session import StepSession
from device_runtime.specs import Manifest
from pipeline.compile.builder import CompileError
from pipeline.compile.comparison import Comparison, errors_of_float32, gradient_errors, median_of, relative, worst_of
from pipeline.compile.reference import Batch, Reference, draw_batch, reference_of

TOLERANCE = 1e-4
# Where normalisations divide by almost nothing, torch in float32 is as far from float64 as we are: so far and this much
# further is allowed. For most networks that is below the tolerance.
FLOAT32_ALLOWANCE = 100
# The median over these counts: one activation within rounding of its kink falls to the other side, and moves a gradient
# by as much as a wrong rule would, but in one batch of hundreds.
NUM_BATCHES = 3
EXTREME_SCALE = 1e4


class CertificateError(CompileError):
    """The compiled step does not compute what torch does; the message names the first layer that disagrees."""


@dataclass(frozen=True)
class Errors:
    """How far the step was off.

    Attributes:
        loss, norm: Relative error of the losses and of the examples' gradient norms; the worst of all masks and clip
            norms, the median of the batches.
        gradient: The same of the parameter whose clipped and summed gradient is worst.
        independence: Largest relative change of the other examples' norms when one example is replaced.
        removal: How far at most the clipped sum moved beyond `max_grad_norm` when one example was masked, relative to
            it; at or below 0 up to rounding.
    """

    loss: float
    norm: float
    gradient: float
    independence: float
    removal: float


@dataclass(frozen=True)
class Rounding:
    """How far torch is off in float32; the names are those of `Errors`."""

    loss: float
    norm: float
    gradient: float


@dataclass(frozen=True)
class Certificate:
    """What was checked and measured; `certificate.json`, outside the artifact id.

    Attributes:
        float32: Errors of torch's own step in float32: what rounding alone does to this network.
        tolerance: What each error had to stay below, or 100 times the one of float32 where that is more.
        step_ms, evaluate_ms: Median time of gradient.onnx and of evaluate.onnx for one batch, one thread, on the
            machine that compiled.
        checks: What was run, in words.
        versions: Of ONNX Runtime and torch.
    """

    artifact_id: str
    errors: Errors
    float32: Rounding
    tolerance: float
    step_ms: float
    evaluate_ms: float
    checks: tuple[str, ...]
    versions: dict[str, str]
    schema: int = 1


@dataclass(frozen=True)
class _Step:
    """The compiled step at fixed parameters."""

    manifest: Manifest
    session: StepSession
    parameters: Vector

    def gradient(self, batch: Batch, max_grad_norm: float = inf) -> tuple[Vector, float, Vector]:
        return self.session.gradient(self.parameters, batch.x, batch.y, batch.mask, max_grad_norm)


@dataclass(frozen=True)
class _Isolation:
    independence: float
    removal: float


def certify(artifact: Artifact, module: torch.nn.Module, parameters: Vector) -> Certificate:
    """Check an artifact against the module it was compiled from, at f32[P] parameters.

    Raises:
        CertificateError: Above `TOLERANCE`, or not finite; names the first layer that disagrees.
    """
    step = _Step(artifact.manifest, StepSession(artifact), parameters)
    rng = np.random.default_rng(0)
    batches = [draw_batch(step.manifest, rng) for _ in range(NUM_BATCHES)]
    references = [reference_of(module, parameters, batch) for batch in batches]
    singles = [reference_of(module, parameters, batch, np.float32) for batch in batches]
    float32 = median_of([errors_of_float32(step.manifest, *pair) for pair in zip(singles, references, strict=True)])
    compared = []
    # Without a clip first: with it, one wrong gradient scales all the others and nobody could tell which it was.
    for clips in ([inf] * NUM_BATCHES, [_half_the_median(reference.norms()) for reference in references]):
        compared.append(median_of([_compare(step, *case) for case in zip(batches, references, clips, strict=True)]))
        _check_comparison(compared[-1], float32)
    isolated = [_isolate(step, batch, draw_batch(step.manifest, rng)) for batch in batches]
    _check_isolation(isolated)
    _check_finite(artifact, parameters, batches[0])
    return Certificate(
        artifact_id=artifact.artifact_id,
        errors=_errors(worst_of(compared), isolated),
        float32=Rounding(float32.loss, float32.norm, max(float32.gradient.values())),
        tolerance=TOLERANCE,
        step_ms=_median_ms(lambda: step.gradient(batches[0], 1.0)),
        evaluate_ms=_median_ms(lambda: step.session.evaluate(parameters, batches[0].x, batches[0].y)),
        checks=_checks_in_words(step.manifest.batch_size),
        versions={"onnxruntime": onnxruntime.__version__, "torch": torch.__version__},
    )


def _errors(compared: Comparison, isolated: Sequence[_Isolation]) -> Errors:
    return Errors(
        loss=compared.loss,
        norm=compared.norm,
        gradient=max(compared.gradient.values()),
        independence=max(found.independence for found in isolated),
        removal=max(found.removal for found in isolated),
    )


def _compare(step: _Step, batch: Batch, reference: Reference, max_grad_norm: float) -> Comparison:
    """Compare with all examples in use, and with the masked ones masked."""
    return worst_of([_compare_masked(step, case, reference, max_grad_norm) for case in (batch.unmasked(), batch)])


def _compare_masked(step: _Step, batch: Batch, reference: Reference, max_grad_norm: float) -> Comparison:
    gradient_sum, loss_sum, norms = step.gradient(batch, max_grad_norm)
    losses, _ = step.session.evaluate(step.parameters, batch.x, batch.y, batch.mask)
    expected = reference.losses * batch.mask
    return Comparison(
        loss=relative(np.append(losses, loss_sum), np.append(expected, expected.sum())),
        norm=relative(norms, reference.norms() * batch.mask),
        gradient=gradient_errors(step.manifest, gradient_sum, reference, reference.factors(batch.mask, max_grad_norm)),
    )


def _check_comparison(ours: Comparison, float32: Comparison) -> None:
    for name, error in reversed(ours.gradient.items()):
        if not error <= (allowed := _allowed(float32.gradient[name])):
            raise CertificateError(
                f"the compiled gradient of {name!r} differs from torch by {error:.2g} (relative), above {allowed:.2g}, "
                "and is the first that does from the loss backwards; replace that layer or the one behind it, and "
                "report it with its architecture"
            )
    _check("loss", ours.loss, _allowed(float32.loss))
    _check("norm", ours.norm, _allowed(float32.norm))


def _check_isolation(isolated: Sequence[_Isolation]) -> None:
    for found in isolated:
        _check("independence", found.independence, TOLERANCE)
        _check("removal", found.removal, TOLERANCE)


def _half_the_median(norms: Inputs) -> float:
    return float(np.median(norms)) / 2 or 1.0


def _allowed(rounding: float) -> float:
    return max(TOLERANCE, FLOAT32_ALLOWANCE * rounding)


def _check(name: str, error: float, allowed: float) -> None:
    if not error <= allowed:  # a NaN is not
        raise CertificateError(f"the compiled step's {name} error is {error:.2g}, above {allowed:.2g}")


def _isolate(step: _Step, batch: Batch, other: Batch) -> _Isolation:
    """Remove the last example and replace it: what it does to the sum and to the others' norms."""
    everybody = batch.unmasked()
    _, _, norms = step.gradient(everybody)
    clip = _half_the_median(norms)
    mask = everybody.mask.copy()
    mask[-1] = 0
    moved = step.gradient(everybody, clip)[0].astype(np.float64) - step.gradient(replace(batch, mask=mask), clip)[0]
    x, y = batch.x.copy(), batch.y.copy()
    x[-1], y[-1] = other.x[-1] * 10, other.y[-1]
    _, _, changed = step.gradient(Batch(x, y, everybody.mask))
    return _Isolation(
        independence=relative(changed[:-1], norms[:-1].astype(np.float64)),
        removal=float(np.linalg.norm(moved)) / clip - 1,
    )


def _check_finite(artifact: Artifact, parameters: Vector, batch: Batch) -> None:
    """Run the bare graph on huge inputs: a session would mask an example that is not finite, and so hide it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    graph = onnxruntime.InferenceSession(artifact.gradient, options, providers=["CPUExecutionProvider"])
    inputs = {
        "parameters": parameters,
        "x": batch.x * np.float32(EXTREME_SCALE),
        "y": batch.y,
        "mask": np.ones_like(batch.mask),
        "max_grad_norm": np.array(1.0, np.float32),
        "segment_weight": np.ones(len(artifact.manifest.segments), np.float32),
    }
    if not all(np.isfinite(output).all() for output in graph.run(["gradient_sum", "norms"], inputs)):
        raise CertificateError(f"the step is not finite on inputs scaled by {EXTREME_SCALE:g}; add a normalisation")


def _checks_in_words(batch_size: int) -> tuple[str, ...]:
    compared = "loss, norms, clipped sum of each parameter against torch in float64"
    batches = f"{NUM_BATCHES} batches of {batch_size}, all and about 70% unmasked"
    return (
        f"{batches}, clip at half the median norm and none: {compared}",
        "replacing one example changes no other's norm, masking one moves the sum by at most the clip norm",
        f"finite on inputs scaled by {EXTREME_SCALE:g}, and with masked examples of zeros",
    )


def _median_ms(work: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1e3)
    return round(statistics.median(times), 4)
