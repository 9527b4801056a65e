"""An assignment with all that it names, and a client's examples for it: checked before any work and any charge."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from device_runtime.arrays import Flags, Indices, Inputs, Labels, Vector
from device_runtime.segments import moving_segments
from device_runtime.session import StepSession, check_examples, check_form, is_valid_row
from device_runtime.specs import Manifest
from device_runtime.terms import EvaluateTerms, Split, TrainTerms

Terms = TypeVar("Terms", TrainTerms, EvaluateTerms)


class TooFewExamplesError(ValueError):
    """The client holds too few examples for the assignment; raised before any work, from the public count alone."""


@dataclass(frozen=True)
class LoadedAssignment(Generic[Terms]):
    """What one assignment works with, downloaded and checked.

    Attributes:
        parameters: f32[P], as received.
    """

    session: StepSession
    parameters: Vector = field(repr=False)
    terms: Terms

    def __post_init__(self) -> None:
        manifest = self.session.manifest
        if self.parameters.shape != (manifest.num_parameters,) or self.parameters.dtype != np.float32:
            raise ValueError(
                f"parameters must be float32 [{manifest.num_parameters}], "
                f"got {self.parameters.dtype} {list(self.parameters.shape)}"
            )
        if isinstance(self.terms, TrainTerms):
            moving_segments(manifest, self.terms.moves)


@dataclass(frozen=True)
class Examples:
    """One split of a client's examples: x [n, *shape] (or [n] rows with a field an input), y i64[n] or f32[n, K]."""

    x: Inputs = field(repr=False)
    y: Labels = field(repr=False)

    def __len__(self) -> int:
        return len(self.x)


def check_trainable(assignment: LoadedAssignment[Terms], examples: Mapping[Split, Examples]) -> None:
    """Refuse, before any work, an empty split that the terms read, or examples of another specification.

    In private work types and shapes alone decide, which are public: what depends on a value is no error there.
    """
    check = check_examples if assignment.terms.privacy is None else check_form
    for split in assignment.terms.splits:
        if len(examples[split]) < 1:
            raise TooFewExamplesError(
                f"this client has 0 examples in its {split} split, which the assignment asks for, at least 1 is "
                "needed; collect more or leave it out of the cohort"
            )
        check(assignment.session.manifest, examples[split].x, examples[split].y)


def take_records(manifest: Manifest, examples: Examples, rows: Indices | Flags) -> tuple[Inputs, Labels, Flags]:
    """Some examples' x and y, and which are valid, bool[m]; the others are null records."""
    x, y = examples.x[rows], examples.y[rows]
    return x, y, is_valid_row(manifest, x, y)
