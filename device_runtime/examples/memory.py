"""Examples that lie in memory as arrays: the source behind npz files and small data sets."""

from collections.abc import Sequence

import numpy as np

from device_runtime.arrays import Inputs, Labels
from device_runtime.examples.source import SourceError, check_channels, normalize
from device_runtime.specs import ExampleSpec


class ArraySource:
    """Raw arrays x [n, *spec.shape] and y [n]; an example's id is its index, so new examples go to the end."""

    def __init__(self, x: Inputs, y: Labels, spec: ExampleSpec, clients: Sequence[str] | None = None) -> None:
        check_arrays(x, y, spec, clients)
        self._x, self._y, self._spec = x, y.astype(np.int64), check_channels(spec)
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
        return self._y.copy()

    def clients(self) -> dict[str, str] | None:
        return self._clients

    def _index(self, example_id: str) -> int:
        if not example_id.isdecimal() or int(example_id) >= len(self._ids):
            raise SourceError(f"there is no example {example_id!r}; ids run from 0 to {len(self._ids) - 1}")
        return int(example_id)


def check_arrays(x: Inputs, y: Labels, spec: ExampleSpec, clients: Sequence[str] | None) -> None:
    """Refuse arrays of different lengths, another shape than the specification's, labels outside it, or one class."""
    if x.shape[1:] != spec.shape:
        raise SourceError(
            f"x must be {['n', *spec.shape]}, channels first, got {list(x.shape)}; reshape or transpose it"
        )
    if y.shape != (len(x),):
        raise SourceError(f"y must hold one label for each of {len(x)} examples in x, got shape {list(y.shape)}")
    if clients is not None and len(clients) != len(x):
        raise SourceError(f"client must name an owner for each of {len(x)} examples in x, got {len(clients)}")
    if len(x) == 0:
        raise SourceError("x is empty; a data set needs at least one example of each of two classes")
    if y.min() < 0 or y.max() >= len(spec.labels):
        raise SourceError(f"labels must be 0 to {len(spec.labels) - 1}, got {y.min()} to {y.max()}; renumber y from 0")
