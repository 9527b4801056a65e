"""ONNX Runtime: the profiler's JSON (`enable_profiling`, `onnxruntime_perf_test -p`), and perf_test's result file.

The profiler writes a list of trace events; a node's is named NODE_kernel_time and tells operator and shapes of inputs
and outputs, but no attribute: a stride is what the sizes say, a dilation is taken for 1, and the window of a pooling is
not told at all. A HardSwish is run as a HardSigmoid and a Mul, which become one kernel. The result file has a line for
each run, `MODEL,SECONDS,PEAK BYTES,CPU %,RUN`, and with `-s` statistics below, which say nothing more.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from statistics import median

from profiles.few import UNKNOWN_VERSION, ModelLatency
from profiles.importing.found import ForeignTableError, Found, Row, Unused, kernel_times, read_number
from profiles.importing.ort_events import NodeRun, Shape, Typed, read_events
from profiles.kernel import Kernel
from profiles.schema import Runtime

_RUNTIME = Runtime("onnxruntime", UNKNOWN_VERSION)  # neither file tells the version
_SAME_SHAPE = {"Relu": "relu", "Clip": "relu", "HardSwish": "hard_swish"}
_FUSED = frozenset({"FusedConv", "FusedGemm"})


def is_profile(text: str) -> bool:
    """Whether a text is the profiler's."""
    return text.lstrip()[:1] == "[" and '"cat"' in text[:4000] and '"ph"' in text[:4000]


def read_profile(text: str) -> Found:
    """Read the profiler's JSON: a time for each kernel whose shapes it tells. The first run of several is warm-up.

    Raises:
        ForeignTableError: It is cut off, not as the profiler writes it, or no node of it was run.
    """
    nodes: defaultdict[tuple[str, str], list[NodeRun]] = defaultdict(list)
    runs, runs_ms = read_events(text)
    for run in runs:
        nodes[run.name, run.index].append(run)
    if not nodes:
        raise ForeignTableError("the profile must hold runs of nodes, got none; run the model before end_profiling()")
    rows, unused = [], []
    for node in _joined([_node(runs) for runs in nodes.values()]):
        where = f"node {node.run.name} ({node.operator})"
        try:
            kernel, batch_size = _kernel_of(node)
        except _NoKernelError as error:
            unused.append(Unused(where, str(error), sum(node.samples_ms) / len(node.samples_ms)))
            continue
        if median(node.samples_ms) > 0:
            rows.append(Row(kernel, batch_size, node.samples_ms))
        else:
            unused.append(Unused(where, "takes less than the profiler's microsecond", 0.0))
    return Found(
        source=f"ONNX Runtime's profiler, {len(runs_ms)} run(s)",
        kernels=kernel_times(rows),
        unused=tuple(unused),
        notes=tuple(_notes({run.operator for run in runs}, runs_ms)),
        runtime=_RUNTIME,
    )


def is_perf_test(text: str) -> bool:
    """Whether a text is perf_test's result file."""
    return _run_of(text.lstrip().partition("\n")[0]) is not None


def read_perf_test(text: str) -> Found:
    """Read perf_test's result file: a latency for each model in it, its first run left out as warm-up.

    Raises:
        ForeignTableError: It has no run.
    """
    samples: defaultdict[str, list[float]] = defaultdict(list)
    unused = []
    for number, line in enumerate(text.splitlines(), 1):
        run = _run_of(line)
        if run is not None:
            samples[run[0]].append(run[1] * 1e3)
        elif line.strip() and " Latency" not in line:
            unused.append(Unused(f"line {number}", f"is no run of a model: {line.strip()!r:.60}"))
    models = tuple(_latency(name, times[1:] or times) for name, times in samples.items())
    if not models:
        raise ForeignTableError(
            "perf_test's result file must have lines MODEL,SECONDS,PEAK BYTES,CPU %,RUN, got none; "
            "name the file behind the model: onnxruntime_perf_test -I -m times -r 200 model.onnx perf.csv"
        )
    return Found("onnxruntime_perf_test", models=models, unused=tuple(unused), runtime=_RUNTIME)


@dataclass(frozen=True)
class _Node:
    """What the profile tells of one node.

    Attributes:
        run: Its first run, which tells operator, types and shapes.
        operator: Of its kernel, which may be more than the node.
        samples_ms: Of its runs without the first, which warms up.
    """

    run: NodeRun
    operator: str
    samples_ms: tuple[float, ...]


def _node(runs: list[NodeRun]) -> _Node:
    return _Node(runs[0], runs[0].operator, tuple(run.ms for run in runs[1 if len(runs) > 1 else 0 :]))


