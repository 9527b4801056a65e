"""Write a command's result to the file that its user names, and never over something that it does not replace."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from device_runtime.durable_files import write_durably
from profiles.records import decode_record, encode_record

_PAGE_HEAD = 4096  # bytes: the title comes before the styles
_PAGE_TITLE = b": handheld profile</title>"


class OutputFileError(ValueError):
    """The file that a command is to write is one that it reads, or holds what the command does not replace."""


def check_record_output(output: Path, cls: type, reads: Iterable[Path] = ()) -> None:
    """Refuse to write a record of `cls` over anything but an older one; to be called before the work.

    Args:
        reads: Files that the command reads; those that are not there are no matter.

    Raises:
        OutputFileError: Naming the file and the cure.
    """
    _check_unread(output, reads, "-o")
    if output.exists() and not _holds_record(output, cls):
        raise OutputFileError(
            f"{output} exists and holds no {cls.__name__}: it is not replaced; give another name with -o"
        )


def check_page_output(output: Path, reads: Iterable[Path] = ()) -> None:
    """Likewise for a profile's page, of which the option is `--html`.

    Raises:
        OutputFileError: Naming the file and the cure.
    """
    _check_unread(output, reads, "--html")
    if output.exists() and not _holds_page(output):
        raise OutputFileError(
            f"{output} exists and is no page of a profile: it is not replaced; give another name with --html"
        )


def write_record(output: Path, record: Any) -> bytes:
    """Write a record in canonical bytes, which are returned; its folder is made, an older file replaced at once."""
    data = encode_record(record)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_durably(output.resolve(), data)  # a link stays one
    return data


def _check_unread(output: Path, reads: Iterable[Path], option: str) -> None:
    if output.exists() and any(path.exists() and path.samefile(output) for path in reads):
        raise OutputFileError(f"{output} is read by this command: give another name with {option}")


def _holds_record(path: Path, cls: type) -> bool:
    if not path.is_file():  # a folder, or a device as /dev/null, in whose place a file would be put
        return False
    try:
        decode_record(cls, path.read_bytes())
    except (OSError, ValueError):
        return False
    return True


def _holds_page(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(_PAGE_HEAD).lower()
    except OSError:
        return False
    return head.lstrip().startswith(b"<!doctype html") and _PAGE_TITLE in head
