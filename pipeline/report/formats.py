"""How the report writes numbers: as many digits as mean something, units that fit."""

from collections.abc import Sequence

TIMES = "\N{MULTIPLICATION SIGN}"
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def percent(share: float) -> str:
    """A share as in `82.9%`."""
    return f"{share:.1%}"


def significant(value: float, digits: int = 3) -> str:
    """So many digits, or all of those before the point."""
    if value == 0 or abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}".removesuffix(".")  # "#" keeps the zeros at the end: columns read alike


def figure_told(value: float | None) -> str:
    """As `significant`; a dash where nobody told it."""
    return "-" if value is None else significant(value)


def size(num_bytes: float) -> str:
    """Bytes as in `6.52 MiB`."""
    value, unit = float(num_bytes), 0
    while value >= 1000 and unit + 1 < len(_UNITS):
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} B" if unit == 0 else f"{significant(value)} {_UNITS[unit]}"


def duration(seconds: float) -> str:
    """Seconds as in `25 min 30 s`."""
    if seconds < 120:
        return f"{significant(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


def shape(sizes: Sequence[int]) -> str:
    """A shape, channels first, with multiplication signs."""
    return TIMES.join(map(str, sizes))


def span(values: Sequence[float], unit: str) -> str:
    """Smallest and largest value in two digits, as in `0.22 to 0.78 ms`; one where they read alike."""
    low, high = significant(min(values), 2), significant(max(values), 2)
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def told(value: float | None, unit: str = "") -> str:
    """A whole number with its unit; a question mark where nobody told it."""
    return "?" if value is None else f"{value:.0f}{unit}"


def span_of_clocks(mhz: Sequence[float | None]) -> str:
    """Clocks of clusters as in `1,800/2,840`; a question mark for each that was not told."""
    return "/".join("?" if one is None else f"{one:,.0f}" for one in mhz) or "?"
