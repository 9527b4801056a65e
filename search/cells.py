"""Networks found in a supernet of cells: read off its architecture weights, the likeliest first."""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby, islice, product
from math import exp, fsum

import numpy as np
from numpy.typing import NDArray

from search.architecture import Architecture, Edge, Operation
from search.budget import InfeasibleError
from search.cell_space import CellSpace, Node, nodes_of

_MOST_TRIED = 4096  # networks; a few seconds of predicting costs
_LITTLE = 1e-9  # nats that a swap costs at least, so that what costs nothing comes first


@dataclass(frozen=True)
class EdgeProbabilities:
    """What the architecture weights of one edge say.

    Attributes:
        stage, node, source: Which edge: of all cells of a stage, into a node, from a source as in `Edge`.
        operations: Softmax of the edge's weights, `none` included, by operation.
    """

    stage: int
    node: int
    source: int
    operations: dict[Operation, float]


def probabilities(supernet: Architecture, architecture_weights: Sequence[float]) -> tuple[EdgeProbabilities, ...]:
    """The probability of each operation on each edge of a supernet, in layout order.

    Args:
        architecture_weights: Of the supernet, in layout order.

    Raises:
        ValueError: When they are not as many as the supernet has, or not finite.
    """
    return tuple(
        EdgeProbabilities(
            mixed.stage, mixed.node, mixed.source, {name: exp(-cost) for name, cost in mixed.costs.items()}
        )
        for mixed in _mixed_edges(supernet, architecture_weights)
    )


def found_network(space: CellSpace, architecture_weights: Sequence[float]) -> Architecture:
    """The network of each edge's likeliest operation but `none` and each node's likeliest edges; the first of equals.

    "DARTS", arXiv:1806.09055, section 2.4.

    Raises:
        ValueError: As of `probabilities`.
    """
    return next(_likeliest_first(space, architecture_weights))


def found_within(
    space: CellSpace, architecture_weights: Sequence[float], overshoot: Callable[[Architecture], float]
) -> Architecture:
    """Of the feasible networks the one with the largest product of its operations' probabilities.

    Where every network is feasible, the same as `found_network`. Where none of the likeliest few thousand is, one is
    reached from the likeliest by the swaps of operations that save most of the broken limits for what they cost in
    log-probability; it need not be the likeliest feasible one.

    Args:
        overshoot: By how much a network breaks limits; 0 for a feasible one.

    Raises:
        InfeasibleError: When neither those networks nor the space's smallest are feasible.
        ValueError: As of `probabilities`.
    """
    for network in islice(_likeliest_first(space, architecture_weights), _MOST_TRIED):
        if not overshoot(network):
            return network
    return _descend(space, architecture_weights, overshoot)


@dataclass(frozen=True)
class _MixedEdge:
    """An edge of the supernet; costs are negative logarithms of probabilities, which add up where those multiply."""

    stage: int
    node: int
    source: int
    costs: dict[Operation, float]


def _mixed_edges(supernet: Architecture, architecture_weights: Sequence[float]) -> list[_MixedEdge]:
    cells = [(i, stage.cell.nodes) for i, stage in enumerate(supernet.stages) if stage.cell]
    places = [(i, node, edge) for i, nodes in cells for node, edges in enumerate(nodes) for edge in edges]
    sizes = [
        len(edge.operations) if len(edge.operations) > 1 else 0 for _, _, edge in places
    ]  # one alone has no weight
    weights = np.asarray(architecture_weights, np.float64)
    if weights.shape != (sum(sizes),) or not np.isfinite(weights).all():
        raise ValueError(
            f"architecture_weights must be {sum(sizes)} finite numbers, one for each operation of each edge of the "
            f"supernet, got {weights.size}: {architecture_weights!s:.60}"
        )
    rows = np.split(weights, np.cumsum(sizes)[:-1])
    return [
        _MixedEdge(stage, node, edge.source, dict(zip(edge.operations, _costs(row), strict=True)))
        for (stage, node, edge), row in zip(places, rows, strict=True)
    ]


