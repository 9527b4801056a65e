"""Which values of the flat vector move under an assignment's terms: those alone are released."""

from collections.abc import Collection
from math import prod

import numpy as np

from device_runtime.arrays import Indices, Vector
from device_runtime.specs import Manifest
from device_runtime.terms import ARCHITECTURE, Moves

Positions = slice | Indices  # what picks values out of a flat vector


class SegmentError(ValueError):
    """The network lacks what is to move."""


def moving_segments(manifest: Manifest, moves: Moves) -> tuple[str, ...]:
    """The segments that move, in the manifest's order; raises `SegmentError`."""
    if moves in {"architecture", "alternate"} and ARCHITECTURE not in manifest.segments:
        raise SegmentError(
            f"moves = {moves!r} needs a network with architecture weights, this one has the segments "
            f"{', '.join(manifest.segments)}; train a supernet, or move 'all'"
        )
    if moves == "architecture":
        return (ARCHITECTURE,)
    return tuple(name for name in manifest.segments if moves != "weights" or name != ARCHITECTURE)


def num_moving(manifest: Manifest, moves: Moves) -> int:
    """Values that an update holds; raises `SegmentError`."""
    sizes = manifest.segment_sizes
    return sum(sizes[name] for name in moving_segments(manifest, moves))


def positions_of(manifest: Manifest, segments: Collection[str]) -> Positions:
    """Where the values of some segments lie, in layout order; a slice where they lie side by side."""
    sizes = [prod(entry.shape) for entry in manifest.layout]
    found = np.flatnonzero(np.repeat([entry.segment in segments for entry in manifest.layout], sizes))
    if len(found) and found[-1] - found[0] + 1 == len(found):
        return slice(int(found[0]), int(found[-1]) + 1)  # nothing has to be copied
    return found


def segment_weight(manifest: Manifest, segments: Collection[str]) -> Vector | None:
    """What the gradient graph takes for a step on some segments, f32[S] of 0/1; None for a step on all."""
    if set(segments) >= set(manifest.segments):
        return None
    return np.array([name in segments for name in manifest.segments], np.float32)
