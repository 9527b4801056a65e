"""From visits to whole graphs to the times of their kernels.

The profiler's own work counts into the time of each node, much the same for all: with ONNX Runtime 1.19.2 0.7
microseconds in shipped models and up to 1 in gradient.onnx, where an average node takes less. So it is estimated as
what the sum of a graph's nodes is longer than a run that nothing watched, by node, in the median over the graphs of a
direction, and taken off every node. What is left is scaled so that a graph's kernels add up to its own time without the
call: gradients by 0.97 to 1.1 where they take a millisecond, by 0.6 to 0.8 where 800 nodes take less. Scaling alone,
without taking off, has to be by 0.4 to 1, by another factor in each network, since small nodes are counted too long:
kernels of other networks then tell a network's time with a median error of 7.5% and not 3.7 (evaluation: 4.2 and 1.0).

The profiler tells whole microseconds, in which a kernel of two nodes takes 0, 1 or 2. So a sample of a kernel is the
mean of the middle two of four runs, one after the other; of a network it is a run.

Lower quartiles are compared, not medians: another program that takes the core away lengthens runs, not short nodes.

A kernel takes longer in a large network, which leaves caches cold: the loss 15 microseconds behind five layers, 140
behind sixty. So a network has as many samples in a kernel's time as the kernel has a share of that network's time:
sums are right where they would be wrong by most.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from device_runtime.graph_runs import GraphRun, Watched
from profiles.kernel import Kernel
from profiles.samples import keep_evenly, summarize
from profiles.schema import Direction, KernelKey, KernelTime, NetworkTime

Array = NDArray[np.float64]
_QUARTER = 25
_LEAST_MS = 1e-9
_MEAN_OF = 4


@dataclass
class GraphVisits:
    """One graph, and what was found at all visits to it so far.

    Attributes:
        rounds: Milliseconds of runs that nothing watched, by visit.
        watched: Runs under the profiler, by visit.
    """

    run: GraphRun
    batch_size: int
    rounds: list[list[float]] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """In order and with repeats."""
        return self.run.kernels

    @property
    def direction(self) -> Direction:
        """Of the graph."""
        return self.run.direction

    def keys(self) -> tuple[KernelKey, ...]:
        """What its kernels are known by, in order and with repeats."""
        return tuple((kernel, self.batch_size, self.direction) for kernel in self.kernels)

    def quartile_ms(self) -> float:
        """Lower quartile of a run that nothing watched."""
        return float(np.percentile(np.concatenate(self.rounds), _QUARTER))

    def watched_ms(self) -> Array:
        """Each kernel in each sample of watched runs, [samples, kernels]."""
        return np.concatenate([_middle_means(one.kernels_ms) for one in self.watched])

    def num_nodes(self) -> Array:
        """Of each kernel, [kernels]."""
        return self.watched[0].num_nodes


def network_times(graphs: Sequence[GraphVisits]) -> tuple[NetworkTime, ...]:
    """The whole graphs."""
    return tuple(
        NetworkTime(one.kernels, one.batch_size, one.direction, **asdict(summarize(one.rounds))) for one in graphs
    )


def kernel_table(graphs: Sequence[GraphVisits], call_ms: float) -> tuple[KernelTime, ...]:
    """The kernels of all graphs, each once, as they were first met.

    Args:
        call_ms: Of an empty graph.
    """
    samples: dict[KernelKey, list[Array]] = defaultdict(list)
    shares: dict[KernelKey, list[float]] = defaultdict(list)
    for graph, times in zip(graphs, corrected_times(graphs, call_ms), strict=True):
        medians = np.median(times, axis=0).clip(0)
        for place, key in enumerate(graph.keys()):
            samples[key].append(times[:, place])
            shares[key].append(float(medians[place] / max(medians.sum(), _LEAST_MS)))
    return tuple(KernelTime(*key, **asdict(summarize(_by_share(samples[key], shares[key])))) for key in samples)


def corrected_times(graphs: Sequence[GraphVisits], call_ms: float) -> Iterator[Array]:
    """Milliseconds of each graph's kernels without the profiler's work, [samples, kernels]; they add up to its own."""
    added = {direction: node_overhead_ms(graphs, direction, call_ms) for direction in {one.direction for one in graphs}}
    for graph in graphs:
        watched = graph.watched_ms()
        times = watched - added[graph.direction] * graph.num_nodes()
        if _total_ms(times) <= 0:
            times = watched  # the profiler's work was all that showed: shares as they looked with it
        total = _total_ms(times)
        yield times * (_net_ms(graph, call_ms) / total) if total > 0 else np.zeros_like(times)


def node_overhead_ms(graphs: Sequence[GraphVisits], direction: Direction, call_ms: float) -> float:
    """What the profiler adds to each node of a direction; >= 0."""
    found = []
    for graph in graphs:
        if graph.direction == direction:
            more = _total_ms(graph.watched_ms()) - _net_ms(graph, call_ms)
            found.append(more / max(float(graph.num_nodes().sum()), 1.0))
    return max(float(np.median(found)), 0.0)


def _total_ms(times: Array) -> float:
    return float(np.percentile(times.sum(axis=1), _QUARTER))


def _net_ms(graph: GraphVisits, call_ms: float) -> float:
    return max(graph.quartile_ms() - call_ms, 0.0)


def _middle_means(times: Array) -> Array:
    """Of each four runs in a row, [at least a quarter of the runs, kernels]."""
    parts = [np.sort(part, axis=0) for part in np.array_split(times, -(-len(times) // _MEAN_OF))]
    return np.array([(part[1:-1] if len(part) > 2 else part).mean(axis=0) for part in parts])


def _by_share(columns: Sequence[Array], shares: Sequence[float]) -> list[list[float]]:
    """Samples of a kernel's occurrences, all of the one with the largest share, of the others by theirs."""
    most = max(shares)
    wanted = [len(column) * (share / most if most else 1.0) for column, share in zip(columns, shares, strict=True)]
    return [list(keep_evenly(column.tolist(), round(number))) for column, number in zip(columns, wanted, strict=True)]
