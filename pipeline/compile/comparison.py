"""How far a step is off: relative errors against the reference, the gradient's parameter by parameter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from device_runtime.arrays import Floats, Inputs
from device_runtime.specs import Manifest
from pipeline.compile.reference import Reference

# A parameter's error is relative to its own gradient, or to this share of the clipped norms that were summed: examples
# may cancel, and what float32 leaves of them is no error.
SMALLEST_SHARE = 1e-2


@dataclass(frozen=True)
class Comparison:
    """Relative errors of a step; those of the summed gradient by parameter."""

    loss: float
    norm: float
    gradient: dict[str, float]


def errors_of_float32(manifest: Manifest, single: Reference, reference: Reference) -> Comparison:
    """What torch's float32 does to the loss, the norms and the unclipped sum."""
    everybody = np.ones(len(reference.losses))
    return Comparison(
        loss=relative(single.losses, reference.losses),
        norm=relative(single.norms(), reference.norms()),
        gradient=gradient_errors(manifest, single.gradients.sum(axis=0), reference, everybody),
    )


def gradient_errors(manifest: Manifest, found: Inputs, reference: Reference, factors: Floats) -> dict[str, float]:
    """Error of each parameter's part of a sum f32[P] of gradients times factors [B]."""
    expected = factors @ reference.gradients
    floor = SMALLEST_SHARE * float(factors @ reference.norms())
    parts = {entry.name: slice(entry.offset, entry.offset + prod(entry.shape)) for entry in manifest.layout}
    return {name: relative(found[part], expected[part], floor) for name, part in parts.items()}


def median_of(found: Sequence[Comparison]) -> Comparison:
    """Each error's median."""
    return _combine(np.median, found)


def worst_of(found: Sequence[Comparison]) -> Comparison:
    """Each error's largest value; NaN where there is one."""
    return _combine(np.max, found)


def relative(found: Inputs, expected: Floats, floor: float = 0.0) -> float:
    """L2 distance relative to the L2 norm of what was expected, or to `floor` where that is more."""
    return float(np.linalg.norm(found - expected)) / max(float(np.linalg.norm(expected)), floor, 1e-12)


def _combine(combine: Callable[[list[float]], np.floating[Any]], found: Sequence[Comparison]) -> Comparison:
    return Comparison(
        loss=float(combine([one.loss for one in found])),
        norm=float(combine([one.norm for one in found])),
        gradient={name: float(combine([one.gradient[name] for one in found])) for name in found[0].gradient},
    )
