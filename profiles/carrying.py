"""A profile for a phone of which little is known: another phone's kernels, carried over by what anchors take on both.

An anchor is a kernel or a whole network with a time on the new phone, beside what the other phone takes or is predicted
to take. Where a family of kernels has 40 rows and more on both, `profiles.transfer.fit_few` carries it over. Else its
times are multiplied by the median ratio of its anchors, drawn towards that of networks, or the median of families,
which counts as much as one row more; a direction without anchors has those of the others.

How far the result is to be trusted is what anchors say that are left out in turn; few of them say little. So their
squared errors are averaged with an error that is assumed before any is known, a factor of 1.5 in 95% of networks, which
is how far the catalogue's transfers between SoCs measured alike are wrong, counted as four anchors; and beside it a
factor of two for a direction that has none.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import exp, hypot, log, sqrt
from statistics import median
from typing import get_args

import numpy as np

from profiles.anchors import (
    CALL,
    Anchor,
    anchors_of,
    call_of,
    count_anchors,
    left_out_errors,
    log_ratio,
    unlikeness,
)
from profiles.few import FewTimes
from profiles.kernel_times import features_of
from profiles.predict import predict_kernel
from profiles.regression import MIN_ROWS, Floats, TimeModel, fit_times
from profiles.schema import (
    Calibration,
    DeviceProfile,
    Direction,
    Figure,
    KernelKey,
    KernelTime,
    NetworkTime,
    Rates,
    Throughput,
)
from profiles.sustained import ROUGH_TAIL, tail_quantile
from profiles.transfer import TransferError, fit_few

_ASSUMED, _ASSUMED_ANCHORS = log(1.5) / 1.96, 4
_OTHER_DIRECTION = log(2.0) / 1.96
_Z80, _Z95 = 1.2816, 1.9600


def carry_over(sources: Sequence[DeviceProfile], few: FewTimes, device: DeviceProfile) -> DeviceProfile:
    """Make a new phone's profile of its few times and of the phone among `sources` that they are most like.

    Args:
        few: Without models: `profiles.few.with_networks` turns them into networks.
        device: Whose facts the profile gets: name, cores, memory; its times are not read.

    Raises:
        TransferError: No source, or no time that is an anchor.
    """
    if not sources:
        raise TransferError("a transfer needs the profile of another phone, got none")
    found = {i: anchors_of(source, few) for i, source in enumerate(sources)}
    nearest = min(found, key=lambda i: unlikeness(found[i]))
    source, anchors = sources[nearest], found[nearest]
    if not anchors:
        raise TransferError(
            "the new phone's times must have a kernel or a network of more than 0 ms, got none; measure one: "
            "handheld-device measure --quick, or import what another tool measured"
        )
    throughput = _scaled_throughput(source, few, anchors)
    kernels = _carried_kernels(sources, source, few, anchors, throughput.call_overhead_ms.value)
    carried = replace(device, throughput=throughput, kernels=kernels, networks=(), sessions=(), calibrations=())
    calibrations = tuple(_calibrate(carried, source, few, anchors, direction) for direction in get_args(Direction))
    return replace(
        carried,
        runtime=few.runtime or source.runtime,
        threads=few.threads,
        calibrations=calibrations,
        warnings=(*_warnings(source, few, anchors, calibrations), *device.warnings),
    )


def _scaled_throughput(source: DeviceProfile, few: FewTimes, anchors: Sequence[Anchor]) -> Throughput:
    told = f"{source.name}'s, carried over by {count_anchors(anchors)}: {few.source}"
    by_direction = {direction: exp(log_ratio(anchors, direction, "")) for direction in get_args(Direction)}
    rates = {direction: _scaled_rates(source, direction, ratio, told) for direction, ratio in by_direction.items()}
    call_ms, given = call_of(few), source.throughput.call_overhead_ms
    if call_ms is not None:
        return Throughput(**rates, call_overhead_ms=Figure(call_ms, "ms", "measured", few.source))
    scaled = Figure(_round(given.value * by_direction["forward"]), "ms", "estimated", told)
    return Throughput(**rates, call_overhead_ms=scaled)


def _scaled_rates(source: DeviceProfile, direction: Direction, ratio: float, told: str) -> Rates:
    given: Rates = getattr(source.throughput, direction)
    return Rates(
        gmac_s=Figure(_round(given.gmac_s.value / ratio), "GMAC/s", "estimated", told),
        memory_gb_s=Figure(_round(given.memory_gb_s.value / ratio), "GB/s", "estimated", told),
        layer_overhead_ms=Figure(_round(given.layer_overhead_ms.value * ratio), "ms", "estimated", told),
    )


def _carried_kernels(
    sources: Sequence[DeviceProfile],
    source: DeviceProfile,
    few: FewTimes,
    anchors: Sequence[Anchor],
    call_ms: float,
) -> tuple[KernelTime, ...]:
    """The new phone's own times, and of the other's table what it has not; each as of a graph with its call."""
    missing = 0.0 if call_of(few) is not None else call_ms
    own = {(time.kernel, time.batch_size, time.direction): _longer(time, missing) for time in few.kernels}
    rows = [time for time in source.kernels if time.kernel.kind != CALL]
    fitted = _fitted_ms(sources, few, rows)
    for time in rows:
        key = (time.kernel, time.batch_size, time.direction)
        its_ms = predict_kernel(source, *key).ms
        ms = fitted.get(key, its_ms * exp(log_ratio(anchors, time.direction, time.kernel.family)))
        if key not in own:
            own[key] = _as_long(time, ms + call_ms)
    return tuple(own.values())


def _fitted_ms(sources: Sequence[DeviceProfile], few: FewTimes, rows: Sequence[KernelTime]) -> dict[KernelKey, float]:
    """Times of families with so many rows on both phones that they are fitted, by kernel."""
    call_ms, found = call_of(few) or 0.0, dict[KernelKey, float]()
    kinds = dict.fromkeys((time.kernel.family, time.direction) for time in rows)
    for kind in kinds:
        own = [time for time in _of_kind(few.kernels, kind) if time.median_ms > call_ms]
        tables = [_of_kind(one.kernels, kind) for one in sources]
        pairs = [(one, table) for one, table in zip(sources, tables, strict=True) if len(table) >= MIN_ROWS]
        if len(own) < MIN_ROWS or not pairs:
            continue
        asked = _of_kind(rows, kind)
        every = _features([*own, *asked, *(time for _, table in pairs for time in table)])
        varied = np.ptp(every, axis=0) > 0
        models = [_fit_source(one, table, varied) for one, table in pairs]
        model = fit_few(models, _features(own)[:, varied], np.array([time.median_ms - call_ms for time in own]))
        predicted = model.predict(_features(asked)[:, varied]).median_ms
        keys = ((time.kernel, time.batch_size, time.direction) for time in asked)
        found.update(zip(keys, map(float, predicted), strict=True))
    return found


def _fit_source(source: DeviceProfile, table: Sequence[KernelTime], varied: Floats) -> TimeModel:
    times = [max(predict_kernel(source, t.kernel, t.batch_size, t.direction).ms, 1e-6) for t in table]
    return fit_times(_features(table)[:, varied], np.array(times))


def _features(times: Sequence[KernelTime]) -> Floats:
    """f64[n, 6]: batch, and what one example's time hangs on but for the bias, since six are the most."""
    return np.array([(time.batch_size, *features_of(time.kernel)[:-1]) for time in times], np.float64)


