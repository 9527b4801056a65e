"""The Pareto front: points that no other point beats in one objective without losing in another."""

from collections.abc import Sequence
from math import isnan
from typing import Literal

Direction = Literal["min", "max"]
Point = tuple[float, ...]


def pareto_front(
    points: Sequence[Sequence[float]], directions: Sequence[Direction] = ("min", "max")
) -> tuple[int, ...]:
    """Find the points that none dominates; by default (cost, value), cheapest first.

    A point dominates another when it is at least as good in every objective and better in one, so equal points stand or
    fall together. O(n log n) for two objectives, O(n * front) for more.

    Returns:
        Indices into `points`, the best in the first objective first.

    Raises:
        ValueError: When a point has another number of objectives than `directions`, or NaN.
    """
    _check(points, directions)
    signs = [1 if direction == "min" else -1 for direction in directions]
    losses = [tuple(sign * value for sign, value in zip(signs, point, strict=True)) for point in points]
    order = sorted(range(len(points)), key=losses.__getitem__)  # whoever dominates a point comes before it
    keep = _sweep if len(directions) == 2 else _scan
    kept = keep([losses[i] for i in order])
    return tuple(i for i, is_kept in zip(order, kept, strict=True) if is_kept)


def _sweep(losses: list[Point]) -> list[bool]:
    kept: list[bool] = []
    best = losses[0] if losses else ()
    for loss in losses:
        is_kept = loss[1] < best[1] or loss == best
        best = loss if is_kept else best
        kept.append(is_kept)
    return kept


def _scan(losses: list[Point]) -> list[bool]:
    front: list[Point] = []
    kept: list[bool] = []
    for loss in losses:
        is_kept = not any(_dominates(other, loss) for other in front)
        kept.append(is_kept)
        if is_kept:
            front.append(loss)
    return kept


def _dominates(one: Point, other: Point) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def _check(points: Sequence[Sequence[float]], directions: Sequence[Direction]) -> None:
    if not directions or any(direction not in ("min", "max") for direction in directions):
        raise ValueError(f"directions must name 'min' or 'max' for each objective, got {tuple(directions)}")
    for i, point in enumerate(points):
        if len(point) != len(directions):
            raise ValueError(f"point {i} must have {len(directions)} objectives, got {len(point)}")
        if any(isnan(value) for value in point):
            raise ValueError(f"point {i} must have no NaN, got {tuple(point)}; leave failed trials out")
