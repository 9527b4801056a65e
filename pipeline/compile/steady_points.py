"""Choose the examples on which a step can be compared in float32: where torch's own float32 is near its float64.

An activation within rounding of its kink (ReLU, a tie in a max pool) falls to one side in one order of summation and to
the other side in another, and moves the example's gradient by as much as a wrong rule would; a normalisation that
divides by almost nothing magnifies rounding. No tolerance tells such an example from a wrong step, so it is set
aside, on torch's word alone, and another is drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from device_runtime.arrays import Flags, Floats, Vector
from pipeline.compile.builder import CompileError
from pipeline.compile.comparison import example_errors, first_above, relative_each, sum_errors
from pipeline.compile.reference import Batch, Reference, Sampler, TorchStep, draw_batch, draw_mask, map_inputs

TOLERANCE = 1e-4
LIMIT = TOLERANCE / 10  # how near torch's float32 has to be
# Set aside before a network is given up: this many, or so many for each example of a batch where that is more.
MOST_SET_ASIDE = 20
MOST_SET_ASIDE_EACH = 4
# A step that is off all the same may have met a kink that torch's float32 missed: then torch leaves float64 at one of
# so many points within rounding, 4 units in the last place of parameters and inputs.
_NUM_MOVES = 32
_MOVE = 2.0**-22


class CertificateError(CompileError):
    """The compiled step does not compute what torch does; the message names the first layer that disagrees."""


@dataclass(frozen=True)
class Point:
    """A batch, the truth about it in float64, and how far each example of torch's float32 is from that, [B]."""

    batch: Batch
    truth: Reference
    float32: Floats


@dataclass
class SteadyPoints:
    """Draws batches of steady examples at fixed parameters, and counts the others.

    Attributes:
        num_steady: Examples on which torch's own float32 was near float64.
        num_unsteady: Examples set aside as torch's own float32 was off.
        num_failed: Examples set aside after the step was off, as torch's float32 is next to them.
    """

    double: TorchStep
    single: TorchStep
    parameters: Vector
    sample: Sampler
    rng: np.random.Generator
    num_steady: int = 0
    num_unsteady: int = 0
    num_failed: int = 0

    def draw(self) -> Point:
        """A batch of steady examples.

        Raises:
            CertificateError: Too few are; names the first layer at which torch's float32 is off.
        """
        return self._filled([])

    def redraw(self, point: Point, norms: Vector) -> Point | None:
        """The batch, on which the step failed, without the examples next to which torch's float32 fails.

        Args:
            norms: The step's own [B], unclipped; they tell which examples it got wrong, where they do not all agree.

        Returns:
            None where torch finds nothing, or not every example whose norm is wrong: then the step is.
        """
        errors = relative_each(norms, point.truth.norms)
        # An example that alone explains the failure, or one that could, or any: a NaN is above all of them.
        is_suspect = next(found for limit in (TOLERANCE, LIMIT, -1) if (found := ~(errors <= limit)).any())
        is_unsteady = is_suspect.copy()
        is_unsteady[is_suspect] = ~self._is_steady_around(_taken(point, is_suspect))
        if not is_unsteady.any() or (~(errors <= TOLERANCE) & ~is_unsteady).any():
            return None
        self.num_failed += int(is_unsteady.sum())
        return self._filled([_taken(point, ~is_unsteady)])

    def _filled(self, parts: list[Point]) -> Point:
        size = self.double.manifest.batch_size
        while missing := size - sum(len(part.batch.y) for part in parts):
            parts = [*parts, self._draw_steady(missing)]
        joined = _joined(parts)
        return replace(joined, batch=replace(joined.batch, mask=draw_mask(size, self.rng)))

    def _draw_steady(self, num_examples: int) -> Point:
        """So many examples, without the unsteady ones."""
        batch = draw_batch(self.double.manifest, self.sample, self.rng, num_examples)
        truth, single = (step.reference(self.parameters, batch) for step in (self.double, self.single))
        float32 = example_errors(single, truth)
        is_steady = float32 <= LIMIT
        self.num_steady += int(is_steady.sum())
        self.num_unsteady += int((~is_steady).sum())
        most = max(MOST_SET_ASIDE, MOST_SET_ASIDE_EACH * self.double.manifest.batch_size)
        if self.num_unsteady + self.num_failed > most:
            raise self._given_up(single.taken(~is_steady), truth.taken(~is_steady))
        return _taken(Point(batch, truth, float32), is_steady)

    def _is_steady_around(self, point: Point) -> Flags:
        is_steady = np.ones(len(point.batch.y), np.bool_)
        for _ in range(_NUM_MOVES):
            rows = _taken(point, is_steady)
            moved = replace(rows.batch, x=map_inputs(rows.batch.x, self._move))
            single = self.single.reference(self._move(self.parameters), moved)
            is_steady[is_steady] = example_errors(single, rows.truth) <= LIMIT
            if not is_steady.any():
                break
        return is_steady

    def _move(self, array: Vector) -> Vector:
        signs = self.rng.choice(np.array([-1.0, 1.0]), array.shape)
        return (array * (1 + _MOVE * signs)).astype(np.float32)

    def _given_up(self, single: Reference, truth: Reference) -> CertificateError:
        everybody = np.ones(len(truth.losses))
        _, errors = sum_errors(self.double.manifest, single.gradients.sum(axis=0), truth, everybody)
        name = first_above(errors, LIMIT) or next(reversed(errors))
        num_lost, num_drawn = self.num_unsteady + self.num_failed, self.num_steady + self.num_unsteady
        return CertificateError(
            f"torch's own float32 step leaves float64 by more than {LIMIT:g} (relative) on {num_lost} of {num_drawn} "
            f"examples, so nothing is certified; the gradient of {name!r} is the first from the loss backwards that "
            "does; look behind it for a normalisation over few values"
        )


def _taken(point: Point, kept: Flags) -> Point:
    if kept.all():
        return point
    batch = Batch(point.batch.x[kept], point.batch.y[kept], point.batch.mask[kept])
    return Point(batch, point.truth.taken(kept), point.float32[kept])


def _joined(parts: Sequence[Point]) -> Point:
    if len(parts) == 1:
        return parts[0]
    batches, truths = [part.batch for part in parts], [part.truth for part in parts]
    return Point(
        Batch(*(np.concatenate([getattr(batch, name) for batch in batches]) for name in ("x", "y", "mask"))),
        Reference(*(np.concatenate([getattr(truth, field.name) for truth in truths]) for field in fields(Reference))),
        np.concatenate([part.float32 for part in parts]),
    )
