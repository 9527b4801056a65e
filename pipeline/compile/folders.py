"""An artifact's folder: written beside its place and moved there whole, so that nobody ever reads half of one."""

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from pipeline.compile.builder import CompileError

# `frozen.safetensors` and `ort_training` are there where an artifact has something to put into them.
FILES = (
    "manifest.json",
    "gradient.onnx",
    "evaluate.onnx",
    "certificate.json",
    "parameters.safetensors",
    "frozen.safetensors",
    "ort_training",
)


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write into; it takes the place of `folder` once everything is written.

    Raises:
        CompileError: When `folder` holds something that is no artifact; it is then untouched.
    """
    _check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".compiling-") as temporary:
        built = Path(temporary) / "artifact"
        built.mkdir()
        yield built
        _replace(built, folder)


def _check_replaceable(folder: Path) -> None:
    others = sorted(path.name for path in folder.iterdir() if path.name not in FILES) if folder.is_dir() else []
    if others or (folder.exists() and not folder.is_dir()):
        what = ", ".join(others[:5]) or "a file"
        raise CompileError(f"{folder} holds {what}, which is no part of an artifact; name an empty or a new folder")


def _replace(built: Path, folder: Path) -> None:
    # Another process may compile the same thing into the same place: the same bytes, so whoever comes last wins.
    for attempt in count():
        with suppress(FileNotFoundError):
            folder.rename(built.with_name(f"replaced-{attempt}"))
        try:
            built.rename(folder)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
        else:
            return
