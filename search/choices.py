"""Options by field: draw a record's fields, count and combine them, and change one at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from math import prod
from typing import Any, TypeVar

import numpy as np

R = TypeVar("R")
T = TypeVar("T")
Choices = dict[str, tuple[Any, ...]]  # options by the name of the field that takes one of them
Change = Callable[[np.random.Generator], R]  # draws one of the ways to change something in one place


def check_choices(choices: Choices) -> None:
    """Refuse a field without options or with one listed twice.

    Raises:
        ValueError: Naming the field.
    """
    for name, options in choices.items():
        if not options:
            raise ValueError(f"{name} needs at least one option, got none")
        if len(set(options)) != len(options):
            raise ValueError(f"{name} must list each option once, got {list(options)}")


def pick(options: Sequence[T], rng: np.random.Generator) -> T:
    """Draw one option, every one alike."""
    return options[int(rng.integers(len(options)))]


def draw_fields(choices: Choices, rng: np.random.Generator) -> dict[str, Any]:
    """Draw an option for every field."""
    return {name: pick(options, rng) for name, options in choices.items()}


def combine(choices: Choices) -> Iterator[dict[str, Any]]:
    """Every combination of options."""
    return (dict(zip(choices, options, strict=True)) for options in product(*choices.values()))


def count(choices: Choices) -> int:
    """Number of combinations."""
    return prod(map(len, choices.values()))


def is_chosen_from(record: Any, choices: Choices) -> bool:
    """Whether each field named in `choices` holds one of its options."""
    fields = vars(record)
    return all(fields[name] in options for name, options in choices.items())


def other_options(record: Any, choices: Choices) -> Choices:
    """The options that the record does not hold."""
    fields = vars(record)
    return {name: tuple(option for option in options if option != fields[name]) for name, options in choices.items()}


def next_options(record: Any, choices: Choices) -> Choices:
    """The next smaller and the next larger option of each field, among numbers."""
    return {name: _beside(vars(record)[name], options) for name, options in choices.items()}


def field_changes(record: R, others: Choices) -> list[Change[R]]:
    """One change for each field that has another option; `others` has them by field."""
    return [partial(_change_field, record, name, options) for name, options in others.items() if options]


def lift(changes: Iterable[Change[R]], put: Callable[[R], T]) -> list[Change[T]]:
    """Changes of a whole from changes of its part, which `put` puts in place."""
    return [partial(_change_part, change, put) for change in changes]


def _change_field(record: Any, name: str, options: tuple[Any, ...], rng: np.random.Generator) -> Any:
    return replace(record, **{name: pick(options, rng)})


def _change_part(change: Change[R], put: Callable[[R], T], rng: np.random.Generator) -> T:
    return put(change(rng))


def _beside(value: Any, options: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(options) == 1:
        return ()  # it may be None, which has no order
    ordered = sorted(options)
    place = ordered.index(value)
    return tuple(ordered[i] for i in (place - 1, place + 1) if 0 <= i < len(ordered))
