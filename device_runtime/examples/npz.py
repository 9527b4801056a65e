"""`npz:FILE`: numpy arrays `x`, `y` and, where examples have owners, `client`."""

from dataclasses import replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from device_runtime.arrays import Inputs, Labels
from device_runtime.examples.memory import ArraySource
from device_runtime.examples.source import SourceError, SpecOverrides, Wanted
from device_runtime.specs import Colour, ExampleSpec

COLOURS: dict[int, Colour] = {1: "grey", 3: "rgb"}


def open_npz(path: Path, wanted: Wanted = SpecOverrides()) -> ArraySource:  # noqa: B008  (frozen)
    """Read a file that `numpy.savez` wrote; the arrays stay in memory.

    x is [n, channels, height, width], [n, height, width] (one channel) or [n, features]; uint8 is scaled to 0..1, other
    numbers are taken as they are. y holds class indices from 0, or class names.

    Raises:
        SourceError: Names the key, the shape or the label that does not fit, and the cure.
    """
    arrays = _load(path)
    x = arrays["x"]
    if x.ndim == 3:
        x = x[:, None]
    labels, y = _labels(path, arrays["y"], wanted)
    clients = arrays.get("client")
    spec = wanted if isinstance(wanted, ExampleSpec) else _guess_spec(path, x, labels, wanted)
    if spec.resize or spec.crop:
        raise SourceError(f"{path}: resize and crop apply to images:DIR; store x in its final size")
    if x.dtype.kind not in ("iu" if spec.dtype == "int64" else "fiu"):
        raise SourceError(f"{path}: x must hold numbers that {spec.dtype} can hold, got {x.dtype}")
    return ArraySource(x, y, spec, None if clients is None else [str(client) for client in clients])


def _load(path: Path) -> dict[str, NDArray[np.generic]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("x", "y", "client") if name in file}
            found = list(file)
    except (OSError, BadZipFile, EOFError, ValueError, TypeError) as error:
        raise SourceError(f"{path} cannot be read: {error}; write it with numpy.savez(path, x=..., y=...)") from error
    missing = [name for name in ("x", "y") if name not in arrays]
    if missing:
        raise SourceError(f"{path} lacks {' and '.join(missing)}, it has {', '.join(found) or 'nothing'}; save x and y")
    return arrays


def _labels(path: Path, y: NDArray[np.generic], wanted: Wanted) -> tuple[tuple[str, ...], Labels]:
    """Class names, and the index of each example's class."""
    if y.dtype.kind in "iu":
        labels = tuple(map(str, range(int(y.max(initial=0)) + 1)))
        names, indices = np.unique(y).astype(str), y.astype(np.int64)
    elif y.dtype.kind in "US":
        names, indices = np.unique(y.astype(str), return_inverse=True)
        labels = tuple(map(str, names))
    else:
        raise SourceError(f"{path}: y must hold class indices (integers) or class names (strings), got {y.dtype}")
    if isinstance(wanted, ExampleSpec):
        return wanted.labels, indices if y.dtype.kind in "iu" else _known(path, names, indices, wanted.labels)
    if len(names) < 2:
        raise SourceError(f"{path}: y has {len(names)} class ({', '.join(names)}); a classifier needs two: add another")
    return labels, indices


def _known(path: Path, names: NDArray[np.str_], indices: Labels, labels: tuple[str, ...]) -> Labels:
    """Indices into a manifest's labels, of which a client may hold a few only."""
    unknown = sorted(set(map(str, names)) - set(labels))
    if unknown:
        raise SourceError(f"{path}: y has the class {unknown[0]!r}; the network knows {', '.join(labels)}")
    return np.array([labels.index(str(name)) for name in names], np.int64)[indices]


def _guess_spec(path: Path, x: Inputs, labels: tuple[str, ...], wanted: SpecOverrides) -> ExampleSpec:
    shape = x.shape[1:]
    if not shape or 0 in shape:
        raise SourceError(f"{path}: x must be [n, channels, height, width] or [n, features], got {list(x.shape)}")
    if len(shape) == 3 and shape[0] not in COLOURS and shape[2] in COLOURS:
        raise SourceError(f"{path}: x {list(x.shape)} looks channels last; store numpy.transpose(x, (0, 3, 1, 2))")
    spec = ExampleSpec(tuple(shape), labels, colour=COLOURS.get(shape[0], "none") if len(shape) == 3 else "none")
    return wanted.apply(replace(spec, scale=1 / 255) if x.dtype == np.uint8 else spec)