def _joined(nodes: Sequence[_Node]) -> Iterator[_Node]:
    """The nodes in the order of a run, each HardSigmoid and the Mul right behind it, of values of its shape, as one."""
    waiting = list(reversed(nodes))
    while waiting:
        node = waiting.pop()
        if waiting and _is_hard_swish(node, waiting[-1]):
            pairs = zip(node.samples_ms, waiting.pop().samples_ms, strict=True)
            node = replace(node, operator="HardSwish", samples_ms=tuple(map(sum, pairs)))
        yield node


def _is_hard_swish(gate: _Node, product: _Node) -> bool:
    if (gate.operator, product.operator) != ("HardSigmoid", "Mul") or len(gate.samples_ms) != len(product.samples_ms):
        return False
    gated, multiplied = gate.run.inputs, product.run.inputs
    return len(gated) == 1 and multiplied == (*gated, *gated)


class _NoKernelError(ValueError):
    """A node that is no kernel of ours; the message tells why."""


def _notes(operators: set[str], runs_ms: list[float]) -> list[str]:
    notes = []
    if len(runs_ms) > 1:
        notes.append(f"the first of {len(runs_ms)} runs is left out: it warms up")
    elif runs_ms:
        notes.append("one run alone: its times are those of a cold start; run the model 20 times and more")
    if operators & _FUSED:
        notes.append("times of fused convolutions and products hold the activation behind them")
    if operators & {"ReorderInput", "ReorderOutput"}:
        notes.append("channels are in blocks of 8 or 16, as ORT_ENABLE_ALL pads them; ORT_ENABLE_EXTENDED pads nothing")
    return notes


def _kernel_of(node: _Node) -> tuple[Kernel, int]:
    operator, (shapes, outputs) = node.operator, _usable_shapes(node.run)
    x, y = shapes[0], outputs[0]
    if operator in {"Conv", "FusedConv"}:
        return _convolution(x, shapes[1:], y), x[0]
    if operator in {"Gemm", "FusedGemm", "MatMul"} and len(x) == len(y) == 2:
        return Kernel("linear", x[1:], y[1:]), x[0]
    if operator in _SAME_SHAPE:
        return Kernel(_SAME_SHAPE[operator], x[1:], y[1:]), x[0]
    if operator == "GlobalAveragePool":
        return Kernel("global_average", x[1:], y[1:2]), x[0]
    if operator in {"Add", "Sum"} and len(set(shapes)) == 1 and len(shapes) > 1:
        return Kernel("add", x[1:], y[1:], num_inputs=len(shapes)), x[0]
    if operator == "Concat" and len(set(shapes)) == 1 and y[1] == x[1] * len(shapes):
        return Kernel("concat", x[1:], y[1:], num_inputs=len(shapes)), x[0]
    if operator in {"MaxPool", "AveragePool"}:
        raise _NoKernelError("tells no window")
    raise _NoKernelError("is no kernel of Handheld's networks")


def _convolution(x: Shape, weights: list[Shape], y: Shape) -> Kernel:
    if not weights or {len(weights[0]), len(x), len(y)} != {4}:
        raise _NoKernelError("tells no weights of a convolution of pixels")
    (_, per_group, kernel, width), stride = weights[0], ceil(x[2] / y[2])
    if kernel != width or x[1] % per_group:
        raise _NoKernelError(f"has no square window, or channels that are no groups: {list(x)} and {list(weights[0])}")
    has_bias = len(weights) > 1
    return Kernel("conv", x[1:], y[1:], kernel, stride, x[1] // per_group, has_bias=has_bias)


def _usable_shapes(run: NodeRun) -> tuple[list[Shape], list[Shape]]:
    shapes, outputs = _shapes(run.inputs), _shapes(run.outputs)
    if not shapes or not outputs:
        raise _NoKernelError("tells no shapes")
    if min(len(shapes[0]), len(outputs[0])) < 2:
        raise _NoKernelError(f"has no batch of values: its input is {list(shapes[0])}")
    if not all(map(all, (*shapes, *outputs))):
        raise _NoKernelError("has a value without elements")
    return shapes, outputs


def _shapes(typed: Sequence[Typed]) -> list[Shape]:
    for kind, _ in typed:
        if kind != "float":
            raise _NoKernelError(f"computes with {kind}: profiles are of float32")
    return [shape for _, shape in typed]


def _run_of(line: str) -> tuple[str, float] | None:
    model, *numbers = line.rsplit(",", 4)
    values = [read_number(number) for number in numbers]
    if len(values) != 4 or values[0] is None or None in values or values[0] <= 0:
        return None
    return model, values[0]


def _latency(name: str, times_ms: list[float]) -> ModelLatency:
    ordered = sorted(times_ms)
    middle, p90 = (ordered[int(share * len(ordered))] for share in (0.5, 0.9))  # as perf_test itself takes them
    return ModelLatency(name, middle, p90, len(ordered))