def _costs(row: NDArray[np.float64]) -> list[float]:
    """Negative logarithms of the softmax of an edge's weights; of no weights that of the one operation, 0."""
    shifted = row - row.max() if row.size else np.zeros(1)
    return [float(cost) for cost in np.log(np.exp(shifted).sum()) - shifted]


def _likeliest_first(space: CellSpace, architecture_weights: Sequence[float]) -> Iterator[Architecture]:
    """All networks of the space, each once, from the likeliest on.

    Nodes choose apart from each other, so a heap of networks is enough where each brings those that differ from it by
    the next choice of one node. Only nodes from the last one on that has left its first choice move, so that each
    network has one way to come in.
    """
    by_node = groupby(_mixed_edges(space.supernet(), architecture_weights), lambda edge: (edge.stage, edge.node))
    choices = [_choices(list(edges), space.edges_kept) for _, edges in by_node]

    def entry(places: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
        return fsum(ways[place][0] for ways, place in zip(choices, places, strict=True)), places

    heap = [entry((0,) * len(choices))]
    while heap:
        _, places = heapq.heappop(heap)
        yield space.network_of([ways[place][1] for ways, place in zip(choices, places, strict=True)])
        moved = max((i for i, place in enumerate(places) if place), default=0)
        for i in range(moved, len(places)):
            if places[i] + 1 < len(choices[i]):
                heapq.heappush(heap, entry((*places[:i], places[i] + 1, *places[i + 1 :])))


def _descend(
    space: CellSpace, architecture_weights: Sequence[float], overshoot: Callable[[Architecture], float]
) -> Architecture:
    """From the likeliest network down; where no swap saves anything, node by node to the smallest network."""
    mixed = _mixed_edges(space.supernet(), architecture_weights)
    costs = {(edge.stage, edge.node, edge.source): edge.costs for edge in mixed}
    places = list(dict.fromkeys((edge.stage, edge.node) for edge in mixed))
    smallest = nodes_of(space.smallest())
    nodes = nodes_of(found_network(space, architecture_weights))
    left = set(range(len(nodes)))  # those that are not the smallest network's yet for good

    def cost(place: int, edges: Node) -> float:
        return fsum(costs[*places[place], edge.source][edge.operations[0]] for edge in edges)

    while over := overshoot(space.network_of(nodes)):
        swaps = [
            (
                (over - overshoot(space.network_of(changed))),
                cost(place, changed[place]) - cost(place, nodes[place]),
                changed,
            )
            for place in sorted(left)
            for changed in _swapped(nodes, place, [name for name in space.operations if name != "none"])
        ]
        saving = [swap for swap in swaps if swap[0] > 0]
        if saving:
            *_, nodes = max(saving, key=lambda swap: swap[0] / max(swap[1], _LITTLE))
        elif left:
            place = min(sorted(left), key=lambda one: cost(one, smallest[one]) - cost(one, nodes[one]))
            nodes = (*nodes[:place], smallest[place], *nodes[place + 1 :])
            left.remove(place)
        else:
            raise InfeasibleError(
                f"none of the supernet's {_MOST_TRIED} likeliest networks meets the limits, nor does the space's "
                "smallest: raise a budget or make cells smaller"
            )
    return space.network_of(nodes)


def _swapped(nodes: Sequence[Node], place: int, operations: Sequence[Operation]) -> Iterator[tuple[Node, ...]]:
    """Each other operation on each edge of a node."""
    for i, edge in enumerate(nodes[place]):
        for name in operations:
            if (name,) != edge.operations:
                edges = (*nodes[place][:i], Edge(edge.source, (name,)), *nodes[place][i + 1 :])
                yield (*nodes[:place], edges, *nodes[place + 1 :])


def _choices(edges: list[_MixedEdge], edges_kept: int) -> list[tuple[float, Node]]:
    """All that a node may keep, the likeliest first; of equals the first sources, then the first operations."""
    ways = []
    for kept in combinations(edges, edges_kept):
        named = ([name for name in edge.costs if name != "none"] for edge in kept)
        for operations in product(*named):
            pairs = list(zip(kept, operations, strict=True))
            cost = fsum(edge.costs[name] for edge, name in pairs)
            ways.append((cost, tuple(Edge(edge.source, (name,)) for edge, name in pairs)))
    return sorted(ways, key=lambda way: way[0])
