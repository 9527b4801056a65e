"""The events of ONNX Runtime's profiler, checked: a file that was edited, or is another tool's trace, is refused."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from profiles.importing.found import LARGEST, ForeignTableError
from profiles.records import RecordError, parse_json

Shape = tuple[int, ...]
Typed = tuple[str, Shape]  # of a value: what it is computed with, and its shape
_SUFFIX = "_kernel_time"
_LARGEST_SIZE = 2**31
_CURE = "give the file as end_profiling() wrote it"


@dataclass(frozen=True)
class NodeRun:
    """One run of a node.

    Attributes:
        index: Of the node in its graph; names need not be unique.
    """

    name: str
    index: str
    operator: str
    inputs: tuple[Typed, ...]
    outputs: tuple[Typed, ...]
    ms: float


def read_events(text: str) -> tuple[list[NodeRun], list[float]]:
    """Read runs of nodes, and the milliseconds of runs of the whole model.

    Raises:
        ForeignTableError: It is cut off, or an event of a run is not as the profiler writes it.
    """
    nodes, runs_ms = [], []
    for number, event in enumerate(_events(text), 1):
        name = event.get("name")
        where = f"event {number} ({name!r:.80})"
        if event.get("cat") == "Node" and isinstance(name, str) and name.endswith(_SUFFIX):
            nodes.append(_node_run(name.removesuffix(_SUFFIX), event, where))
        elif name == "model_run":
            runs_ms.append(_milliseconds(event, where))
    return nodes, runs_ms


def _events(text: str) -> list[dict[str, Any]]:
    try:
        events = parse_json(text, "the profile")
    except RecordError as error:
        raise ForeignTableError(f"{error}; a profile is whole once the session's end_profiling() was called") from error
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise ForeignTableError(f"an ONNX Runtime profile must be a list of events, got something else; {_CURE}")
    return events


def _node_run(name: str, event: dict[str, Any], where: str) -> NodeRun:
    arguments = _checked(event, "args", lambda value: isinstance(value, dict), "an object", where)
    operator = _checked(arguments, "op_name", lambda value: isinstance(value, str), "a string", where)
    inputs, outputs = (_typed(arguments, key, where) for key in ("input_type_shape", "output_type_shape"))
    ms = _milliseconds(event, where)
    return NodeRun(_printable(name), str(arguments.get("node_index", "")), _printable(operator), inputs, outputs, ms)


def _milliseconds(event: dict[str, Any], where: str) -> float:
    us = _checked(event, "dur", lambda value: _is_number(value, LARGEST), "a number of microseconds >= 0", where)
    return float(us / 1e3)


def _typed(arguments: dict[str, Any], key: str, where: str) -> tuple[Typed, ...]:
    """Types and shapes of a node's inputs or outputs; none where the event does not tell them."""
    if key not in arguments:
        return ()
    values = _checked(arguments, key, _is_typed, 'a list of shapes by type, [{"float": [1, 3, 8, 8]}]', where)
    return tuple((kind, tuple(map(int, shape))) for value in values for kind, shape in value.items())


def _is_typed(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, dict) and len(value) == 1 and all(map(_is_shape, value.values())) for value in values
    )


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and all(_is_number(size, _LARGEST_SIZE) and int(size) == size for size in shape)


def _is_number(value: Any, largest: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= largest


def _checked(owner: dict[str, Any], key: str, is_right: Callable[[Any], bool], rule: str, where: str) -> Any:
    if key not in owner:
        raise ForeignTableError(f"{where} lacks {key}, {rule}; {_CURE}")
    if not is_right(owner[key]):
        raise ForeignTableError(f"{where}: {key} must be {rule}, got {owner[key]!r:.80}; {_CURE}")
    return owner[key]


def _printable(name: str) -> str:
    """Without halves of surrogate pairs, which JSON can hold and no terminal takes."""
    return name.encode("utf-8", "replace").decode("utf-8")
