"""Records as JSON: canonical bytes to hash (RFC 8785), and strict decoding into frozen dataclasses.

Every record of the system (architectures, profiles, manifests, messages) is a frozen standard dataclass.
`encode_record` writes it once, `record_id` names it, and whoever receives bytes hashes those bytes and never writes
them again.
"""

import dataclasses
import hashlib
import json
import math
import types
import typing
from decimal import Decimal
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from profiles.spelling import cure_of

SCHEMA = 1
MAX_INTEGER = 2**53  # beyond it a reader with ECMAScript numbers sees another integer
T = TypeVar("T")
_LATER = "later"


class RecordError(ValueError):
    """A record's bytes do not say what its type asks for; the message names the place and the cure."""


def canonical_json(value: Any) -> bytes:
    """Write plain JSON data in RFC 8785 canonical form (sorted keys, no spaces, ECMAScript numbers).

    Raises:
        RecordError: For NaN, infinity, integers beyond 2**53 or values JSON does not have.
    """
    try:
        return _canonical(value).encode("utf-8")
    except UnicodeEncodeError as error:
        raise RecordError(
            f"a string must be Unicode text, got half a surrogate pair in {error.object!r:.80}"
        ) from error


def later(default: T) -> T:
    """A field that came to a record later: left out of its JSON where it has its default.

    So older records keep their ids, and older readers take what says nothing new.
    """
    return dataclasses.field(default=default, metadata={_LATER: True})


def to_plain(record: Any) -> Any:
    """Turn dataclasses, tuples and dictionaries into plain JSON data, field by field."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        named = ((field, getattr(record, field.name)) for field in dataclasses.fields(record))
        return {
            field.name: to_plain(value)
            for field, value in named
            if not (_LATER in field.metadata and value == field.default)
        }
    if isinstance(record, (list, tuple)):
        return [to_plain(item) for item in record]
    if isinstance(record, dict):
        return {key: to_plain(item) for key, item in record.items()}
    return record


def encode_record(record: Any) -> bytes:
    """Canonical bytes of a dataclass."""
    return canonical_json(to_plain(record))


def record_id(record: Any) -> str:
    """The sha256 (hexadecimal) of a record's canonical bytes."""
    return hashlib.sha256(encode_record(record)).hexdigest()


def decode_record(cls: type[T], data: bytes | str) -> T:
    """Read JSON bytes into the dataclass `cls`; nothing unknown, missing or of another type passes.

    Raises:
        RecordError: With the path of the offending value, the rule and, for a misspelt key, the nearest known one.
    """
    return from_plain(cls, parse_json(data, cls.__name__))


