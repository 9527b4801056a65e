"""Read `run.toml`: every error is one line that names the file, the table and the cure."""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline.run_checks import broken_rules
from pipeline.run_sections import RunFile
from pipeline.search_sections import ALGORITHMS
from pipeline.section import Section
from profiles.spelling import cure_of

Place = tuple[int | str, ...]


class RunFileError(ValueError):
    """A run file that cannot be used.

    Attributes:
        lines: One readable line for each error.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("\n".join(self.lines))


def read_run_file(path: Path) -> RunFile:
    """Read and check a run file.

    Raises:
        RunFileError: With all errors of the first kind found: unreadable, not TOML, wrong keys or values, keys at odds.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RunFileError([f"{path} cannot be read: {reason}"]) from error
    return parse_run_file(text, str(path))


def parse_run_file(text: str, name: str = "run.toml") -> RunFile:
    """Like `read_run_file`, from text; `name` is what errors call it."""
    try:
        run = RunFile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise RunFileError([f"{name} is not TOML: {error}"]) from error
    except ValidationError as error:
        faults = (details for details in error.errors() if not _is_left_over(details))
        raise RunFileError(f"{name}: {_line(details)}" for details in faults) from error
    lines = broken_rules(run)
    if lines:
        raise RunFileError(f"{name}: {line}" for line in lines)
    return run


def _is_left_over(error: ErrorDetails) -> bool:
    """A list whose every option is refused is called too short besides."""
    return error["type"] == "too_short" and bool(error["input"])


def _line(error: ErrorDetails) -> str:
    place = _untagged(error["loc"])
    if error["type"].startswith("union_tag"):
        known = ", ".join(map(repr, ALGORITHMS))
        given = error["input"].get("algorithm") if isinstance(error["input"], dict) else None
        return f"[search] algorithm must be one of {known}" + (f", got {given!r:.60}" if given is not None else "")
    parent, key = place[:-1], str(place[-1])
    if error["type"] == "extra_forbidden":
        return _unknown_key(parent, key, str(error["loc"][1]) if parent else "")
    if error["type"] == "missing":
        if _section_at(place) is not None:
            return f"lacks the table {_table(place)}"
        return f"{_table(parent)} lacks {key}"
    if error["type"] == "interval":
        return f"{_position(place)} must {error['msg']}"
    rule = "list at least one option" if error["type"] == "too_short" else error["msg"]
    rule = rule.removeprefix("Input should ").removeprefix("String should ")
    return f"{_position(place)} must {rule}, got {error['input']!r:.60}"


def _unknown_key(parent: Place, key: str, algorithm: str) -> str:
    section = _section_at(parent, algorithm)
    known = list(section.model_fields) if section else []
    where = f"{_table(parent)} has an unknown key {key!r}" if parent else f"unknown table [{key}]"
    return f"{where}; {cure_of(key, known)}"


def _position(place: Place) -> str:
    """`[training] learning_rate[1]` for ("training", "learning_rate", 1)."""
    names = [part for part in place if isinstance(part, str)]
    indices = "".join(f"[{part}]" for part in place if isinstance(part, int))
    return f"{_table(tuple(names[:-1]))} {names[-1]}{indices}".strip()


def _table(place: Place) -> str:
    return f"[{'.'.join(str(part) for part in place)}]" if place else ""


def _untagged(place: Place) -> Place:
    """Where an error is in the file: without the algorithm's name that chose the record of [search]."""
    return (place[0], *place[2:]) if len(place) > 1 and place[1] in ALGORITHMS else place


def _section_at(place: Place, algorithm: str = "") -> type[BaseModel] | None:
    """The record that describes the table at `place`; None where a plain value belongs."""
    hint: Any = RunFile
    if place[:1] == ("search",):
        if len(place) > 1 and not algorithm:
            return None
        hint, place = ALGORITHMS.get(algorithm, Section), place[1:]
    for part in place:
        if isinstance(hint, type) and issubclass(hint, BaseModel):
            hint = _without_none(hint.model_fields[str(part)].annotation)
        elif get_origin(hint) is dict:
            hint = get_args(hint)[1]
        else:
            return None
    return hint if isinstance(hint, type) and issubclass(hint, BaseModel) else None


def _without_none(hint: Any) -> Any:
    if isinstance(hint, UnionType):
        return next(option for option in get_args(hint) if option is not type(None))
    return hint
