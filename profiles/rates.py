"""Fit rates to kernel times: what kernels that nobody measured are predicted from."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from profiles.schema import Direction, Figure, KernelTime, Rates, Throughput

Array = NDArray[np.float64]
_SMALLEST = 1e-7  # milliseconds of 1e6 multiply-accumulates or bytes: rates stay finite where no kernel has any
# How much faster than in the fastest measured kernel, as if it did nothing else. Where all kernels are small, overheads
# hide the rates, and a fit may leave a term out; then large ones would seem to take nothing.
_FASTER = 2.0
_NUM_ITERATIONS = 20
_FUSED_MS = 1e-4  # a kernel of less was fused into another, and no rate follows from it


def fit_throughput(times: Sequence[KernelTime], call_overhead_ms: Figure) -> Throughput:
    """Fit each direction's rates to measured kernels.

    Raises:
        ValueError: When a direction has no kernel with work in it.
    """
    rates = {direction: _fit_rates(times, direction, call_overhead_ms) for direction in get_args(Direction)}
    return Throughput(**rates, call_overhead_ms=call_overhead_ms)


def fit_within_networks(times: Sequence[KernelTime], call_overhead_ms: Figure) -> Throughput:
    """Likewise for kernels that were measured within networks: their times do not hold the call.

    Raises:
        ValueError: When a direction has no kernel with work in it.
    """
    told = {time.direction for time in times if time.median_ms > _FUSED_MS}
    rows = [time for time in times if time.median_ms > _FUSED_MS or time.direction not in told]
    found = fit_throughput(rows, replace(call_overhead_ms, value=0.0))
    return replace(found, call_overhead_ms=call_overhead_ms)


def _fit_rates(times: Sequence[KernelTime], direction: Direction, call: Figure) -> Rates:
    rows = [time for time in times if time.direction == direction and time.kernel.kind != "call"]
    if not rows:
        raise ValueError(f"a measurement must have at least one {direction} kernel, got none; use another pack")
    work = [time.batch_size * time.kernel.multiply_accumulates() / 1e6 for time in rows]
    moved = [time.kernel.bytes_moved(time.batch_size) / 1e6 for time in rows]
    net = np.array([max(time.median_ms - call.value, 1e-3 * time.median_ms, 1e-6) for time in rows])
    overhead, per_mac, per_byte = _fit_nonnegative(np.column_stack([np.ones(len(rows)), work, moved]), net)
    source = f"{call.source}, fitted to {len(rows)} {direction} kernels"
    least_per_mac, least_per_byte = (_least(net, np.array(done)) for done in (work, moved))
    return Rates(
        gmac_s=_figure(1 / max(per_mac, least_per_mac), "GMAC/s", source),
        memory_gb_s=_figure(1 / max(per_byte, least_per_byte), "GB/s", source),
        layer_overhead_ms=_figure(overhead, "ms", source),
    )


def _least(net_ms: Array, done: Array) -> float:
    """Milliseconds of a unit of what kernels did, in the fastest of them."""
    is_doing = done > 0
    return max(float(np.min(net_ms[is_doing] / done[is_doing])) / _FASTER if is_doing.any() else 0.0, _SMALLEST)


def _fit_nonnegative(columns: Array, values: Array) -> Array:
    """Factors >= 0 whose products are wrong by small ratios, either way alike.

    Squares of relative errors alone would favour too small a product: it is never more than 100% off. So errors are
    weighed by the geometric mean of value and product, again and again.
    """
    weights = 1 / values
    for _ in range(_NUM_ITERATIONS):
        factors = _solve_nonnegative(columns * weights[:, None], values * weights)
        weights = 1 / np.sqrt(values * (columns @ factors))
    return factors


def _solve_nonnegative(columns: Array, values: Array) -> Array:
    """Least squares with factors >= 0, by trying every set of the few columns."""
    best, least = np.zeros(columns.shape[1]), np.inf
    for size in range(1, columns.shape[1] + 1):
        for chosen in combinations(range(columns.shape[1]), size):
            found, *_ = np.linalg.lstsq(columns[:, chosen], values, rcond=None)
            error = float(np.sum((columns[:, chosen] @ found - values) ** 2))
            if (found >= 0).all() and error < least:
                best, least = np.zeros(columns.shape[1]), error
                best[list(chosen)] = found
    return best


def _figure(value: float, unit: str, source: str) -> Figure:
    return Figure(float(f"{value:.5g}"), unit, "measured", source)
