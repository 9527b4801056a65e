"""How far a step is off: relative errors against the reference, the gradient's parameter by parameter."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from device_runtime.arrays import Floats, Inputs, Vector
from device_runtime.specs import Manifest
from pipeline.compile.reference import Reference, row_norms

# A parameter's error is relative to its own gradient, or to this share of the clipped norms that were summed: examples
# may cancel, and a bias in front of a normalisation always does; what float32 leaves of them is no error.
SMALLEST_PART = 0.1
SMALLEST_EXAMPLE = 1e-2  # the same of an example's loss and norm, as a share of the batch's largest
SMALLEST_SEGMENT = 1e-2  # the same of a segment alone, as a share of the whole gradient: such a bias may be all of it


@dataclass(frozen=True)
class Comparison:
    """Relative errors of a step.

    Attributes:
        loss, norm: Of the worst example.
        metric: The same, as a distance.
        gradient_sum: Of the clipped sum.
        gradient: Of each parameter's part of it.
    """

    loss: float
    norm: float
    metric: float
    gradient_sum: float
    gradient: dict[str, float]


def example_errors(found: Reference, reference: Reference) -> Floats:
    """Relative error of each example's loss and gradient, or the distance of its metric: the largest, [B]."""
    gradients, losses = row_errors(found.gradients, reference.gradients), relative_each(found.losses, reference.losses)
    return np.asarray(np.max([gradients, losses, np.abs(found.metrics - reference.metrics)], axis=0))


def row_errors(found: Inputs, expected: Floats) -> Floats:
    """Each row's L2 distance relative to what was expected, or to a share of the largest row, [B] of [B, n]."""
    return _over(row_norms(found - expected), row_norms(expected))


def sum_errors(
    manifest: Manifest, found: Inputs, reference: Reference, factors: Floats, whole: Floats | None = None
) -> tuple[float, dict[str, float]]:
    """Error of a sum f32[P] of gradients times factors [B], and of each parameter's part of it.

    Args:
        whole: Norms [B] of the gradients over all segments, where `reference` is of one; None where it is of all.
    """
    expected = factors @ reference.gradients
    floor = SMALLEST_PART * float(factors @ reference.norms)
    if whole is not None:
        floor = max(floor, SMALLEST_SEGMENT * float(factors @ whole))
    parts = {name: relative(found[part], expected[part], floor) for name, part in _parts(manifest).items()}
    return relative(found, expected, floor), parts


def worst_of(found: Sequence[Comparison]) -> Comparison:
    """Each error's largest value; NaN where there is one."""
    return Comparison(
        loss=float(np.max([one.loss for one in found])),
        metric=float(np.max([one.metric for one in found])),
        norm=float(np.max([one.norm for one in found])),
        gradient_sum=float(np.max([one.gradient_sum for one in found])),
        gradient={name: float(np.max([one.gradient[name] for one in found])) for name in found[0].gradient},
    )


def first_above(errors: dict[str, float], limit: float) -> str | None:
    """The first parameter from the loss backwards whose error is above the limit, or NaN."""
    return next((name for name, error in reversed(errors.items()) if not error <= limit), None)


def wrong_in_norms(manifest: Manifest, found: Vector, reference: Reference, mask: Vector) -> str:
    """The parameter that explains wrong norms [B] best, were its share of each squared norm off by one factor."""
    gap = found.astype(np.float64) ** 2 - (reference.norms * mask) ** 2
    unexplained = {}
    for name, part in _parts(manifest).items():
        share = mask * (reference.gradients[:, part] ** 2).sum(axis=1)
        scale = float(share @ gap) / max(float(share @ share), 1e-300)
        unexplained[name] = float(np.linalg.norm(gap - scale * share))
    return min(reversed(unexplained), key=unexplained.__getitem__)


def relative(found: Inputs, expected: Floats, floor: float = 0.0) -> float:
    """L2 distance relative to the L2 norm of what was expected, or to `floor` where that is more."""
    return _length(found - expected) / max(_length(expected), floor, 1e-12)


def worst_relative(found: Inputs, expected: Floats, floor: float = 0.0) -> float:
    """Largest distance of a number relative to what was expected, to a share of the largest of them, or to `floor`."""
    return float(relative_each(found, expected, floor).max(initial=0.0))


def relative_each(found: Inputs, expected: Floats, floor: float = 0.0) -> Floats:
    """Each number's distance relative to what was expected, to a share of the largest of them, or to `floor`."""
    return _over(np.abs(found - expected), np.abs(expected), floor)


def _over(differences: Floats, sizes: Floats, floor: float = 0.0) -> Floats:
    floor = max(SMALLEST_EXAMPLE * float(sizes.max(initial=0.0)), floor, 1e-12)
    return np.asarray(differences / np.maximum(sizes, floor))


def _length(values: Inputs) -> float:
    """L2 norm; the linear algebra library's would start a thread for each parameter, and cost more than the sum."""
    return float(np.sqrt(np.square(values, dtype=np.float64).sum()))


def _parts(manifest: Manifest) -> dict[str, slice]:
    return {entry.name: slice(entry.offset, entry.offset + prod(entry.shape)) for entry in manifest.layout}
