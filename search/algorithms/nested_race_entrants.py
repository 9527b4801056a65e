"""Who enters a nested race: for each number of stages what widening within the limits reaches; no client is asked.

How much a network computes (multiply-accumulates) within equal limits is all that is read of it, a proxy that costs no
client anything. It is compared at equal limits alone: a network of few wide stages computes more in a millisecond than
one of many narrow ones, since each kernel that a phone starts costs time of its own. Widening is greedy and was tried
under limits of latency alone: under those of size it misses much, and a higher limit may lead to less (decision 0014).
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from search.architecture import Architecture
from search.budget import Feasibility, InfeasibleError
from search.layers import layers_of
from search.pruning import LEAST_WIDTH, blocks_of, narrower, width_of, with_width
from search.slicing import is_part
from search.space import SearchSpace

TAPERS = (1.0, 4.0, 0.25)  # width of the last block over the first one's


def entrants(space: SearchSpace, limits: Feasibility, count: int) -> tuple[Architecture, ...]:
    """At most `count` parts of the space's largest network within the limits, those that compute most first.

    Each has another number of stages, and is the one of most multiply-accumulates that widening block by block reaches
    from even, growing and shrinking widths, with each of the space's depths and kernels. Where stages have strides and
    the head keeps positions, all have the largest network's number: its classifier has weights for its own positions.

    Raises:
        InfeasibleError: When no part is within the limits.
    """
    largest = space.largest()
    parts = [
        [
            shape
            for shape in _shapes(space, replace(largest, stages=largest.stages[:num_stages]))
            if is_part(largest, shape)
        ]
        for num_stages in range(space.min_stages, len(largest.stages) + 1)
    ]
    found = []
    for shapes in parts:
        ones = [widest for shape in shapes for widest in _widest(shape, limits)]
        if ones:
            found.append(max(ones, key=multiply_accumulates))
    if not found:
        shortest = next(shape for shapes in parts for shape in shapes)
        broken = limits.violations(_scaled(shortest, 1.0, 0.0))[0]
        raise InfeasibleError(f"with the fewest stages and every width {LEAST_WIDTH} the network breaks {broken}")
    return tuple(sorted(found, key=multiply_accumulates, reverse=True)[:count])


def multiply_accumulates(network: Architecture) -> int:
    """Of one example's forward pass."""
    return sum(layer.multiply_accumulates() for layer in layers_of(network))


def _shapes(space: SearchSpace, network: Architecture) -> Iterator[Architecture]:
    """The network with each depth and kernel that its stages may have, the smallest first."""
    choices = space.stages
    for depth, kernel in product(sorted(choices.depths), sorted(choices.kernels)) if network.stages else [(0, 0)]:
        yield replace(network, stages=tuple(replace(stage, depth=depth, kernel=kernel) for stage in network.stages))


def _widest(shape: Architecture, limits: Feasibility) -> Iterator[Architecture]:
    """From each taper the network that no block can be widened in without breaking a limit."""
    for taper in TAPERS:
        network = _largest_scaled(shape, taper, limits)
        if network is not None:
            yield _filled_up(network, shape, limits)


def _largest_scaled(shape: Architecture, taper: float, limits: Feasibility) -> Architecture | None:
    """The widest of a taper within the limits, by bisection; None where the narrowest breaks one."""
    steps = 4 * max(width_of(shape, block) for block in blocks_of(shape))
    low, high = 0, steps
    if not limits.is_feasible(_scaled(shape, taper, 0.0)):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        if limits.is_feasible(_scaled(shape, taper, 2 * middle / steps)):
            low = middle
        else:
            high = middle - 1
    return _scaled(shape, taper, 2 * low / steps)


def _scaled(shape: Architecture, taper: float, factor: float) -> Architecture:
    blocks, network = blocks_of(shape), shape
    for i, block in enumerate(blocks):
        wanted = factor * width_of(shape, block) * taper ** (i / max(1, len(blocks) - 1) - 0.5)
        network = with_width(network, block, min(_widths(shape, block), key=lambda width: abs(width - wanted)))
    return network


def _filled_up(network: Architecture, shape: Architecture, limits: Feasibility) -> Architecture:
    """The network with one block after the other a step wider, always the one that adds most, while limits allow."""
    while True:
        wider = [one for block in blocks_of(shape) for one in _a_step_wider(network, shape, block)]
        within = [one for one in wider if limits.is_feasible(one)]
        if not within:
            return network
        network = max(within, key=multiply_accumulates)


def _a_step_wider(network: Architecture, shape: Architecture, block: tuple[int, ...]) -> list[Architecture]:
    wider = [width for width in _widths(shape, block) if width > width_of(network, block)]
    return [with_width(network, block, min(wider))] if wider else []


def _widths(shape: Architecture, block: tuple[int, ...]) -> list[int]:
    width = width_of(shape, block)
    return [width, *narrower(width)]
