"""From what ONNX Runtime's node profiler wrote to the time of each kernel of a measurement pack's graph.

The runtime fuses nodes, splits them and changes layouts when it opens a graph. What it writes about a run names the
nodes of that optimised graph, so their owners are found there: by the node's own name, which the runtime mostly keeps;
by the names of the values that it gives (a convolution in the CPU's own layout); else it is work for whoever reads its
values (a change of layout before a convolution); else of whoever made what it reads. A node into which a convolution
was fused has the name of what came after it, an activation or a sum: its time is the convolution's.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device_runtime.external_data import read_fields
from profiles.kernel import CONVOLUTIONS, Kernel

Array = NDArray[np.float64]
Shares = Mapping[int, float]  # of a node's time, by place among the graph's kernels; they add up to 1
PARAMETERS, LOSS = "parameters", "loss"
_PRODUCTS = CONVOLUTIONS | {"linear"}
_KERNELS = re.compile(r"(?<!\w)((?:k\d+)+)(?:_\d+)?/")
_OTHERS = re.compile(rf"(?<!\w)({PARAMETERS}|{LOSS})/")
_MODEL_GRAPH, _GRAPH_NODE, _NODE_INPUT, _NODE_OUTPUT, _NODE_NAME = 7, 1, 1, 2, 3  # onnx.proto
_NODE_TIME, _RUN = '_kernel_time"', '"model_run"'
_EVENT = re.compile(r'"dur" *: *(\d+) *,.*?"name" *: *("(?:[^"\\]|\\.)*")')


class AttributionError(ValueError):
    """Time was spent in nodes of no kernel."""


@dataclass(frozen=True)
class GraphNode:
    """One node of an optimised graph."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read_nodes(model: bytes) -> tuple[GraphNode, ...]:
    """The nodes of an ONNX file, in order; subgraphs are left out, since no graph of a pack has any."""
    graphs = (value for number, value in read_fields(memoryview(model)) if number == _MODEL_GRAPH)
    nodes = (value for graph in graphs for number, value in read_fields(_message(graph)) if number == _GRAPH_NODE)
    return tuple(_read_node(_message(node)) for node in nodes)


def find_shares(nodes: Sequence[GraphNode], kernels: Sequence[Kernel]) -> dict[str, Shares]:
    """Whose time each node's is, by node name.

    Cutting and joining the parameters counts with the kernels by their number of parameters, the loss with the last
    kernel.

    Raises:
        AttributionError: A node leads to and from no kernel; the graph's nodes are not named after kernels.
    """
    owners: dict[str, str] = {}  # of nodes
    for node in nodes:
        if owner := next(filter(None, map(_owner_in, (node.name, *node.outputs))), None):
            owners[node.name] = owner
    for is_backward in (True, False):
        _spread(nodes, owners, is_backward)
    if missing := [node.name for node in nodes if node.name not in owners]:
        raise AttributionError(
            f"node {missing[0]!r} is of no kernel; compile the pack again (handheld profile pack), and if that does "
            "not help this runtime renames nodes in a way that is not known: please report its version"
        )
    fused_into = _find_fused(set(owners.values()), kernels)
    return {name: _shares_of(fused_into.get(owner, owner), kernels) for name, owner in owners.items()}


def _find_fused(owners: set[str], kernels: Sequence[Kernel]) -> dict[str, str]:
    """The product without a node of its own that was fused into the nodes of another kernel, by that kernel."""
    found: dict[str, str] = {}
    last = None
    for place, kernel in enumerate(kernels):
        name = f"k{place}"
        if kernel.kind in _PRODUCTS:
            last = None if name in owners else name
        elif last and name in owners:
            found[name], last = last, None
    return found


def read_runs(profile: str, most: int) -> list[dict[str, int]]:
    """Microseconds of each node by its name, of the last runs, in order.

    The profiler writes a line of JSON an event, whose arguments, ten times as long as all the rest, say nothing here:
    reading them took longer than the runs.

    Args:
        profile: What the profiler wrote.
        most: How many runs.

    Raises:
        AttributionError: It is laid out in another way.
    """
    runs: list[dict[str, int]] = []
    for line in reversed(profile.splitlines()):
        microseconds, told = found.groups() if (found := _EVENT.search(line)) else ("", "")
        if told == _RUN and len(runs) == most:
            break
        if told == _RUN:
            runs.append({})
        elif told.endswith(_NODE_TIME) and runs:
            nodes, name = runs[-1], json.loads(told).removesuffix(_NODE_TIME[:-1])
            nodes[name] = nodes.get(name, 0) + int(microseconds)
    if len(runs) < most:
        raise AttributionError(
            f"the profiler wrote of {len(runs)} runs, there were {most}; please report this runtime's version"
        )
    return runs[::-1]


def kernel_times(runs: Sequence[Mapping[str, int]], shares: Mapping[str, Shares], num_kernels: int) -> Array:
    """Milliseconds of each kernel in each run, [runs, kernels].

    Raises:
        AttributionError: The profiler names a node that the graph does not have.
    """
    found = np.zeros((len(runs), num_kernels))
    for row, nodes in zip(found, runs, strict=True):
        if unknown := nodes.keys() - shares.keys():
            raise AttributionError(f"the profiler names {min(unknown)!r}, which is no node of the optimised graph")
        for name, microseconds in nodes.items():
            for place, share in shares[name].items():
                row[place] += share * microseconds / 1e3
    return found


def node_counts(shares: Mapping[str, Shares], names: Sequence[str], num_kernels: int) -> Array:
    """How many of the named nodes are each kernel's, [kernels]; a shared node counts in parts."""
    counts = np.zeros(num_kernels)
    for name in names:
        for place, share in shares[name].items():
            counts[place] += share
    return counts


def _owner_in(name: str) -> str | None:
    found = _KERNELS.search(name) or _OTHERS.search(name)
    return found[1] if found else None


def _spread(nodes: Sequence[GraphNode], owners: dict[str, str], is_backward: bool) -> None:
    """Give nodes without an owner that of the first who reads what they give, or else made what they read."""
    by_value: dict[str, str] = {}
    for node in reversed(nodes) if is_backward else nodes:
        near, far = (node.outputs, node.inputs) if is_backward else (node.inputs, node.outputs)
        owner = owners.get(node.name) or next((by_value[value] for value in near if value in by_value), None)
        if owner:
            owners[node.name] = owner
            by_value.update(dict.fromkeys(far, owner))


def _shares_of(owner: str, kernels: Sequence[Kernel]) -> Shares:
    if owner == LOSS:
        return {len(kernels) - 1: 1.0}
    if owner == PARAMETERS:
        sizes = [kernel.num_parameters() for kernel in kernels]
        return {place: size / sum(sizes) for place, size in enumerate(sizes) if size}
    places = [int(place) for place in owner[1:].split("k")]
    return dict.fromkeys(places, 1 / len(places))


def _read_node(data: memoryview) -> GraphNode:
    texts: dict[int, list[str]] = {_NODE_INPUT: [], _NODE_OUTPUT: [], _NODE_NAME: [""]}
    for number, value in read_fields(data):
        if number in texts and isinstance(value, memoryview):
            texts[number].append(str(value, "utf-8"))
    return GraphNode(texts[_NODE_NAME][-1], tuple(texts[_NODE_INPUT]), tuple(texts[_NODE_OUTPUT]))


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise AttributionError("the optimised graph is no ONNX file")
    return value
