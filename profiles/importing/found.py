"""What a reader of foreign tables finds: times that can be used, and what cannot, each with its reason."""

from collections.abc import Iterable
from dataclasses import dataclass

from profiles.few import ModelLatency, kernel_time
from profiles.kernel import Kernel
from profiles.schema import KernelTime, Runtime

LARGEST = 1e15  # beyond every time and count, and exact in every unit


class ForeignTableError(ValueError):
    """A file is not what it was taken for, or holds no time that can be used; the message tells the cure."""


@dataclass(frozen=True)
class Unused:
    """What of a table no profile can use.

    Attributes:
        where: The line, node or row.
        ms: What it took in a run; None where it tells no time.
    """

    where: str
    reason: str
    ms: float | None = None


@dataclass(frozen=True)
class Found:
    """What was read.

    Attributes:
        source: Tool, and what the file says of itself.
        notes: What whoever uses the times should know.
    """

    source: str
    kernels: tuple[KernelTime, ...] = ()
    models: tuple[ModelLatency, ...] = ()
    unused: tuple[Unused, ...] = ()
    notes: tuple[str, ...] = ()
    runtime: Runtime | None = None
    threads: int = 1


@dataclass(frozen=True)
class Row:
    """Times of one kernel, milliseconds."""

    kernel: Kernel
    batch_size: int
    samples_ms: tuple[float, ...]


def kernel_times(rows: Iterable[Row]) -> tuple[KernelTime, ...]:
    """One time a kernel and batch, over all its rows."""
    samples: dict[tuple[Kernel, int], list[float]] = {}
    for row in rows:
        samples.setdefault((row.kernel, row.batch_size), []).extend(row.samples_ms)
    return tuple(kernel_time(*key, values) for key, values in samples.items())


def read_number(text: str) -> float | None:
    """A number, or None for what is none, not finite or so large that it is no time and no count."""
    try:
        number = float(text.strip().removesuffix("%"))
    except ValueError:
        return None
    return number if abs(number) <= LARGEST else None
