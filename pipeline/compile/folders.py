"""An artifact's folder: written beside its place and moved there whole, so that nobody ever reads half of one."""

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from device_runtime.specs import Manifest
from pipeline.compile.builder import CompileError
from profiles.records import RecordError, decode_record

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
CLASSIC_FILES = ("checkpoint", "eval_model.onnx", "optimizer_model.onnx", "training_model.onnx")


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write into; it takes the place of `folder` once everything is written.

    Raises:
        CompileError: When `folder` holds something that is no artifact, or is the current one.
        OSError: When it cannot be written; in any case `folder` is then as it was.
    """
    folder = folder.resolve()
    _check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".compiling-") as temporary:
        built = Path(temporary) / "artifact"
        built.mkdir()
        yield built
        _replace(built, folder)


def remove_folder(folder: Path) -> None:
    """Take a folder away at once, whoever else may read or remove it."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".removed-") as temporary, suppress(FileNotFoundError):
        folder.rename(Path(temporary) / "artifact")


def _check_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    if folder == Path.cwd():
        raise CompileError(f"{folder} is the current folder, which is replaced whole; name a new folder in it")
    if others := _foreign(folder):
        what = ", ".join(others[:5])
        raise CompileError(f"{folder} holds {what}, which is no part of an artifact; name an empty or a new folder")


def _foreign(folder: Path) -> list[str]:
    """What would be lost if an artifact took the folder's place."""
    if not folder.is_dir():
        return ["a file"]
    found = sorted(path.name for path in folder.iterdir())
    others = [name for name in found if name not in FILES]
    classic = folder / "ort_training"
    if classic.is_dir():
        others += sorted(f"ort_training/{path.name}" for path in classic.iterdir() if path.name not in CLASSIC_FILES)
    if found and not others:
        try:
            decode_record(Manifest, (folder / "manifest.json").read_bytes())
        except (OSError, RecordError):
            # Names like ours, and nothing says that they are.
            return found
    return others


def _replace(built: Path, folder: Path) -> None:
    # Another process may compile the same thing into the same place: the same bytes, so whoever comes last wins.
    for attempt in count():
        old = built.with_name(f"replaced-{attempt}")
        with suppress(FileNotFoundError):
            folder.rename(old)
        try:
            built.rename(folder)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                with suppress(FileNotFoundError):
                    old.rename(folder)
                raise
        else:
            return
