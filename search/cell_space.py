"""The space of cell networks, what a supernet of cells holds: how to draw one and how to change one.

"DARTS", arXiv:1806.09055, section 2.1, with a cell of its own for each stage in the place of one normal and one
reduction cell.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, product
from math import comb, prod

import numpy as np

from search.architecture import (
    Activation,
    Architecture,
    Cell,
    Edge,
    HeadKind,
    Normalization,
    Operation,
    Stage,
    Stem,
)
from search.candidate import Candidate, HyperParameters
from search.choices import (
    Change,
    check_choices,
    combine,
    count,
    field_changes,
    is_chosen_from,
    lift,
    next_options,
    pick,
)
from search.options import HyperParameterOptions

Node = tuple[Edge, ...]

# A skip with a stride is a convolution, of one pixel and without an activation.
_CHEAPER_FIRST: tuple[Operation, ...] = (
    "skip",
    "average_pool",
    "max_pool",
    "conv_1",
    "separable_3",
    "separable_5",
    "dilated_3",
    "conv_3",
)


@dataclass(frozen=True)
class CellSpace:
    """All networks of a stem and stages of cells, each node of which reads a few different sources by one operation.

    Attributes:
        input_shape: (channels, height, width) of one example.
        num_classes: Outputs of the last linear layer.
        operations: Of the supernet's edges; a found network has any of them but `none`.
        nodes: Of each cell.
        width: Channels of the stem and of each node.
        strides: Of the first cell of each stage; as many stages as strides.
        depth: Cells in a stage of the supernet.
        final_depth: Cells in a stage of the networks. Those of another depth than the supernet's are no part of it.
        edges_kept: Edges into each node of a network.
    """

    input_shape: tuple[int, int, int]
    num_classes: int
    operations: tuple[Operation, ...]
    nodes: int
    width: int
    strides: tuple[int, ...]
    hyper_parameters: HyperParameterOptions
    depth: int = 1
    final_depth: int = 1
    edges_kept: int = 2
    head: HeadKind = "flatten"
    normalization: Normalization = "group"
    activation: Activation = "relu"
    schema: int = 1

    def __post_init__(self) -> None:
        check_choices({"operations": self.operations})
        if not self._operations:
            raise ValueError("operations must have one beside none: nothing would be computed")
        if self.nodes < 1:
            raise ValueError(f"nodes must be >= 1, got {self.nodes}")
        if not self.strides:
            raise ValueError("strides must give each stage's; an empty list would leave stem and head")
        if self.edges_kept not in (1, 2):
            raise ValueError(f"edges_kept must be 1 or 2, as the first node reads two sources, got {self.edges_kept}")
        self.supernet()  # lets Architecture and Stage refuse the rest
        self.smallest()

    def __contains__(self, candidate: Candidate) -> bool:
        nodes = nodes_of(candidate.architecture)
        return (
            len(nodes) == len(self.strides) * self.nodes
            and all(map(self._is_found, nodes))
            and candidate.architecture == self.network_of(nodes)
            and is_chosen_from(candidate.hyper_parameters, self.hyper_parameters.choices())
        )

    def size(self) -> int:
        """Number of candidates."""
        ways = (
            comb(2 + node, self.edges_kept) * len(self._operations) ** self.edges_kept for node in range(self.nodes)
        )
        networks: int = prod(ways) ** len(self.strides)
        return networks * count(self.hyper_parameters.choices())

    def enumerate_candidates(self) -> Iterator[Candidate]:
        """Every candidate once, lazily; ask for `size` first."""
        trainings = [HyperParameters(**fields) for fields in combine(self.hyper_parameters.choices())]
        for nodes in product(*(self._enumerate_nodes(node) for _ in self.strides for node in range(self.nodes))):
            network = self.network_of(nodes)
            yield from (Candidate(network, training) for training in trainings)

    def sample(self, rng: np.random.Generator) -> Candidate:
        """Draw a candidate: each node's sources, then each edge's operation, every option alike."""
        nodes = [self._draw_node(node, rng) for _ in self.strides for node in range(self.nodes)]
        return Candidate(self.network_of(nodes), self.hyper_parameters.sample(rng))

    def mutate(self, candidate: Candidate, rng: np.random.Generator) -> Candidate:
        """Draw one change: another operation or another source of an edge, or a hyper-parameter's next option.

        All places alike, then all options there. The candidate itself comes back only where the space has no other.

        Raises:
            ValueError: When the candidate is not of this space.
        """
        if candidate not in self:
            raise ValueError(f"a candidate to mutate must be of the search space, got {candidate}")
        training = candidate.hyper_parameters
        changes = field_changes(training, next_options(training, self.hyper_parameters.choices()))
        every = [
            *lift(
                self._changes(nodes_of(candidate.architecture)),
                lambda new: replace(candidate, architecture=self.network_of(new)),
            ),
            *lift(changes, lambda new: replace(candidate, hyper_parameters=new)),
        ]
        return pick(every, rng)(rng) if every else candidate

    def smallest(self) -> Architecture:
        """The network of the cheapest edges."""
        return self._extreme(1)

    def largest(self) -> Architecture:
        """The network of the dearest edges."""
        return self._extreme(-1)

    def supernet(self) -> Architecture:
        """All networks in one: every edge has all operations, mixed by architecture weights."""
        return self._network(self._full_cells(), self.depth)

    def final_supernet(self) -> Architecture:
        """All networks in one at their own depth, so that each is a part of it."""
        return self._network(self._full_cells(), self.final_depth)

    def network(self, cells: Sequence[Cell]) -> Architecture:
        """The network with these cells, one for each stage."""
        return self._network(cells, self.final_depth)

    def network_of(self, nodes: Sequence[Node]) -> Architecture:
        """The network with these nodes: those of the first stage's cell, then those of the next one's."""
        return self.network([Cell(tuple(nodes[i : i + self.nodes])) for i in range(0, len(nodes), self.nodes)])

    def _full_cells(self) -> list[Cell]:
        nodes = (tuple(Edge(source, self.operations) for source in range(2 + node)) for node in range(self.nodes))
        return [Cell(tuple(nodes))] * len(self.strides)

    def _network(self, cells: Sequence[Cell], depth: int) -> Architecture:
        stages = tuple(
            Stage("cell", self.width, depth, stride=stride, cell=cell)
            for cell, stride in zip(cells, self.strides, strict=True)
        )
        fields = self.head, self.normalization, self.activation
        return Architecture(self.input_shape, self.num_classes, Stem(self.width), stages, *fields)

    @property
    def _operations(self) -> tuple[Operation, ...]:
        return tuple(operation for operation in self.operations if operation != "none")

    def _is_found(self, edges: Node) -> bool:
        chosen = {(operation,) for operation in self._operations}
        return len(edges) == self.edges_kept and all(edge.operations in chosen for edge in edges)

    def _enumerate_nodes(self, node: int) -> Iterator[Node]:
        for sources in combinations(range(2 + node), self.edges_kept):
            for operations in product(self._operations, repeat=self.edges_kept):
                yield tuple(Edge(source, (one,)) for source, one in zip(sources, operations, strict=True))

    def _draw_node(self, node: int, rng: np.random.Generator) -> Node:
        sources = sorted(rng.choice(2 + node, self.edges_kept, replace=False).tolist())
        return tuple(Edge(source, (pick(self._operations, rng),)) for source in sources)

    def _changes(self, nodes: tuple[Node, ...]) -> list[Change[tuple[Node, ...]]]:
        changes: list[Change[tuple[Node, ...]]] = []
        for place, edges in enumerate(nodes):
            changes += lift(self._node_changes(place % self.nodes, edges), partial(_replace_node, nodes, place))
        return changes

    def _node_changes(self, node: int, edges: Node) -> list[Change[Node]]:
        taken = {edge.source for edge in edges}
        changes: list[Change[Node]] = []
        for edge in edges:
            rest = tuple(other for other in edges if other is not edge)
            others = tuple(Edge(edge.source, (one,)) for one in self._operations if one not in edge.operations)
            moved = tuple(Edge(source, edge.operations) for source in range(2 + node) if source not in taken)
            changes += [partial(_add_edge, rest, options) for options in (others, moved) if options]
        return changes

    def _extreme(self, sign: int) -> Architecture:
        """The network whose edges cost least (1) or most (-1)."""
        return self.network_of(
            [
                min(self._enumerate_nodes(node), key=lambda edges: sign * _cost(edges, stride))
                for stride in self.strides
                for node in range(self.nodes)
            ]
        )


def nodes_of(network: Architecture) -> tuple[Node, ...]:
    """Of all cells, one cell a stage, in the order of `CellSpace.network_of`."""
    return tuple(edges for stage in network.stages if stage.cell for edges in stage.cell.nodes)


def _replace_node(nodes: tuple[Node, ...], place: int, edges: Node) -> tuple[Node, ...]:
    return (*nodes[:place], edges, *nodes[place + 1 :])


def _cost(edges: Node, stride: int) -> int:
    """Sum of the places of the edges' operations in the order of costs."""
    strided = [stride > 1 and edge.source < 2 for edge in edges]
    named = [edge.operations[0] for edge in edges]
    return sum(
        _CHEAPER_FIRST.index("conv_1" if name == "skip" and is_strided else name)
        for name, is_strided in zip(named, strided, strict=True)
    )


def _add_edge(rest: Node, options: tuple[Edge, ...], rng: np.random.Generator) -> Node:
    return tuple(sorted((*rest, pick(options, rng)), key=lambda edge: edge.source))
