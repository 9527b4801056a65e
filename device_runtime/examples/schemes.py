"""Open a source by the text a user writes: `images:DIR`, `npz:FILE`."""

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path

from device_runtime.examples.images import open_images
from device_runtime.examples.npz import open_npz
from device_runtime.examples.source import DataSet, SourceError, SpecOverrides, Wanted


def _open_images(path: str, wanted: Wanted) -> DataSet:
    return open_images(Path(path).expanduser(), wanted)


def _open_npz(path: str, wanted: Wanted) -> DataSet:
    return open_npz(Path(path).expanduser(), wanted)


Opener = Callable[[str, Wanted], DataSet]
# By scheme: what opens it, and how it is written.
SCHEMES: Mapping[str, tuple[Opener, str]] = {
    "images": (_open_images, "images:DIR"),
    "npz": (_open_npz, "npz:FILE"),
}


def open_source(
    text: str,
    wanted: Wanted = SpecOverrides(),  # noqa: B008  (frozen)
    schemes: Mapping[str, tuple[Opener, str]] = SCHEMES,
) -> DataSet:
    """Open the data set that `text` names.

    Args:
        text: `SCHEME:PATH`, or `SCHEME` alone where no path is needed.
        wanted: A manifest's specification to read by, or what to set in place of guesses.
        schemes: What can be opened here; the server side adds its own.

    Raises:
        SourceError: An unknown scheme, or what the source itself finds wrong.
    """
    scheme, _, path = text.partition(":")
    known = ", ".join(form for _, form in schemes.values())
    if scheme not in schemes:
        near = difflib.get_close_matches(scheme, schemes, 1)
        cure = f"did you mean {schemes[near[0]][1]}?" if near else f"write one of {known}"
        raise SourceError(f"data source {text!r} has the unknown scheme {scheme!r}: {cure}")
    opener, form = schemes[scheme]
    if bool(path) != (":" in form):
        raise SourceError(f"data source {text!r} must be written {form}")
    return opener(path, wanted)
