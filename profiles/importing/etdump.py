"""ExecuTorch: the events of an ETDump, as `Inspector.save_data_to_tsv` or `to_dataframe().to_csv` write them.

Rows are events by block; `Method::execute` of the block `Execute` is a whole inference, with quantiles over the runs.
Operators and what a delegate did are events of their own, without shapes.
"""

import csv

from profiles.few import UNKNOWN_VERSION, ModelLatency
from profiles.importing.found import ForeignTableError, Found, Unused, read_number
from profiles.schema import Runtime

_EVENT, _BLOCK = "event_name", "event_block_name"
_WHOLE = "Method::execute"
_MS_PER = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}


def is_etdump(text: str) -> bool:
    """Whether a text is an Inspector's table."""
    return {_EVENT, _BLOCK} <= set(_columns(text))


def read_etdump(text: str) -> Found:
    """Read the table: the time of whole inferences, and all other events as what cannot be used.

    Raises:
        ForeignTableError: It is another table, has no inference, or its times are cycles.
    """
    columns, lines = _columns(text), _lines(text)
    if not is_etdump(text) or not any(name.startswith("p50") for name in columns):
        raise ForeignTableError(
            f"an Inspector's table must have the columns {_EVENT}, {_BLOCK} and p50, got {', '.join(columns)!r:.80}; "
            "write it with Inspector.save_data_to_tsv"
        )
    try:
        rows = list(csv.DictReader(lines, delimiter=_delimiter(lines[0])))
    except csv.Error as error:
        raise ForeignTableError(
            f"the table cannot be read: {error}; write it with Inspector.save_data_to_tsv"
        ) from error
    scale, unit = _scale_of(lines[0])
    models, unused = [], []
    for number, row in enumerate(rows, 2):
        median = read_number(row.get(f"p50{unit}") or "")
        if row.get(_EVENT) == _WHOLE and median and median > 0:
            p90 = max(read_number(row.get(f"p90{unit}") or "") or median, median)
            models.append(ModelLatency("", median * scale, p90 * scale, _count(row.get("raw"))))
        else:
            known = None if median is None else median * scale
            unused.append(Unused(f"row {number} ({row.get(_BLOCK)}: {row.get(_EVENT)})", "tells no shapes", known))
    if not models:
        raise ForeignTableError(
            f"the table must have an event {_WHOLE}, got none; trace whole inferences: "
            "build the runner with -DEXECUTORCH_ENABLE_EVENT_TRACER=ON"
        )
    return Found(
        "ExecuTorch's Inspector",
        models=tuple(models),
        unused=tuple(unused),
        runtime=Runtime("executorch", UNKNOWN_VERSION),
    )


def _lines(text: str) -> list[str]:
    return text.lstrip("\ufeff").splitlines()


def _columns(text: str) -> list[str]:
    header = next(iter(_lines(text)), "")
    return [name.strip().strip('"') for name in header.split(_delimiter(header))]


def _delimiter(header: str) -> str:
    return "\t" if "\t" in header else ","


def _scale_of(header: str) -> tuple[float, str]:
    """Milliseconds of the table's unit, and how that is written behind a column's name."""
    for name, ms in _MS_PER.items():
        if f"p50 ({name})" in header:
            return ms, f" ({name})"
    if "p50 (" in header:
        raise ForeignTableError(f"times must be in {', '.join(_MS_PER)}, got {header.partition('p50 (')[2][:12]!r}")
    return 1.0, ""  # to_dataframe() names no unit: its scale is milliseconds unless somebody asked for another


def _count(raw: str | None) -> int:
    """How many runs a list of raw times has."""
    return raw.count(",") + 1 if raw else 1
