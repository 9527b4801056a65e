"""Latency lookup tables: a line for each operation with its shapes, as hardware-aware searches read them.

Three forms are known: PaddleSlim's (`op_type,flag_bias,...<TAB>latency`, behind a line of hardware, engine and date),
Paddle Lite's (columns apart by tabs, parameters in brackets), and a plain CSV for all others, NetAdapt's pickles among
them, which are not read for what a pickle can do. Its columns: kind, batch_size, channels, height, width, out_channels,
kernel, stride, groups, dilation, latency_ms; kind is conv, linear, relu, hard_swish, max_pool, average_pool, add or
global_average; what is left out or empty is 1.
"""

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil

from profiles.few import UNKNOWN_VERSION
from profiles.importing.found import ForeignTableError, Found, Row, Unused, kernel_times, read_number
from profiles.kernel import Kernel
from profiles.schema import Runtime

PLAIN = "kind,batch_size,channels,height,width,out_channels,kernel,stride,groups,dilation,latency_ms"
_SAME_SHAPE = {
    "relu": "relu",
    "relu6": "relu",
    "hard_swish": "hard_swish",
    "eltwise": "add",
    "elementwise_add": "add",
    "add": "add",
}
_SLIM = re.compile(r"^(?P<operation>[a-z_0-9]+(?:,[^,\t]+)+)\t\s*(?P<ms>[\d.eE+-]+)\s*$")
_LITE = re.compile(
    r"^(?P<name>\w+)\s+\[(?P<x>[\d ]+)\]\s+\[(?P<y>[\d ]+)\]\s+\((?P<given>[^)]*)\)(?P<ms>(?:\s+[\d.eE+-]+){3})\s*$"
)
_ENGINE = re.compile(r"[,:]\s*Paddle[ -]?Lite\s*v?(?P<version>\d[\w.]{0,20})?", re.IGNORECASE)
_PADDLE = "Paddle-Lite"  # as the catalogue calls it
_LITE_HEADER = "input_dims"
_MOST_DIGITS = 10  # of a size; longer ones are no shape
_SHAPE, _WINDOW = ("batch_size", "channels", "height", "width"), ("kernel", "padding", "stride")
Line = tuple[int, str]


class _NoKernelError(ValueError):
    """A line that is no kernel of ours; the message tells why."""


def is_table(text: str) -> bool:
    """Whether a text is one of the three forms."""
    return _is_plain(text) or _is_lite(text) or any(map(_SLIM.match, text.splitlines()[:3]))


def read_lookup_table(text: str) -> Found:
    """Read a table: a time for each line whose operation Handheld's networks have.

    Raises:
        ForeignTableError: It is none of the three forms, or no line of it can be used.
    """
    if not is_table(text):
        raise ForeignTableError(
            f"a lookup table must be PaddleSlim's, Paddle Lite's or a CSV with the columns {PLAIN}; "
            "write pickles and others out as the last"
        )
    source, read, lines = _form_of(text)
    rows: list[tuple[int, Row]] = []
    unused = []
    for number, line in lines:
        try:
            rows.append((number, read(line)))
        except _NoKernelError as error:
            unused.append(Unused(f"line {number} ({line.strip():.50})", str(error)))
    if not rows:
        reasons = "; ".join(sorted({one.reason for one in unused})) or "it has none"
        raise ForeignTableError(f"no line of the table can be used: {reasons}")
    note = (
        "a table tells one time for each line, taken for milliseconds: how far runs spread is not known, and told as 0"
    )
    times = kernel_times(row for _, row in rows)
    return Found(source, times, unused=tuple(unused), notes=(note, *_repeats(rows)), runtime=_runtime_of(source, text))


def _repeats(rows: Sequence[tuple[int, Row]]) -> Iterator[str]:
    """What to warn of: lines that tell another time than the first of the same kernel, such as of two devices."""
    first: dict[tuple[Kernel, int], tuple[int, float]] = {}
    for number, row in rows:
        (ms,) = row.samples_ms
        known_number, known_ms = first.setdefault((row.kernel, row.batch_size), (number, ms))
        if ms != known_ms:
            yield (
                f"line {number} tells {ms:g} ms for the {row.kernel.family} of line {known_number}, which tells "
                f"{known_ms:g} ms: the median of all its lines is taken; remove those that are wrong"
            )


