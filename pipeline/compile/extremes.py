"""Check what a step makes of extreme examples: huge ones, ones far from zero, zeros, and none."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from device_runtime.arrays import Flags, Inputs
from device_runtime.terms import BOUNDS
from pipeline.compile.comparison import relative
from pipeline.compile.compiled_step import CompiledStep
from pipeline.compile.reference import Batch, TorchStep, map_inputs
from pipeline.compile.steady_points import TOLERANCE, CertificateError

EXTREME_SCALE = 1e4
OFFSETS = (1e2, 1e4)  # added to inputs: what all positions have in common then hides how they differ
FLAT, FLAT_LEVEL = (162.0, 0.003), 162  # a common part and how far values leave it; a level of 8-bit pixels
MOST_ALONE = 4  # examples of a batch that are clipped by themselves
_SMALLEST_CLIP = BOUNDS[0]  # no private terms ask for less, and squares of less vanish in float32
FINITE = "finite"
LEFT_OUT = "left out: their gradients are not finite or exceed float32 in torch too"
LARGEST_NORM = float(np.sqrt(np.finfo(np.float32).max))  # a larger one's square is not finite


def check_huge(step: CompiledStep, batch: Batch) -> None:
    """Raises CertificateError where inputs scaled by `EXTREME_SCALE` give something that is not finite."""
    huge = map_inputs(batch.x, lambda x: x * np.float32(EXTREME_SCALE))
    outputs = step.bare_outputs(replace(batch.unmasked(), x=huge))
    if lost := [name for name, output in outputs.items() if not np.isfinite(output).all()]:
        raise CertificateError(
            f"the step's {', '.join(lost)} are not finite on inputs scaled by {EXTREME_SCALE:g}; add a normalisation"
        )


def check_clip(step: CompiledStep, batch: Batch) -> None:
    """Raises CertificateError where one example alone, far from zero, gives a sum above its clip norm."""
    moved = list(_far_from_zero(batch.x[:MOST_ALONE]))
    few = np.tile(np.arange(len(moved[0])), len(moved))
    far = Batch(np.concatenate(moved), batch.y[few], np.ones(len(few), np.float32))
    for index, norm in enumerate(step.gradient(far)[2]):
        alone = Batch(*(rows[index : index + 1] for rows in (far.x, far.y, far.mask)))
        clip = max(float(norm) / 2, _SMALLEST_CLIP)
        length = float(np.linalg.norm(step.gradient(alone, clip)[0].astype(np.float64)))
        if not length <= clip * (1 + TOLERANCE):
            raise CertificateError(
                f"one example alone, far from zero, gives a sum of norm {length:.6g} at clip norm {clip:.6g}: its "
                "norm is less than that of what is summed; report it with its network"
            )


def check_all_masked(step: CompiledStep, batch: Batch, zero_inputs: str) -> None:
    """Check that a batch without an example gives exact zeros, whatever its rows hold.

    Args:
        zero_inputs: What `check_zeros` said: rows of zeros that are left out anyway decide nothing, since a session
            puts none in a masked row's place.

    Raises:
        CertificateError: It does not.
    """
    for x in (batch.x, *([map_inputs(batch.x, np.zeros_like)] if zero_inputs == FINITE else [])):
        outputs = step.bare_outputs(replace(batch, x=x, mask=np.zeros_like(batch.mask)))
        if lost := [name for name, output in outputs.items() if output.any()]:  # a NaN is true
            raise CertificateError(f"the step's {', '.join(lost)} are not exactly zero when all examples are masked")


def check_zeros(step: CompiledStep, single: TorchStep, batch: Batch) -> str:
    """What the step makes of examples of zeros, and of the id 0 where a table has it: `FINITE` or `LEFT_OUT`.

    At x = 0 a stack of normalisations multiplies the gradient by up to 1 / sqrt(epsilon) each, soon beyond float32 in
    torch too; attention that leaves out the padding 0 has nothing to attend to. Such an example counts as not there,
    and must not touch the rest of its batch.

    Raises:
        CertificateError: Not finite where torch's float32 is, or the rest of the batch is touched.
    """
    zeros = replace(batch.unmasked(), x=_zeros(batch.x, single.manifest.num_ids))
    outputs = step.bare_outputs(zeros)
    if all(np.isfinite(output).all() for output in outputs.values()):
        return FINITE
    is_lost = ~np.isfinite(outputs["norms"])
    if not is_lost.any() or (single.reference(step.parameters, zeros).norms[is_lost] < LARGEST_NORM).any():
        raise CertificateError(
            "the step is not finite on inputs of zeros, where torch in float32 is; in forward, add a small number "
            "under a root (also that of std) and to a divisor, as in sqrt(variance + 1e-5)"
        )
    _check_left_out(step, batch, zeros, is_lost)
    return LEFT_OUT


def _zeros(x: Inputs, num_ids: Collection[str]) -> Inputs:
    zeros = map_inputs(x, np.zeros_like)
    for name in num_ids:  # `x`, or `x.NAME` of several inputs
        part = zeros if zeros.dtype.names is None else zeros[name.removeprefix("x.")]
        part[...] = 0
    return zeros


def _far_from_zero(x: Inputs) -> Iterator[Inputs]:
    """Scaled; moved, everything alike or each value of the last axis by another number; nearly constant.

    Where all positions hold nearly the same, sums over them cancel.
    """
    yield map_inputs(x, lambda value: value * np.float32(EXTREME_SCALE))
    for offset in OFFSETS:
        yield map_inputs(x, partial(_moved, by=offset))
        yield map_inputs(x, partial(_moved, by=offset, rng=np.random.default_rng(0)))
    common, spread = map(np.float32, FLAT)
    yield map_inputs(x, lambda value: common + spread * value)
    yield map_inputs(x, lambda value: (FLAT_LEVEL + np.rint(value / 3)) / np.float32(255))


def _moved(x: Inputs, by: float, rng: np.random.Generator | None = None) -> Inputs:
    sizes: Inputs = np.ones((), np.float32)
    if rng is not None and x.ndim > 1:
        sizes = rng.standard_normal(x.shape[-1:], np.float32)
    return np.asarray(x + np.float32(by) * sizes)


def _check_left_out(step: CompiledStep, batch: Batch, zeros: Batch, is_lost: Flags) -> None:
    """Put zeros where the mask is 0: the sum must be that of the examples that are not lost."""
    x = batch.x.copy()
    x[batch.mask == 0] = zeros.x[batch.mask == 0]
    kept = np.where((batch.mask == 0) & is_lost, 0, 1).astype(np.float32)
    found = step.gradient(replace(batch.unmasked(), x=x), 1.0)[0]
    wanted = step.gradient(replace(batch, x=x, mask=kept), 1.0)[0].astype(np.float64)
    if not (error := relative(found, wanted)) <= TOLERANCE:
        raise CertificateError(f"examples of zeros, which are not finite, change the sum of the others by {error:.2g}")
