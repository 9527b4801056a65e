"""The steps of a program while it is written."""

from collections.abc import Sequence
from typing import Any

from search.liveness import FLOAT_BYTES, Shape, Step


class Tape:
    """Owns the steps so far; a value's name is its number."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.shapes: dict[str, Shape] = {}
        self.item_bytes: dict[str, int] = {}
        self.constants: dict[Any, int] = {}

    def op(self, shape: Shape, *reads: str, item_bytes: int = FLOAT_BYTES, **how: Any) -> str:
        """Append an operator with one output; `how` are fields of `Step`."""
        name = self.value(shape, item_bytes)
        self.steps.append(Step(reads, (name,), **how))
        return name

    def split(self, shapes: Sequence[Shape], read: str) -> tuple[str, ...]:
        """Append an operator that cuts a value in parts."""
        names = tuple(self.value(shape) for shape in shapes)
        self.steps.append(Step((read,), names))
        return names

    def value(self, shape: Shape, item_bytes: int = FLOAT_BYTES) -> str:
        """A new value."""
        name = str(len(self.shapes))
        self.shapes[name] = shape
        if item_bytes != FLOAT_BYTES:
            self.item_bytes[name] = item_bytes
        return name
