"""What every source of examples offers, and one client's share of a source."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from device_runtime.arrays import Inputs, Labels
from device_runtime.specs import Colour, ExampleSpec


class SourceError(ValueError):
    """A data set cannot be used as it is; the message names the place and the cure."""


class ExampleSource(Protocol):
    """Labelled examples, each with an id that stays its own when others come and go."""

    @property
    def spec(self) -> ExampleSpec:
        """What x and y mean."""
        ...

    def ids(self) -> tuple[str, ...]:
        """Every example's id, each once and always in the same order."""
        ...

    def get(self, ids: Sequence[str]) -> tuple[Inputs, Labels]:
        """Read x and y for these ids, in their order.

        x is [n] of `spec.row_dtype()`, y i64[n] class indices or f32[n, K] values, as `spec.target` says. Raises
        SourceError where an example cannot be read; private work takes such a one as a null record (`get_or_null`).
        """
        ...


class DataSet(ExampleSource, Protocol):
    """A source with what it takes to deal it out to emulated clients."""

    def class_indices(self) -> Labels:
        """Class index i64[n] of each of `ids()`, without decoding any x; raises SourceError where y is no class."""
        ...

    def clients(self) -> dict[str, str] | None:
        """The owner of each example by id; None where the data names no clients."""
        ...


@runtime_checkable
class PresplitSource(Protocol):
    """A source whose author has set examples apart for testing."""

    def test_ids(self) -> frozenset[str] | None:
        """The ids set apart; None for no such choice."""
        ...


@dataclass(frozen=True)
class SpecOverrides:
    """What a user says about raw data in place of what would be guessed from it; None for the guess."""

    colour: Colour | None = None
    resize: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None
    version: str | None = None

    def apply(self, spec: ExampleSpec) -> ExampleSpec:
        """The guessed specification with what the user said in its place; shape and labels follow from the data."""
        return replace(spec, **{name: value for name, value in asdict(self).items() if value is not None})


# How to read raw data: exactly as a manifest says, or guessed from the data with some things said by the user.
Wanted = ExampleSpec | SpecOverrides


class SpecMismatchError(SourceError):
    """A source's examples do not mean what the network was compiled for."""


def check_spec(found: ExampleSpec, wanted: ExampleSpec) -> None:
    """Refuse a source whose specification differs from a manifest's in anything; raises `SpecMismatchError`."""
    ours, theirs = asdict(found), asdict(wanted)
    differing = [
        f"{name} is {value!r}, the network wants {theirs[name]!r}"
        for name, value in ours.items()
        if value != theirs[name]
    ]
    if differing:
        raise SpecMismatchError(
            f"{'; '.join(differing)}: open the source with the manifest's spec, or compile for this one"
        )


class ClientSource:
    """A view of some of a source's examples: one client's share, itself a source."""

    def __init__(self, source: ExampleSource, ids: Iterable[str]) -> None:
        self._source = source
        self._share = frozenset(ids)
        self._ids = tuple(example_id for example_id in source.ids() if example_id in self._share)
        unknown = self._share - frozenset(self._ids)
        if unknown:
            raise SourceError(f"the source has no example {min(unknown)!r} ({len(unknown)} unknown ids)")

    @property
    def spec(self) -> ExampleSpec:
        return self._source.spec

    def ids(self) -> tuple[str, ...]:
        return self._ids

    def get(self, ids: Sequence[str]) -> tuple[Inputs, Labels]:
        foreign = set(ids) - self._share
        if foreign:
            raise SourceError(f"example {min(foreign)!r} belongs to another client")
        return self._source.get(ids)

    def test_ids(self) -> frozenset[str] | None:
        given = given_test_ids(self._source)
        return None if given is None else given & self._share


def get_or_null(source: ExampleSource, ids: Sequence[str]) -> tuple[Inputs, Labels]:
    """Like `source.get`, for private work: an example that cannot be read gives a row that no network takes.

    An error would tell of one example, before anything is charged and as often as somebody asks. What is raised over it
    depends on its bytes, so any error counts, and so does a row of another type or shape than the specification's.
    """
    try:
        return source.get(ids)
    except Exception:  # noqa: BLE001  (any would tell)
        rows = [_row_or_null(source, example_id) for example_id in ids]
    return np.concatenate([x for x, _ in rows]), np.concatenate([y for _, y in rows])


def _row_or_null(source: ExampleSource, example_id: str) -> tuple[Inputs, Labels]:
    null_x, null_y = _null_row(source.spec)
    try:
        x, y = source.get([example_id])
    except Exception:  # noqa: BLE001  (any would tell)
        return null_x, null_y
    is_as_specified = (x.dtype, x.shape, y.dtype, y.shape) == (null_x.dtype, null_x.shape, null_y.dtype, null_y.shape)
    return (x, y) if is_as_specified else (null_x, null_y)


def _null_row(spec: ExampleSpec) -> tuple[Inputs, Labels]:
    """One row whose y is no class and no value: whole numbers in x have none that is no number."""
    x: Inputs = np.zeros(1, spec.row_dtype())
    if spec.target == "class":
        return x, np.full(1, -1, np.int64)
    return x, np.full((1, len(spec.labels)), np.nan, np.float32)


def given_test_ids(source: ExampleSource) -> frozenset[str] | None:
    """The ids that the data's author set apart for testing, None where nobody did."""
    return source.test_ids() if isinstance(source, PresplitSource) else None


def normalize(raw: Inputs, spec: ExampleSpec) -> Inputs:
    """(raw * scale - mean) / deviation, [n, *shape]; mean and deviation run along the first axis of one example.

    Whole numbers and several inputs are taken as they are.
    """
    if spec.inputs:
        return raw.astype(spec.row_dtype())
    if spec.dtype == "int64":
        return raw.astype(np.int64)
    per_channel = (-1, *[1] * (len(spec.shape) - 1))
    mean, deviation = (np.array(values, np.float32).reshape(per_channel) for values in (spec.mean, spec.deviation))
    normalized: Inputs = (raw.astype(np.float32) * np.float32(spec.scale) - mean) / deviation
    return normalized


def check_channels(spec: ExampleSpec) -> ExampleSpec:
    """Refuse means or deviations for another number of channels; gives the specification back."""
    for name, values in (("mean", spec.mean), ("deviation", spec.deviation)):
        if len(values) not in {1, *spec.shape[:1]}:
            raise SourceError(f"{name} must have 1 value or one for each of {spec.shape[0]} channels, got {values}")
    return spec
