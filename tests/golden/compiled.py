"""What the compiler makes of a golden case, and how far a runtime's outputs are from the golden ones."""

from math import prod
from pathlib import Path

import numpy as np
import torch

from device_runtime.artifact import Artifact
from pipeline.compile.artifact import compile_artifact
from tests.golden.make import Tensors
from tests.golden.networks import BATCH, SEGMENTS, Case

TOLERANCE = 1e-4
SMALLEST_SHARE = 1e-2  # a parameter's part of the sum is compared with at least this share of the whole


def compile_case(case: Case, folder: Path) -> Artifact:
    """The artifact of a golden case in a new folder."""
    batch = {name: torch.from_numpy(value) for name, value in case.draw_examples().items() if name != "y"}
    one = {name.removeprefix("x."): value[0] for name, value in batch.items()}
    example = one["x"] if list(one) == ["x"] else one
    return compile_artifact(
        case.module(), example, case.num_outputs, folder, batch_size=BATCH, loss=case.loss, segments=SEGMENTS
    )


def largest_difference(case: Case, found: Tensors, expected: Tensors) -> float:
    """L2 distance of an output, or of one parameter in the sum, relative to what was expected; NaN where one is."""
    distances = [_relative(found[name], value, 0.0) for name, value in expected.items()]
    floor = SMALLEST_SHARE * float(np.linalg.norm(expected["gradient_sum"]))
    start = 0
    for shape in case.layout(case.module()).values():
        part = slice(start, start := start + prod(shape))
        distances.append(_relative(found["gradient_sum"][part], expected["gradient_sum"][part], floor))
    return float(np.max(distances))


def _relative(found: np.ndarray, expected: np.ndarray, floor: float) -> float:
    if found.shape != expected.shape:
        raise ValueError(f"expected shape {expected.shape}, got {found.shape}")
    distance = float(np.linalg.norm(found - expected))
    return distance / max(float(np.linalg.norm(expected)), floor) if distance else 0.0
