"""TFLite and LiteRT: what benchmark_model prints, and the CSV of `--enable_op_profiling --profiling_output_csv_file`.

Neither tells shapes, so operators cannot be used: what remains is the whole model. Printed are
`Inference timings in us: Init: ..., Inference (avg): ...` and `count=50 first=... p5=... median=... std=...`; the CSV
has one `Timings (microseconds): count=50 first=... avg=...` for each of its sections, of which the first is of the
start, and lines `node type, start, first, avg_ms, %, cdf%, mem KB, times called, name`.
"""

import re

from profiles.few import UNKNOWN_VERSION, ModelLatency
from profiles.importing.found import ForeignTableError, Found, Unused, read_number
from profiles.schema import Runtime

_OPERATORS = "node type, start, first, avg_ms"  # a longer header in each version
_REGULAR = "Operator-wise Profiling Info for Regular Benchmark Runs"
_PRINTED = re.compile(r"Inference \(avg\): ([\d.e+]+)")
_TIMINGS = re.compile(r"Timings \(microseconds\): (count=.*)")
_COUNTS = re.compile(r"(?:^|\s)(count=\d+ .*)", re.MULTILINE)
_GRAPH = re.compile(r"Graph: \[(.+?)\]")
_THREADS = re.compile(r"(?:Num threads|#threads used for CPU inference): \[(\d{1,4})\]")


def is_benchmark(text: str) -> bool:
    """Whether a text is benchmark_model's."""
    return _OPERATORS in text or _PRINTED.search(text) is not None or _REGULAR in text


def read_benchmark(text: str) -> Found:
    """Read what benchmark_model wrote: the latency of its model, and all operators as what cannot be used.

    Raises:
        ForeignTableError: It tells no time of the regular runs.
    """
    unused = _operators(text)
    graph = _GRAPH.search(text)
    threads = [int(count) for count in _THREADS.findall(text) if int(count) > 0]
    notes = ["operators' times are of no use here without their shapes, which benchmark_model does not tell"]
    if unused:
        notes.append("operators were profiled, which slows runs down: run again without --enable_op_profiling")
    return Found(
        source="TFLite's benchmark_model",
        models=(_latency(text, graph[1] if graph else ""),),
        unused=unused,
        notes=tuple(notes if unused else ()),
        runtime=Runtime("tflite", UNKNOWN_VERSION),
        threads=threads[-1] if threads else 1,
    )


def _latency(text: str, graph: str) -> ModelLatency:
    name = graph.rpartition("/")[2]
    regular = text.partition(_REGULAR)[2] or text
    printed = _PRINTED.search(text)
    told = _TIMINGS.findall(regular) or _COUNTS.findall(text.partition("Inference timings")[0])
    values = (
        {key: read_number(value) for key, _, value in (one.partition("=") for one in told[-1].split())} if told else {}
    )
    average = read_number(printed[1]) if printed else values.get("avg") or values.get("curr")
    median = values.get("median") or average
    if not median or median < 0:
        raise ForeignTableError(
            "benchmark_model's output must hold 'Inference (avg)' or the timings of its regular runs, got neither; "
            "keep all that it prints: benchmark_model --graph=model.tflite --num_threads=1 > benchmark.txt"
        )
    return ModelLatency(name, median / 1e3, repetitions=max(1, int(values.get("count") or 1)))


def _operators(text: str) -> tuple[Unused, ...]:
    """Lines of operators in the order of a run, of the section of regular runs."""
    found: list[Unused] = []
    is_within, is_regular = False, _REGULAR not in text
    for number, line in enumerate(text.splitlines(), 1):
        is_regular = is_regular or _REGULAR in line
        if line.startswith(_OPERATORS):
            is_within = is_regular and not found  # the run order comes first; then the same lines, sorted
        elif not line.strip():
            is_within = False
        elif is_within:
            kind, *rest = (part.strip() for part in line.split(","))
            average, name = (rest[2], rest[-1]) if len(rest) > 3 else ("", "")  # else the line is cut off
            found.append(Unused(f"line {number} ({kind} {name})", "tells no shapes", read_number(average)))
    return tuple(found)
