"""Predict what networks take on a device, how sure that is, and how it is known.

A device measured with whole networks: its kernels' times, through what those networks say of sums and of errors. A
device measured with single kernels: their plain sum, which ignores what a runtime does across layers and so is an upper
estimate for most networks. Any other: rates, and the calibration that came with them if one did. Where a device has
both, its networks tell and the calibration that came is not used: another device's errors say less than its own.

Intervals without a calibration are rules, as `docs/profiles.md` gives them. Rates of published networks were right
within a factor of two for small networks; sums of measured kernels within 1.4; so 95% within that, and 80% as a normal
distribution of logs would have them. Where a calibrated network has kernels far from all that was measured, their share
of its time is as unsure as a rule says, beside what the calibration says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import exp, hypot, log

from profiles.kernel import CONVOLUTIONS, JOINING, POOLINGS, Kernel
from profiles.kernel_times import METHODS, KernelPrediction, Method, predict_all, predict_kernel
from profiles.network_times import model_of
from profiles.schema import Calibration, DeviceProfile, Direction
from profiles.sustained import TYPICAL_TAIL, tail_quantile

__all__ = [
    "METHODS",
    "KernelPrediction",
    "Method",
    "Prediction",
    "predict_kernel",
    "predict_kernels",
    "predict_networks",
]
KNOWN_KINDS = CONVOLUTIONS | POOLINGS | JOINING | {"linear", "group_norm", "relu", "hard_swish", "global_average"}
KNOWN_KINDS |= {"cross_entropy", "call", "fused_relu"}
_RULES: dict[Method, float] = {
    "measured": log(1.4),
    "regression": log(1.4),
    "transferred": log(1.8),
    "scaled": log(1.8),
    "throughput": log(2),
}
_CALIBRATED_RULES: dict[Method, float] = {
    "measured": 0.0,
    "regression": 0.0,
    "transferred": 0.0,  # the calibration says what anchors say
    "scaled": log(1.5),
    "throughput": log(2),
}
_REACH = 0.5  # of the logarithm by which more work was asked for than any measured kernel of the kind does
_UNKNOWN_KIND = log(10)  # its work is not known, so that its time is a guess from what it reads and writes
_SHARE_80 = 1.2816 / 1.9600  # of a normal distribution's 95% interval
_TYPICAL_P90 = float(tail_quantile(TYPICAL_TAIL, [0.9])[0])


@dataclass(frozen=True)
class Prediction:
    """Milliseconds of one run of a graph.

    Attributes:
        method: The least sure one among the kernels'.
        unknown: The distinct kernels that nobody timed on the device.
        p90_ms: Nine of ten runs of a measurement take less.
        interval80_ms, interval95_ms: Where the median of four of five, and of 19 of 20, such networks lies.
        warnings: What makes this worth less than it looks.
    """

    median_ms: float
    method: Method
    unknown: tuple[Kernel, ...]
    p90_ms: float
    interval80_ms: tuple[float, float]
    interval95_ms: tuple[float, float]
    warnings: tuple[str, ...] = ()


def predict_kernels(
    profile: DeviceProfile, kernels: Sequence[Kernel], batch_size: int, direction: Direction
) -> Prediction:
    """Predict one run for `batch_size` examples; `kernels` with repeats, as `search.cost` lists them."""
    return predict_networks(profile, [kernels], batch_size, direction)[0]


def predict_networks(
    profile: DeviceProfile, networks: Sequence[Sequence[Kernel]], batch_size: int, direction: Direction
) -> list[Prediction]:
    """Predict many networks at once, which is faster; each as `predict_kernels` does, to the last bit."""
    parts = predict_all(profile, chain.from_iterable(networks), batch_size, direction)
    places = {kernel: place for place, kernel in enumerate(parts)}  # found once: kernels are slow to look up
    placed = [[places[kernel] for kernel in network] for network in networks]
    known = _Known(tuple(parts), tuple(parts.values()))
    ms, call_ms = [part.ms for part in known.parts], profile.throughput.call_overhead_ms.value
    given = next((one for one in profile.calibrations if one.direction == direction), None)
    if model := model_of(profile, direction, batch_size):
        medians, given = model.median_ms(placed, known.kernels, ms, call_ms), model.calibration
    else:
        medians = [call_ms + sum(ms[place] for place in network) for network in placed]
        medians = medians if given is None else [given.factor * plain for plain in medians]
    return [_prediction(network, known, median, given) for network, median in zip(placed, medians, strict=True)]


@dataclass(frozen=True)
class _Known:
    """Distinct kernels and what each takes alone."""

    kernels: tuple[Kernel, ...]
    parts: tuple[KernelPrediction, ...]

    def is_guessed(self, place: int) -> bool:
        """Whether nothing is known of its kind."""
        return self.parts[place].method == "throughput" and self.kernels[place].kind not in KNOWN_KINDS


def _prediction(network: Sequence[int], known: _Known, median: float, given: Calibration | None) -> Prediction:
    distinct = dict.fromkeys(network)
    unsure = [place for place in distinct if known.parts[place].method != "measured"]
    interval80, interval95 = _intervals(median, _doubt(network, known, given), given)
    guessed = sorted({known.kernels[place].kind for place in unsure if known.is_guessed(place)})
    return Prediction(
        median_ms=median,
        method=max((known.parts[place].method for place in unsure), key=METHODS.index, default="measured"),
        unknown=tuple(known.kernels[place] for place in unsure),
        p90_ms=median * (_TYPICAL_P90 if given is None else given.p90_over_p50),
        interval80_ms=interval80,
        interval95_ms=interval95,
        warnings=tuple(
            f"nothing is known of {kind!r}: its time is guessed from the bytes it moves; measure networks that have it"
            for kind in guessed
        ),
    )


def _intervals(
    median: float, doubt: float, given: Calibration | None
) -> tuple[tuple[float, float], tuple[float, float]]:
    """80% and 95%: a calibration's ends, and `doubt`, a log factor of 95%, beside them."""
    ends = (1.0, 1.0, 1.0, 1.0) if given is None else (given.low80, given.high80, given.low95, given.high95)
    low80, high80, low95, high95 = map(log, ends)
    near = _SHARE_80 * doubt
    return (
        (median * exp(low80 - _beyond(low80, near)), median * exp(high80 + _beyond(high80, near))),
        (median * exp(low95 - _beyond(low95, doubt)), median * exp(high95 + _beyond(high95, doubt))),
    )


def _beyond(end: float, doubt: float) -> float:
    """How far an end moves out when an independent doubt comes to it."""
    return hypot(end, doubt) - abs(end)


def _doubt(network: Sequence[int], known: _Known, given: Calibration | None) -> float:
    """The log factor of a rule, by the kernels' shares of the time."""
    rules = _RULES if given is None else _CALIBRATED_RULES
    total = sum(known.parts[place].ms for place in network)
    if total <= 0:
        return rules["measured"]
    doubts = (
        part.ms * (_UNKNOWN_KIND if known.is_guessed(place) else rules[part.method] + _REACH * part.reach)
        for place, part in ((place, known.parts[place]) for place in network)
    )
    return sum(doubts) / total