def parse_json(data: bytes | str, what: str) -> Any:
    """Read JSON bytes; without NaN, infinity and keys written twice, which other readers take differently.

    Args:
        what: Name of the value, for messages.

    Raises:
        RecordError: When the bytes are not such JSON.
    """
    try:
        return json.loads(data, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except RecordError as error:
        raise RecordError(f"{what} {error}") from error
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, not UTF-8, or an integer too long to read
        raise RecordError(f"{what} must be JSON: {error}") from error


def from_plain(cls: type[T], value: Any) -> T:
    """Like `decode_record`, from data already parsed."""
    return typing.cast(T, _decode(cls, value, cls.__name__))


def _canonical(value: Any) -> str:
    if value is None or isinstance(value, (bool, str)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise RecordError(f"an integer must be within 2**53 to be the same in every language, got {value}")
        return str(value)
    if isinstance(value, float):
        return _ecmascript_number(value)
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_canonical(item) for item in value) + "]"
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        items = sorted(value.items(), key=lambda item: item[0].encode("utf-16-be"))
        return "{" + ",".join(f"{json.dumps(key, ensure_ascii=False)}:{_canonical(item)}" for key, item in items) + "}"
    raise RecordError(f"JSON has no {type(value).__name__}: {value!r}")


def _ecmascript_number(value: float) -> str:
    # ECMA-262 Number::toString: the shortest digits that read back the same, laid out by exponent.
    if not math.isfinite(value):
        raise RecordError(f"JSON has no {value}; write null for 'none'")
    if value == 0:
        return "0"
    is_negative, decimals, exponent = Decimal(repr(value)).as_tuple()
    written = "".join(map(str, decimals))
    digits = written.rstrip("0")
    point = len(written) + int(exponent)
    sign = "-" if is_negative else ""
    if 0 < point <= 21:
        return sign + (digits.ljust(point, "0") if len(digits) <= point else f"{digits[:point]}.{digits[point:]}")
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{fraction}e{point - 1:+d}"


@cache
def _fields(cls: type) -> dict[str, tuple[Any, bool]]:
    hints = typing.get_type_hints(cls)
    return {
        field.name: (
            hints[field.name],
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(cls)
    }


def _decode(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return _decode_dataclass(typing.cast(type, hint), value, where)
    if origin in (Union, types.UnionType):
        return _decode_union(get_args(hint), value, where)
    if origin is Literal:
        if value not in get_args(hint):
            raise RecordError(f"{where} must be one of {', '.join(map(repr, get_args(hint)))}, got {value!r}")
        return value
    if origin is tuple:
        return _decode_tuple(get_args(hint), value, where)
    if origin is dict or hint is dict:
        _expect(isinstance(value, dict), where, "an object", value)
        inner = get_args(hint)[1] if get_args(hint) else Any
        return {key: _decode(inner, item, f"{where}.{key}") for key, item in value.items()}
    return _decode_scalar(hint, value, where)


def _decode_dataclass(cls: type, value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), where, "an object", value)
    fields = _fields(cls)
    _check_keys(fields, value, where)
    try:
        return cls(**{key: _decode(fields[key][0], item, f"{where}.{key}") for key, item in value.items()})
    except RecordError:
        raise
    except ValueError as error:
        raise RecordError(f"{where}: {error}") from error


def _check_keys(fields: dict[str, tuple[Any, bool]], value: dict[str, Any], where: str) -> None:
    if "schema" in fields and isinstance(value.get("schema"), int) and value["schema"] > SCHEMA:
        # Before anything else: what a newer schema added would look like a misspelt key.
        raise RecordError(
            f"{where}.schema is {value['schema']}, this version reads up to {SCHEMA}: update handheld to read it"
        )
    for key in value:
        if key not in fields:
            raise RecordError(f"{where} has an unknown key {key!r}: {cure_of(key, fields, 'known keys: {known}')}")
    missing = [name for name, (_, required) in fields.items() if required and name not in value]
    if missing:
        raise RecordError(f"{where} lacks {', '.join(missing)}")


def _decode_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    rest = [option for option in options if option is not type(None)]
    if isinstance(value, dict) and all(map(dataclasses.is_dataclass, rest)):
        return _decode(max(rest, key=lambda option: _likeness(option, value)), value, where)
    for option in rest[:-1]:
        try:
            return _decode(option, value, where)
        except RecordError:
            continue
    return _decode(rest[-1], value, where)


def _likeness(cls: type, value: dict[str, Any]) -> int:
    """How well an object's keys are those of a dataclass: what is missing or unknown counts against it."""
    fields = _fields(cls)
    unknown = sum(key not in fields for key in value)
    return -unknown - sum(required and name not in value for name, (_, required) in fields.items())


def _decode_tuple(inner: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    _expect(isinstance(value, (list, tuple)), where, "a list", value)
    if len(inner) == 2 and inner[1] is Ellipsis:
        return tuple(_decode(inner[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    _expect(len(value) == len(inner), where, f"a list of {len(inner)}", value)
    return tuple(_decode(hint, item, f"{where}[{i}]") for i, (hint, item) in enumerate(zip(inner, value, strict=True)))


def _decode_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float:
        _expect(isinstance(value, (int, float)) and not isinstance(value, bool), where, "a number", value)
        _expect(isinstance(value, int) or math.isfinite(value), where, "finite", value)
        _expect(isinstance(value, float) or _is_exact(value), where, "within 2**53 or written as 1e30", value)
        return float(value)
    if hint is int:
        # ECMAScript numbers have one kind: a canonical writer prints 2.0 as 2, and a reader may meet either.
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        _expect(whole and not isinstance(value, bool), where, "a whole number", value)
        _expect(abs(value) <= MAX_INTEGER, where, "within 2**53", value)
        return int(value)
    if hint in (str, bool):
        _expect(isinstance(value, hint), where, {str: "a string", bool: "true or false"}[hint], value)
        return value
    raise TypeError(f"{where}: records cannot hold {hint!r}")


def _is_exact(value: int) -> bool:
    """Whether whole digits say one float: up to 2**53, and beyond it what canonical JSON writes without an exponent."""
    return abs(value) <= MAX_INTEGER or (abs(value) < 10**21 and _ecmascript_number(float(value)) == str(value))


def _refuse_constant(name: str) -> Any:
    raise RecordError(f"must be finite, got {name}; JSON has no such number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise RecordError(f"has the key {twice!r} twice")
    return value


def _expect(condition: bool, where: str, rule: str, value: Any) -> None:
    if not condition:
        raise RecordError(f"{where} must be {rule}, got {value!r:.80}")