def _runtime_of(source: str, text: str) -> Runtime | None:
    """Paddle Lite for its own table and those that say so in their first line; a plain CSV does not tell."""
    if _is_lite(text):
        return Runtime(_PADDLE, UNKNOWN_VERSION)
    told = _ENGINE.search(source)
    return Runtime(_PADDLE, told["version"] or UNKNOWN_VERSION) if told else None


def _is_plain(text: str) -> bool:
    return {"kind", "channels", "latency_ms"} <= set(text.lstrip("\ufeff").partition("\n")[0].strip().split(","))


def _is_lite(text: str) -> bool:
    return _LITE_HEADER in text and any(map(_LITE.match, text.splitlines()))


def _form_of(text: str) -> tuple[str, Callable[[str], Row], Iterator[Line]]:
    """What wrote the table, how to read a line, and the lines that are to be operations."""
    lines = [(number, line) for number, line in enumerate(text.lstrip("\ufeff").splitlines(), 1) if line.strip()]
    if _is_plain(text):
        columns = lines[0][1].strip().split(",")
        return "a lookup table", partial(_read_plain, columns), iter(lines[1:])
    if _is_lite(text):
        header = next(i for i, (_, line) in enumerate(lines) if _LITE_HEADER in line)
        return "Paddle Lite's lookup table", _read_lite, iter(lines[header + 1 :])
    told = "" if _SLIM.match(lines[0][1]) else f": {lines[0][1].strip()}"  # hardware, engine, date
    return f"PaddleSlim's latency table{told}", _read_slim, iter(lines[1:] if told else lines)


def _read_plain(columns: Sequence[str], line: str) -> Row:
    try:
        (values,) = csv.reader([line])
    except csv.Error as error:
        raise _NoKernelError(f"is no line of a CSV: {error}") from error
    if len(values) != len(columns):
        raise _NoKernelError(f"has {len(values)} values for {len(columns)} columns")
    given = {name: value.strip() for name, value in zip(columns, values, strict=True) if value.strip()}
    ms, kind = _milliseconds(given.pop("latency_ms", "")), given.pop("kind", "")
    if "channels" not in given:
        raise _NoKernelError("tells no channels")
    known = [name for name in given if name in _Sizes.__annotations__]
    return _row(kind, _sizes(known, [given[name] for name in known]), ms)


def _read_slim(line: str) -> Row:
    found = _SLIM.match(line)
    if found is None:
        raise _NoKernelError("is no operation with a time behind a tab")
    name, *values = found["operation"].split(",")
    ms = _milliseconds(found["ms"])
    if name in {"conv2d", "depthwise_conv2d"} and len(values) == 12:
        sizes = _sizes((*_SHAPE, "out_channels", "groups", *_WINDOW, "dilation"), values[2:])
        return _row("conv", replace(sizes, has_bias=int(values[0] != "0")), ms)
    if name in {"pooling", "pool2d"} and len(values) == 10:
        kind = "global_average" if values[0] == "1" else "max_pool" if values[9] == "1" else "average_pool"
        return _row(kind, _sizes((*_SHAPE, *_WINDOW), values[1:8]), ms)
    if name in _SAME_SHAPE and len(values) == 4:
        return _row(_SAME_SHAPE[name], _sizes(_SHAPE, values), ms)
    raise _NoKernelError(f"{name!r} with {len(values)} values is no kernel of Handheld's networks")


