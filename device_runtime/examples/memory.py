"""Examples that lie in memory as arrays: the source behind npz files and small data sets."""

from collections.abc import Sequence

import numpy as np

from device_runtime.arrays import Inputs, Labels
from device_runtime.examples.source import SourceError, check_channels, normalize
from device_runtime.specs import ExampleSpec


class ArraySource:
    """Raw arrays x [n, *spec.shape], or [n] rows with a field an input, and y [n] or [n, K].

    An example's id is its index, so new examples go to the end.
    """

    def __init__(self, x: Inputs, y: Labels, spec: ExampleSpec, clients: Sequence[str] | None = None) -> None:
        check_arrays(x, y, spec, clients)
        self._x, self._spec = x, check_channels(spec)
        self._y = y.astype(np.int64 if spec.target == "class" else np.float32)
        self._ids = tuple(map(str, range(len(x))))
        self._clients = None if clients is None else dict(zip(self._ids, clients, strict=True))

    @property
    def spec(self) -> ExampleSpec:
        return self._spec

    def ids(self) -> tuple[str, ...]:
        return self._ids

    def get(self, ids: Sequence[str]) -> tuple[Inputs, Labels]:
        indices = np.array([self._index(example_id) for example_id in ids], np.int64)
        return normalize(self._x[indices], self._spec), self._y[indices]

    def class_indices(self) -> Labels:
        if self._spec.target != "class":
            raise SourceError(
                "y holds values, not classes, so there are none to deal by: set partition to iid, or to file with an "
                "owner for each example"
            )
        return self._y.copy()

    def clients(self) -> dict[str, str] | None:
        return self._clients

    def _index(self, example_id: str) -> int:
        if not example_id.isdecimal() or int(example_id) >= len(self._ids):
            raise SourceError(f"there is no example {example_id!r}; ids run from 0 to {len(self._ids) - 1}")
        return int(example_id)


def check_arrays(x: Inputs, y: Labels, spec: ExampleSpec, clients: Sequence[str] | None) -> None:
    """Refuse arrays of different lengths, of another shape than the specification's, or labels outside it."""
    if spec.inputs and x.dtype != spec.row_dtype():
        raise SourceError(
            f"x must be rows of {spec.row_dtype()}, got {x.dtype}; make it with the specification's row_dtype"
        )
    if x.shape[1:] != spec.shape:
        raise SourceError(
            f"x must be {['n', *spec.shape]}, channels first, got {list(x.shape)}; reshape or transpose it"
        )
    if clients is not None and len(clients) != len(x):
        raise SourceError(f"client must name an owner for each of {len(x)} examples in x, got {len(clients)}")
    _check_labels(y, len(x), spec)


def _check_labels(y: Labels, num_examples: int, spec: ExampleSpec) -> None:
    shape = [num_examples] if spec.target == "class" else [num_examples, len(spec.labels)]
    if list(y.shape) != shape:
        what = "one label" if spec.target == "class" else f"{len(spec.labels)} values"
        raise SourceError(f"y must hold {what} for each of {num_examples} examples in x, got shape {list(y.shape)}")
    if num_examples == 0:
        raise SourceError("x is empty; a data set needs at least one example")
    if spec.target == "values" and not (np.abs(y) <= np.finfo(np.float32).max).all():
        raise SourceError("y must be finite in float32, it has values that are not; leave such examples out")
    if spec.target == "class" and (y.min() < 0 or y.max() >= len(spec.labels)):
        raise SourceError(f"labels must be 0 to {len(spec.labels) - 1}, got {y.min()} to {y.max()}; renumber y from 0")
