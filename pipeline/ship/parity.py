"""Compare the written files with the trained model: no bundle leaves with a file that says something else."""

import importlib.metadata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from device_runtime.arrays import Inputs, Vector
from pipeline.ship.exporters import EXPORTERS
from pipeline.ship.network import TrainedNetwork, exact_outputs

TOLERANCE = 1e-4
RULE = "max_relative, the largest |found - expected| / max(1, |expected|), is at most the tolerance"


class ParityError(RuntimeError):
    """A written file does not compute what the trained model computes."""


@dataclass(frozen=True)
class ParityRow:
    """One output of one file on one set of inputs.

    Attributes:
        max_absolute: Largest |found - expected|.
        max_relative: Largest |found - expected| / max(1, |expected|).
    """

    file: str
    runtime: str
    inputs: str
    output: str
    num_examples: int
    max_absolute: float
    max_relative: float


@dataclass(frozen=True)
class Parity:
    """`parity.json`.

    Attributes:
        reference: What the files were compared with.
    """

    reference: str
    tolerance: float
    rule: str
    rows: tuple[ParityRow, ...]
    schema: int = 1

    def of_file(self, file: str) -> float:
        """The file's largest `max_relative`."""
        return max(row.max_relative for row in self.rows if row.file == file)


def measure_parity(folder: Path, network: TrainedNetwork, inputs: Mapping[str, Inputs]) -> Parity:
    """Run every model file in `folder` on every set of inputs.

    Args:
        inputs: f32[n, *shape] by name of the set.

    Raises:
        ParityError: A file differs by more than the tolerance, or says what is no number.
    """
    reference = f"the trained torch module in double precision, torch {importlib.metadata.version('torch')}"
    parity = Parity(reference, TOLERANCE, RULE, tuple(_rows(folder, network, inputs)))
    for row in parity.rows:
        if not row.max_relative <= TOLERANCE:  # NaN is above everything
            raise ParityError(
                f"{row.file} on {row.runtime} differs from the trained model by {row.max_relative:.1e} ({row.output} "
                f"of the {row.inputs} inputs), more than {TOLERANCE:g}; nothing was shipped: install the versions in "
                "constraints.txt and ship again, or report it with the run's architecture"
            )
    return parity


def _rows(folder: Path, network: TrainedNetwork, inputs: Mapping[str, Inputs]) -> Iterator[ParityRow]:
    for name, x in inputs.items():
        expected = exact_outputs(network, x).by_name()
        for file, exporter in EXPORTERS.items():
            found = exporter.run(folder / file, x).by_name()
            for output, values in expected.items():
                largest = _largest_differences(found[output], values)
                yield ParityRow(file, exporter.runtime_and_version(), name, output, len(x), *largest)


def _largest_differences(found: Vector, expected: Vector) -> tuple[float, float]:
    if found.shape != expected.shape:
        return float("inf"), float("inf")
    with np.errstate(invalid="ignore"):
        absolute = np.abs(found - expected)
        relative = absolute / np.maximum(1.0, np.abs(expected))
    return float(absolute.max()), float(relative.max())
