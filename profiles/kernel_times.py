"""What single kernels take on a device: measured times first, a regression between them, scaled ones, then rates."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf, log, prod
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from profiles.kernel import CONVOLUTIONS, JOINING, Kernel
from profiles.schema import DeviceProfile, Direction, KernelTime, NetworkTime

if TYPE_CHECKING:
    from profiles.regression import TableModel

Floats = NDArray[np.float64]
Method = Literal["measured", "regression", "transferred", "scaled", "throughput"]
METHODS: tuple[Method, ...] = ("measured", "regression", "transferred", "scaled", "throughput")  # the surest first
MIN_TABLE = 8  # rows of a family between which a regression is worth more than the most alike row
_FARTHEST = log(2)  # beyond the rows, in all features together
_RESOLUTION_MS = 1e-3  # of profilers, and what they cost a node: smaller times say little of each other
_SHAPE_WEIGHT = 0.5  # how much another window size, stride or neighbour counts beside a factor of e in work
_FEW_OWNERS = 2


@dataclass(frozen=True)
class KernelPrediction:
    """Milliseconds of one kernel, without the call's overhead, and how it is known.

    Attributes:
        reach: Logarithm of how many times more work it is than any measured kernel that it is scaled from; 0 for none.
    """

    ms: float
    method: Method
    reach: float = 0.0


@dataclass(frozen=True, eq=False)
class Table:
    """Measured times of one placed family, direction and batch size, and what lies between them.

    Attributes:
        method: `regression`, or `transferred` where a row is.
        columns: Features that vary; the others are `fixed`.
        left_out_ms: Of each row without those that only the same network has.
        known_ms: What was asked for before, None where it is too far from the rows.
    """

    model: "TableModel"
    method: Method
    columns: NDArray[np.intp]
    fixed: Floats
    left_out_ms: dict[Kernel, float]
    known_ms: dict[Kernel, float | None] = field(default_factory=dict)

    def ask(self, kernels: Iterable[Kernel]) -> None:
        """Predict kernels into `known_ms`, all at once: one alone costs as much as a hundred."""
        asked = [kernel for kernel in dict.fromkeys(kernels) if kernel not in self.known_ms]
        if not asked:
            return
        features = np.array([features_of(kernel) for kernel in asked])
        rows, (least, most) = features[:, self.columns], self.model.bounds
        is_near = np.abs(np.log(rows / np.clip(rows, least, most))).sum(1) <= _FARTHEST
        fixed = np.delete(features, self.columns, axis=1)
        is_near &= (fixed == self.fixed).all(1)
        found = np.maximum(np.exp(self.model.log_ms(rows)) - _RESOLUTION_MS, 0.0)
        for kernel, near, ms in zip(asked, is_near, found, strict=True):
            # Six digits: how many were asked for at once must not show.
            self.known_ms[kernel] = float(f"{ms:.6g}") if near else None


def predict_all(
    profile: DeviceProfile, kernels: Iterable[Kernel], batch_size: int, direction: Direction
) -> dict[Kernel, KernelPrediction]:
    """Each distinct kernel; many at once are faster than one by one."""
    distinct = dict.fromkeys(kernels)
    unknown = defaultdict(list)
    for kernel in distinct if profile.kernels else ():
        if (kernel, batch_size, direction) not in profile.times_by_kernel:
            unknown[kernel.placed_family].append(kernel)
    for family, its_kernels in unknown.items():
        if table := _nearest_table(profile, family, batch_size, direction):
            table[1].ask(its_kernels)
    return {kernel: predict_kernel(profile, kernel, batch_size, direction) for kernel in distinct}


@lru_cache(maxsize=1 << 16)
def predict_kernel(profile: DeviceProfile, kernel: Kernel, batch_size: int, direction: Direction) -> KernelPrediction:
    """One kernel: its own measured time, one between measured ones, the most alike one scaled, or the throughput's.

    Between the rows of a table lies a regression. Rows that nobody timed were transferred from another phone. For
    another batch size it is scaled by what the throughput tells.
    """
    if known := profile.times_by_kernel.get((kernel, batch_size, direction)):
        return KernelPrediction(without_call(profile, known), "measured" if known.repetitions else "transferred")
    modelled = profile.throughput.kernel_ms(kernel, batch_size, direction)
    if found := _nearest_table(profile, kernel.placed_family, batch_size, direction):
        its_batch, table = found
        table.ask([kernel])
        if (ms := table.known_ms[kernel]) is not None:
            if its_batch == batch_size:
                return KernelPrediction(ms, table.method)
            return KernelPrediction(
                ms * modelled / profile.throughput.kernel_ms(kernel, its_batch, direction), "scaled"
            )
    family = _rows_by_family(profile).get((kernel.family, direction))
    if not family:
        others = [time for time in profile.kernels if time.direction == direction]
        return KernelPrediction(modelled, "throughput", _reach(kernel, batch_size, others))
    nearest = min(family, key=lambda time: _distance(time, kernel, batch_size))
    its_model = profile.throughput.kernel_ms(nearest.kernel, nearest.batch_size, direction)
    reach = _reach(kernel, batch_size, family)
    return KernelPrediction(without_call(profile, nearest) * modelled / its_model, "scaled", reach)


def _reach(kernel: Kernel, batch_size: int, times: Sequence[KernelTime]) -> float:
    most = max((time.kernel.work(time.batch_size) for time in times), default=inf)
    return max(log(kernel.work(batch_size) / most), 0.0) if most < inf else 0.0


def without_call(profile: DeviceProfile, time: KernelTime) -> float:
    """Milliseconds of a measured kernel; within a network it is there without a call."""
    if profile.networks:
        return time.median_ms
    return max(time.median_ms - profile.throughput.call_overhead_ms.value, 0.0)


def tables_of(profile: DeviceProfile, direction: Direction, batch_size: int) -> Mapping[str, Table]:
    """The tables of one direction and batch size by family, fitted at the first call."""
    keys = {key for key in _rows_by_table(profile) if key[1:] == (batch_size, direction)}
    found = {key[0]: _table(profile, *key) for key in sorted(keys)}
    return {family: table for family, table in found.items() if table}


def features_of(kernel: Kernel) -> tuple[float, ...]:
    """What the time of one example hangs on, within a family; all positive."""
    is_product = kernel.kind in CONVOLUTIONS or kernel.kind == "linear"
    inputs, outputs = kernel.input_shape[0], kernel.output_shape[0]
    pixels = prod((kernel.output_shape if len(kernel.output_shape) > 1 else kernel.input_shape)[1:])
    read = inputs // kernel.groups if is_product else kernel.num_inputs if kernel.kind in JOINING else 1
    made = outputs if is_product else max(inputs, outputs)
    return tuple(map(float, (read, made, pixels, kernel.kernel * kernel.dilation, kernel.stride, 1 + kernel.has_bias)))


def owners_of(networks: Sequence[NetworkTime]) -> dict[Kernel, frozenset[int]]:
    """Which of these networks have a kernel, by their places; none where more than two have.

    The measured time of a kernel that two have tells half of what either took.
    """
    owners: dict[Kernel, list[int]] = defaultdict(list)
    for place, network in enumerate(networks):
        for kernel in dict.fromkeys(network.kernels):
            owners[kernel].append(place)
    return {kernel: frozenset(places if len(places) <= _FEW_OWNERS else ()) for kernel, places in owners.items()}


@lru_cache(maxsize=64)
def _rows_by_table(profile: DeviceProfile) -> dict[tuple[str, int, Direction], list[KernelTime]]:
    rows: dict[tuple[str, int, Direction], list[KernelTime]] = defaultdict(list)
    for time in profile.kernels:
        rows[time.kernel.placed_family, time.batch_size, time.direction].append(time)
    return dict(rows)


@lru_cache(maxsize=64)
def _rows_by_family(profile: DeviceProfile) -> dict[tuple[str, Direction], list[KernelTime]]:
    rows: dict[tuple[str, Direction], list[KernelTime]] = defaultdict(list)
    for time in profile.kernels:
        rows[time.kernel.family, time.direction].append(time)
    return dict(rows)


def _nearest_table(
    profile: DeviceProfile, family: str, batch_size: int, direction: Direction
) -> tuple[int, Table] | None:
    """The table of the batch size that is nearest, and that size."""
    sizes = {size for its, size, way in _rows_by_table(profile) if (its, way) == (family, direction)}
    for size in sorted(sizes, key=lambda one: abs(log(one / batch_size))):
        if table := _table(profile, family, size, direction):
            return size, table
    return None


@lru_cache(maxsize=512)
def _table(profile: DeviceProfile, family: str, batch_size: int, direction: Direction) -> Table | None:
    """None where there are too few rows, or all are alike."""
    rows = _rows_by_table(profile)[family, batch_size, direction]
    features = np.array([features_of(row.kernel) for row in rows])
    columns = np.flatnonzero(np.ptp(features, axis=0))
    if len(rows) < MIN_TABLE or not len(columns):
        return None
    # Brings scikit-learn: a second that a catalogue phone does not need.
    from profiles.regression import fit_table  # noqa: PLC0415

    networks = [one for one in profile.networks if (one.batch_size, one.direction) == (batch_size, direction)]
    owners = owners_of(networks)
    # Left out with what else its network alone has; any other row by itself.
    groups = [
        min(own) if len(own := owners.get(row.kernel, frozenset())) == 1 else -1 - place
        for place, row in enumerate(rows)
    ]
    times = np.array([without_call(profile, row) for row in rows]) + _RESOLUTION_MS
    model = fit_table(features[:, columns], times, groups)
    left_out = np.maximum(model.left_out_ms - _RESOLUTION_MS, 0.0)
    return Table(
        model=model,
        method="regression" if all(row.repetitions for row in rows) else "transferred",
        columns=columns,
        fixed=np.delete(features[0], columns),
        left_out_ms={row.kernel: float(ms) for row, ms in zip(rows, left_out, strict=True)},
    )


def _distance(time: KernelTime, kernel: Kernel, batch_size: int) -> float:
    """How unlike two kernels of a family are: factors in work and in bytes, another window, other neighbours."""
    other = time.kernel
    work = batch_size * kernel.multiply_accumulates() + 1, time.batch_size * other.multiply_accumulates() + 1
    moved = kernel.bytes_moved(batch_size), other.bytes_moved(time.batch_size)
    windows = (kernel.kernel != other.kernel) + (kernel.stride != other.stride) + (kernel.beside != other.beside)
    return abs(log(work[0] / work[1])) + abs(log(moved[0] / moved[1])) + _SHAPE_WEIGHT * windows