def _of_kind(times: Iterable[KernelTime], kind: tuple[str, Direction]) -> list[KernelTime]:
    return [time for time in times if (time.kernel.family, time.direction) == kind]


def _calibrate(
    carried: DeviceProfile,
    source: DeviceProfile,
    few: FewTimes,
    anchors: Sequence[Anchor],
    direction: Direction,
) -> Calibration:
    num_own = sum(anchor.direction == direction for anchor in anchors)
    relied_on = (direction,) if num_own else get_args(Direction)
    errors = [error for one in relied_on for error in left_out_errors(anchors, one)]
    spread = sqrt((_ASSUMED_ANCHORS * _ASSUMED**2 + sum(e**2 for e in errors)) / (_ASSUMED_ANCHORS + len(errors)))
    if not num_own:
        spread = hypot(spread, _OTHER_DIRECTION)
    networks = [one for one in few.networks if one.direction == direction]
    basis = f"{len(errors)} anchors left out in turn" if errors else "an assumed error: no two anchors to compare"
    return Calibration(
        direction=direction,
        factor=_round(_factor(carried, networks) if networks else _factor_of_source(source, direction)),
        low80=_round(exp(-_Z80 * spread)),
        high80=_round(exp(_Z80 * spread)),
        low95=_round(exp(-_Z95 * spread)),
        high95=_round(exp(_Z95 * spread)),
        p90_over_p50=_round(_p90_over_p50(few, direction)),
        source=f"carried over from {source.name} by {num_own or 'no'} {direction} anchors; {basis}",
    )


