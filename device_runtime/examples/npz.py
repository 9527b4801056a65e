"""`npz:FILE`: numpy arrays `x` (or several `x.NAME`), `y` and, where examples have owners, `client`."""

import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from device_runtime.arrays import Inputs, Labels
from device_runtime.examples.memory import ArraySource
from device_runtime.examples.source import SourceError, SpecOverrides, Wanted
from device_runtime.specs import Colour, DType, ExampleSpec, InputSpec, Target

COLOURS: dict[int, Colour] = {1: "grey", 3: "rgb"}
PREFIX = "x."  # of the inputs where there are several
MAX_CLASSES = 100_000  # a class index above is a mistake, for which no names are made
Arrays = Mapping[str, NDArray[np.generic]]
# What zipfile and numpy raise over a file that is none of theirs, is damaged or claims a size that nothing has.
_DAMAGE = (OSError, BadZipFile, EOFError, ValueError, TypeError, MemoryError, OverflowError, RuntimeError, zlib.error)


def open_npz(path: Path, wanted: Wanted = SpecOverrides()) -> ArraySource:  # noqa: B008  (frozen)
    """Read a file that `numpy.savez` wrote; the arrays stay in memory.

    x is [n, channels, height, width], [n, height, width] (one channel) or [n, features]; uint8 is scaled to 0..1, rows
    of other whole numbers are ids (int64), everything else is taken as it is (float32). Two or more arrays `x.NAME`
    [n, ...] in place of x are several inputs, taken as they are: whole numbers as int64. y holds class indices from 0,
    class names, or values [n, K] (K >= 1), named by `labels` [K] or 0 to K - 1.

    Args:
        wanted: A manifest's specification, which decides all this, or what to set in place of guesses.

    Raises:
        SourceError: Names the key, the shape or the label that does not fit, and the cure.
    """
    arrays = _load(path)
    if "x" in arrays and arrays["x"].ndim == 3:
        arrays["x"] = arrays["x"][:, None]
    target, labels, y = _target(path, arrays, wanted)
    try:
        spec = wanted if isinstance(wanted, ExampleSpec) else wanted.apply(_guess_spec(path, arrays, labels, target))
    except SourceError:
        raise
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from error
    if spec.resize or spec.crop:
        raise SourceError(f"{path}: resize and crop apply to images:DIR; store x in its final size")
    clients = arrays.get("client")
    if clients is not None and clients.ndim != 1:
        raise SourceError(f"{path}: client must name an owner for each example, [n], got shape {list(clients.shape)}")
    return ArraySource(
        _x(path, arrays, spec), y, spec, None if clients is None else [str(client) for client in clients]
    )


