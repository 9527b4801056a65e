"""What a new phone takes beside a known one: kernels and networks that both have a time of."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, sqrt
from statistics import median

from profiles.few import FewTimes
from profiles.predict import predict_kernel, predict_kernels
from profiles.schema import DeviceProfile, Direction

CALL = "call"
_PRIOR_ROWS = 1  # that all anchors of a direction count for, beside those of a family


@dataclass(frozen=True)
class Anchor:
    """What the new phone takes beside the other one.

    Attributes:
        family: Of a kernel; empty for a network.
        log_ratio: Of the new phone's time by the other's.
    """

    direction: Direction
    family: str
    log_ratio: float


def anchors_of(source: DeviceProfile, few: FewTimes) -> tuple[Anchor, ...]:
    """What the new phone takes beside `source`, kernel by kernel and network by network."""
    call_ms, found = call_of(few) or 0.0, []
    for time in few.kernels:
        its_ms = predict_kernel(source, time.kernel, time.batch_size, time.direction).ms
        own_ms = time.median_ms - call_ms
        if time.kernel.kind != CALL and min(own_ms, its_ms) > 0:
            found.append(Anchor(time.direction, time.kernel.family, log(own_ms / its_ms)))
    for network in few.networks:
        its_ms = predict_kernels(source, network.kernels, network.batch_size, network.direction).median_ms
        found.append(Anchor(network.direction, "", log(network.median_ms / its_ms)))
    return tuple(found)


def log_ratio(anchors: Sequence[Anchor], direction: Direction, family: str) -> float:
    """How many times as long, as a logarithm, kernels of a family take on the new phone; empty: networks."""
    own = [anchor for anchor in anchors if anchor.direction == direction] or anchors
    by_family = {name: _ratios(own, name) for name in {anchor.family for anchor in own}}
    # A network tells of all families at once; a family with many rows says no more of the others than one with few.
    common = median(by_family.get("") or map(median, by_family.values()))
    rows = by_family.get(family, [])
    if not family or not rows:
        return common
    return (len(rows) * median(rows) + _PRIOR_ROWS * common) / (len(rows) + _PRIOR_ROWS)


def _ratios(anchors: Sequence[Anchor], family: str) -> list[float]:
    return [anchor.log_ratio for anchor in anchors if anchor.family == family]


def call_of(few: FewTimes) -> float | None:
    """What an empty call takes, where the times tell it."""
    return next((time.median_ms for time in few.kernels if time.kernel.kind == CALL), None)


def left_out_errors(anchors: Sequence[Anchor], direction: Direction) -> list[float]:
    """Errors of log times of a direction's anchors, each predicted by the others; of networks where there are two."""
    places = [i for i, anchor in enumerate(anchors) if anchor.direction == direction]
    networks = [i for i in places if not anchors[i].family]
    chosen = networks if len(networks) > 1 else [i for i in places if anchors[i].family]
    if len(chosen) < 2:
        return []
    rest = [[*anchors[:i], *anchors[i + 1 :]] for i in chosen]
    return [
        anchors[i].log_ratio - log_ratio(others, direction, anchors[i].family)
        for i, others in zip(chosen, rest, strict=True)
    ]


def unlikeness(anchors: Sequence[Anchor]) -> float:
    """How unlike two phones are by their anchors: the root of the mean square of log ratios; 0 for none."""
    squares = [anchor.log_ratio**2 for anchor in anchors]
    return sqrt(sum(squares) / len(squares)) if squares else 0.0


def count_anchors(anchors: Sequence[Anchor]) -> str:
    """In words."""
    num_networks = sum(not anchor.family for anchor in anchors)
    counts = (len(anchors) - num_networks, "kernel"), (num_networks, "network")
    return " and ".join(f"{count} {name}{'s' if count > 1 else ''}" for count, name in counts if count)