def _factor(profile: DeviceProfile, networks: Sequence[NetworkTime]) -> float:
    """What networks take beside the sum of their kernels."""
    return median(network.median_ms / _plain_ms(profile, network) for network in networks)


def _factor_of_source(source: DeviceProfile, direction: Direction) -> float:
    given = [one.factor for one in source.calibrations if one.direction == direction]
    networks = [one for one in source.networks if one.direction == direction]
    if given or not networks:
        return given[0] if given else 1.0
    return _factor(source, networks)


def _plain_ms(profile: DeviceProfile, network: NetworkTime) -> float:
    parts = (predict_kernel(profile, kernel, network.batch_size, network.direction).ms for kernel in network.kernels)
    return profile.throughput.call_overhead_ms.value + sum(parts)


def _p90_over_p50(few: FewTimes, direction: Direction) -> float:
    """Of the networks that were run often enough, else of phones in use."""
    told = [one.p90_ms / one.median_ms for one in few.networks if one.direction == direction and one.repetitions > 9]
    return median(told) if told else float(tail_quantile(ROUGH_TAIL, [0.9])[0])


def _warnings(
    source: DeviceProfile, few: FewTimes, anchors: Sequence[Anchor], calibrations: Sequence[Calibration]
) -> list[str]:
    told = [f"carried over from {source.name} by {count_anchors(anchors)} ({few.source}): little of it was measured"]
    own = {anchor.direction for anchor in anchors}
    missing = [one for one in calibrations if one.direction not in own]
    if missing:
        low, high = min(one.low95 for one in missing), max(one.high95 for one in missing)
        told.append(
            f"no {' and no '.join(one.direction for one in missing)} time was measured: scaled as the others, 95% of "
            f"networks expected within {low:.2f} to {high:.2f} times the prediction"
        )
    if few.runtime is not None and few.runtime.name != source.runtime.name:
        told.append(f"measured with {few.runtime.name}, {source.name} with {source.runtime.name}: kernels differ")
    if few.threads != source.threads:
        told.append(f"measured with {few.threads} thread(s), {source.name} with {source.threads}")
    return told


def _longer(time: KernelTime, ms: float) -> KernelTime:
    """The same with a call before it."""
    return _as_long(time, time.median_ms + ms, time.repetitions) if ms else time


def _as_long(time: KernelTime, median_ms: float, repetitions: int = 0) -> KernelTime:
    """The same spread about another median; 0 repetitions where nobody timed it."""
    ratio = median_ms / time.median_ms if time.median_ms else 1.0  # what was fused away takes no time, and no less
    return replace(
        time,
        median_ms=_round(median_ms),
        p90_ms=_round(time.p90_ms * ratio),
        min_ms=_round(time.min_ms * ratio),
        repetitions=repetitions,
        samples_ms=(),
    )


def _round(value: float) -> float:
    return float(f"{value:.5g}")
