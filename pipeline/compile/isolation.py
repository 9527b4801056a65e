"""Check that each example stays on its own: what removing or replacing one does to the sum and to the others."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from device_runtime.arrays import Floats, Inputs, Vector
from pipeline.compile.comparison import worst_relative
from pipeline.compile.compiled_step import CompiledStep
from pipeline.compile.reference import Batch, map_inputs
from pipeline.compile.steady_points import TOLERANCE, CertificateError

REPLACED_SCALE = 10  # of the example that takes another's place: an outlier


@dataclass(frozen=True)
class Isolation:
    """What one example did to the rest.

    Attributes:
        independence: Largest relative change of another example's norm, loss or metric when one is replaced.
        replacement: How far at most the clipped sum then moved beyond twice `max_grad_norm`, relative to that; at or
            below 0 up to rounding.
        removal: The same of `max_grad_norm` when one was masked.
    """

    independence: float
    replacement: float
    removal: float


@dataclass(frozen=True)
class _Undisturbed:
    """All examples in use: their clipped sum, and norms, losses and metrics [3, B]."""

    batch: Batch
    clip: float
    total: Vector
    each: Floats


def isolate(step: CompiledStep, batch: Batch, other: Batch) -> Isolation:
    """Remove and replace the first and the last example: all of it, and each of its inputs alone.

    Raises:
        CertificateError: One example does more to the rest than a clip allows.
    """
    everybody = batch.unmasked()
    clip = half_the_median(step.gradient(everybody)[2])
    total, _, norms = step.gradient(everybody, clip)
    each = np.stack([norms, *step.evaluate(everybody)]).astype(np.float64)
    undisturbed = _Undisturbed(everybody, clip, total, each)
    ends = dict.fromkeys((0, len(batch.y) - 1))
    found = worst_isolation([_isolate_one(step, undisturbed, other, index) for index in ends])
    _check(found)
    return found


def worst_isolation(found: Sequence[Isolation]) -> Isolation:
    """Each one's largest value; NaN where there is one."""
    return Isolation(
        independence=float(np.max([one.independence for one in found])),
        replacement=float(np.max([one.replacement for one in found])),
        removal=float(np.max([one.removal for one in found])),
    )


def half_the_median(norms: Inputs) -> float:
    """A clip norm that most examples exceed; 1 where they have no gradient."""
    return float(np.median(norms)) / 2 or 1.0


def _isolate_one(step: CompiledStep, before: _Undisturbed, other: Batch, index: int) -> Isolation:
    mask = before.batch.mask.copy()
    mask[index] = 0
    without = step.gradient(replace(before.batch, mask=mask), before.clip)[0]
    others = np.arange(len(mask)) != index
    independence, moved = [0.0], [0.0]
    for changed in _replacements(before.batch, other, index):
        total, _, norms = step.gradient(changed, before.clip)
        for found, expected in zip((norms, *step.evaluate(changed)), before.each, strict=True):
            independence.append(worst_relative(found[others], expected[others]))
        moved.append(_distance(total, before.total))
    return Isolation(
        independence=float(np.max(independence)),
        replacement=float(np.max(moved)) / (2 * before.clip) - 1,
        removal=_distance(before.total, without) / before.clip - 1,
    )


def _replacements(batch: Batch, other: Batch, index: int) -> Iterator[Batch]:
    x, y = batch.x.copy(), batch.y.copy()
    x[index], y[index] = map_inputs(other.x, lambda value: value * np.float32(REPLACED_SCALE))[index], other.y[index]
    yield replace(batch, x=x, y=y)
    for name in batch.x.dtype.names or ():
        part = batch.x.copy()
        part[name][index] = x[name][index]
        yield replace(batch, x=part)


def _distance(found: Inputs, other: Inputs) -> float:
    return float(np.linalg.norm(found.astype(np.float64) - other))


def _check(found: Isolation) -> None:
    for name, error in vars(found).items():
        if not error <= TOLERANCE:  # a NaN is not
            raise CertificateError(
                f"the compiled step's {name} error is {error:.2g}, above {TOLERANCE:g}: one example does more to the "
                "rest of its batch than a clip allows; report it with its network"
            )