def _load(path: Path) -> dict[str, NDArray[np.generic]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = list(file)
            wanted = [name for name in found if name in {"x", "y", "client", "labels"} or name.startswith(PREFIX)]
            arrays = {name: _array(name, file[name]) for name in wanted}
    except _DAMAGE as error:
        raise SourceError(f"{path} cannot be read: {error}; write it with numpy.savez(path, x=..., y=...)") from error
    inputs = [name for name in found if name.startswith(PREFIX)]
    missing = [name for name in ("x", "y") if name not in arrays and not (name == "x" and inputs)]
    if missing:
        raise SourceError(f"{path} lacks {' and '.join(missing)}, it has {', '.join(found) or 'nothing'}; save x and y")
    if "x" in arrays and inputs:
        raise SourceError(f"{path} has x beside {', '.join(inputs)}; save one x, or every input as x.NAME")
    return arrays


def _array(name: str, found: object) -> NDArray[np.generic]:
    if not isinstance(found, np.ndarray):
        raise ValueError(f"{name} is no array")  # noqa: TRY004  (of a file's content)
    return found


def _target(path: Path, arrays: Arrays, wanted: Wanted) -> tuple[Target, tuple[str, ...], Labels]:
    """What y is, names of the classes or values, and y itself: class indices [n] or values [n, K]."""
    y = arrays["y"]
    target: Target = "values" if y.ndim == 2 else "class"
    if isinstance(wanted, ExampleSpec) and wanted.target != target:
        needed = "class indices or names, [n]" if target == "values" else f"values, [n, {len(wanted.labels)}]"
        raise SourceError(f"{path}: the network wants y to hold {needed}, got {y.dtype} of shape {list(y.shape)}")
    if target == "class":
        return (target, *_classes(path, y, wanted))
    if y.dtype.kind not in "fiub":
        raise SourceError(f"{path}: y of shape {list(y.shape)} must hold numbers, got {y.dtype}")
    if isinstance(wanted, ExampleSpec):
        return target, wanted.labels, y
    named = arrays.get("labels", np.arange(y.shape[1]))
    if named.shape != y.shape[1:] or not len(named):
        raise SourceError(f"{path}: labels must name each of {y.shape[1]} values of y, got shape {list(named.shape)}")
    return target, tuple(map(str, named)), y


def _classes(path: Path, y: NDArray[np.generic], wanted: Wanted) -> tuple[tuple[str, ...], Labels]:
    """Class names, and the index of each example's class."""
    if y.dtype.kind in "iu":
        return _numbered(path, y, wanted)
    if y.dtype.kind not in "US":
        raise SourceError(
            f"{path}: y must hold class indices (integers) or class names (strings), got {y.dtype}; values to predict "
            "are [n, K]: store y[:, None] for one"
        )
    names, indices = np.unique(y.astype(str), return_inverse=True)
    if isinstance(wanted, ExampleSpec):
        return wanted.labels, _known(path, names, indices, wanted.labels)
    _check_several(path, names)
    return tuple(map(str, names)), indices


def _numbered(path: Path, y: NDArray[np.generic], wanted: Wanted) -> tuple[tuple[str, ...], Labels]:
    smallest, largest = int(y.min(initial=0)), int(y.max(initial=0))
    if smallest < 0:
        raise SourceError(f"{path}: labels must be >= 0, got {smallest}; renumber y from 0")
    end = len(wanted.labels) if isinstance(wanted, ExampleSpec) else MAX_CLASSES
    if largest >= end:
        raise SourceError(f"{path}: labels must be below {end}, got {largest}; correct it, or renumber y from 0")
    if isinstance(wanted, ExampleSpec):
        return wanted.labels, y.astype(np.int64)
    _check_several(path, np.unique(y).astype(str))
    return tuple(map(str, range(largest + 1))), y.astype(np.int64)


def _check_several(path: Path, names: NDArray[np.str_]) -> None:
    if len(names) < 2:
        raise SourceError(f"{path}: y has {len(names)} class ({', '.join(names)}); a classifier needs two: add another")


def _known(path: Path, names: NDArray[np.str_], indices: Labels, labels: tuple[str, ...]) -> Labels:
    """Indices into a manifest's labels, of which a client may hold a few only."""
    unknown = sorted(set(map(str, names)) - set(labels))
    if unknown:
        raise SourceError(f"{path}: y has the class {unknown[0]!r}; the network knows {', '.join(labels)}")
    return np.array([labels.index(str(name)) for name in names], np.int64)[indices]


def _guess_spec(path: Path, arrays: Arrays, labels: tuple[str, ...], target: Target) -> ExampleSpec:
    if "x" not in arrays:
        inputs = {name: array for name, array in arrays.items() if name.startswith(PREFIX)}
        specs = [InputSpec(name.removeprefix(PREFIX), x.shape[1:], _dtype(x)) for name, x in inputs.items()]
        return ExampleSpec((), labels, inputs=tuple(specs), target=target)
    x = arrays["x"]
    shape = x.shape[1:]
    if not shape or 0 in shape:
        raise SourceError(f"{path}: x must be [n, channels, height, width] or [n, features], got {list(x.shape)}")
    if len(shape) == 3 and shape[0] not in COLOURS and shape[2] in COLOURS:
        raise SourceError(f"{path}: x {list(x.shape)} looks channels last; store numpy.transpose(x, (0, 3, 1, 2))")
    spec = ExampleSpec(
        shape, labels, colour=COLOURS.get(shape[0], "none") if len(shape) == 3 else "none", target=target
    )
    if x.dtype == np.uint8:
        return replace(spec, scale=1 / 255)
    return replace(spec, dtype=_dtype(x)) if len(shape) == 1 else spec


def _dtype(x: NDArray[np.generic]) -> DType:
    return "int64" if x.dtype.kind in "iu" else "float32"


def _x(path: Path, arrays: Arrays, spec: ExampleSpec) -> Inputs:
    """Raw x, or several inputs as one array of rows."""
    names = [PREFIX + one.name for one in spec.inputs] or ["x"]
    found = [name for name in arrays if name == "x" or name.startswith(PREFIX)]
    if set(found) != set(names):
        raise SourceError(f"{path} has {', '.join(found)}, the network takes {', '.join(names)}; save exactly these")
    if not spec.inputs:
        return _numbers(path, "x", arrays["x"], spec.dtype)
    rows = np.zeros(len(arrays["y"]), spec.row_dtype())
    for one in spec.inputs:
        values = _numbers(path, PREFIX + one.name, arrays[PREFIX + one.name], one.dtype)
        if values.shape != (len(rows), *one.shape):
            raise SourceError(
                f"{path}: x.{one.name} must be {[len(rows), *one.shape]}, a row for each of {len(rows)} y, got "
                f"{list(values.shape)}"
            )
        rows[one.name] = values
    return rows


def _numbers(path: Path, name: str, x: NDArray[np.generic], dtype: DType) -> Inputs:
    if x.dtype.kind not in ("iu" if dtype == "int64" else "fiu"):
        raise SourceError(f"{path}: {name} must hold numbers that {dtype} can hold, got {x.dtype}")
    if dtype == "int64" and x.dtype.kind == "u" and int(x.max(initial=0)) > np.iinfo(np.int64).max:
        raise SourceError(f"{path}: {name} must hold whole numbers below 2^63, got {x.max()}")
    return x