def _read_lite(line: str) -> Row:
    found = _LITE.match(line)
    if found is None:
        raise _NoKernelError("is no operation with its shapes and three times")
    x, y = (_dims(found[name]) for name in ("x", "y"))
    given = dict(part.strip().split("=", 1) for part in found["given"].split(",") if "=" in part)
    if given.get("dtype", "float") != "float":
        raise _NoKernelError(f"computes with {given['dtype']}: profiles are of float32")
    ms, name = _milliseconds(found["ms"].split()[2]), found["name"]
    kernel = given.get("kernel", "1x1").partition("x")[0]
    window = _whole({"kernel": kernel} | {key: given.get(f"{key}", "1") for key in ("stride", "dilation")})
    if name == "fc":
        return _row("linear", _Sizes(batch_size=x[0], channels=x[1], out_channels=y[1]), ms)
    sizes = dict(zip(_SHAPE, x, strict=False))
    if name == "conv":
        groups, padding = _whole({"groups": given.get("group", "1"), "padding": given.get("pad", "0")}).values()
        whole = _Sizes(**sizes, **window, out_channels=y[1], groups=groups, padding=padding)
        return _row("conv", replace(whole, has_bias=int(given.get("flag_bias") != "0")), ms)
    if name == "pooling":
        kind = "global_average" if given.get("flag_global") == "1" else f"{given.get('pooling_type', 'max')[:3]}_pool"
        return _row(kind.replace("avg_", "average_"), _Sizes(**sizes, **window), ms)
    if name == "activation" and given.get("act_type") in _SAME_SHAPE:
        return _row(_SAME_SHAPE[given["act_type"]], _Sizes(**sizes), ms)
    raise _NoKernelError(f"{given.get('act_type', name)!r} is no kernel of Handheld's networks")


@dataclass(frozen=True)
class _Sizes:
    """What a line tells of an operation; padding None is as much as keeps the size, has_bias 0 or 1."""

    channels: int
    batch_size: int = 1
    height: int = 1
    width: int = 1
    out_channels: int = 1
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    dilation: int = 1
    padding: int | None = None
    has_bias: int = 1


def _row(kind: str, sizes: _Sizes, ms: float) -> Row:
    x, window = (sizes.channels, sizes.height, sizes.width), (sizes.kernel, sizes.stride)
    y = tuple(_side(size, sizes) for size in x[1:])
    if min(y) < 1:
        raise _NoKernelError(f"has a window larger than its input: {sizes.kernel} on {sizes.height} x {sizes.width}")
    if kind == "conv" and sizes.channels % sizes.groups:
        raise _NoKernelError(f"has channels that are no groups: {sizes.channels} in {sizes.groups}")
    if kind == "conv":
        y = (sizes.out_channels, *y)
        kernel = Kernel("conv", x, y, *window, sizes.groups, sizes.dilation, has_bias=bool(sizes.has_bias))
    elif kind == "linear":
        kernel = Kernel("linear", (sizes.channels,), (sizes.out_channels,))
    elif kind in {"relu", "hard_swish", "add"}:
        kernel = Kernel(kind, x, x)
    elif kind in {"max_pool", "average_pool"}:
        kernel = Kernel(kind, x, (sizes.channels, *y), *window)
    elif kind == "global_average":
        kernel = Kernel(kind, x, (sizes.channels,))
    else:
        raise _NoKernelError(f"{kind!r} is no kernel of Handheld's networks")
    return Row(kernel, sizes.batch_size, (ms,))


def _side(size: int, sizes: _Sizes) -> int:
    if sizes.padding is None:
        return ceil(size / sizes.stride)
    return (size + 2 * sizes.padding - sizes.dilation * (sizes.kernel - 1) - 1) // sizes.stride + 1


def _sizes(names: Sequence[str], values: Sequence[str]) -> _Sizes:
    return _Sizes(**_whole(dict(zip(names, values, strict=True))))


def _dims(text: str) -> list[int]:
    sizes = text.split()
    if len(sizes) < 2:
        raise _NoKernelError(f"has no batch of values: [{text}]")
    return [_whole({"a size": size})["a size"] for size in sizes]


def _whole(texts: Mapping[str, str]) -> dict[str, int]:
    for name, text in texts.items():
        digits = text.strip()
        is_whole = digits.isdecimal() and len(digits) < _MOST_DIGITS
        if not is_whole or (int(digits) < 1 and name != "padding"):
            raise _NoKernelError(f"{name} must be a whole number > 0, got {text!r:.40}")
    return {name: int(text) for name, text in texts.items()}


def _milliseconds(text: str) -> float:
    ms = read_number(text)
    if ms is None or ms <= 0:
        raise _NoKernelError(f"a latency must be a number > 0, got {text!r:.40}")
    return ms
