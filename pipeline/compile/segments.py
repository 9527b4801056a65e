"""Parts of the layout by name patterns, so that one graph can take a step on some of them alone."""

import difflib
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase

from pipeline.compile.builder import CompileError
from pipeline.compile.export import Forward
from pipeline.compile.graphs import Layout

REST = "weights"


def layout_of(forward: Forward, segments: Mapping[str, str]) -> Layout:
    """The layout of a network's trained parameters.

    Args:
        segments: Patterns as of a shell (`classifier.*`) by segment; the first that matches a parameter has it. What
            none matches is the segment `weights`, the last one; left out where it is empty.

    Raises:
        CompileError: For a pattern that matches nothing, nothing that is trained, or nothing that an earlier one left.
    """
    held = [initializer.name for initializer in forward.model.graph.initializer]
    segment_of: dict[str, str] = {}
    for segment, pattern in segments.items():
        matching = [name for name in match_names(pattern, [*forward.parameters, *held]) if name in forward.parameters]
        if not matching:
            raise CompileError(
                f"segment {segment!r} is empty: nothing that {pattern!r} matches is trained; leave it out"
            )
        if not (left := [name for name in matching if name not in segment_of]):
            raise CompileError(
                f"segment {segment!r} is empty: earlier patterns have all that {pattern!r} matches; put it first"
            )
        segment_of.update(dict.fromkeys(left, segment))
    if list(segments) == [REST] and len(segment_of) < len(forward.parameters):
        raise CompileError(f"segment {REST!r} is what no pattern matches; call the one of {segments[REST]!r} otherwise")
    in_order = {name: segment_of.get(name, REST) for name in forward.parameters}
    used = set(in_order.values())
    return Layout(forward.parameters, tuple(s for s in dict.fromkeys([*segments, REST]) if s in used), in_order)


def match_names(pattern: str, names: Collection[str]) -> list[str]:
    """The names that match a pattern, in their order.

    Raises:
        CompileError: There is none; names the nearest.
    """
    matching = [name for name in names if fnmatchcase(name, pattern)]
    if not matching:
        near = difflib.get_close_matches(pattern.rstrip(".*"), names, 3, 0.3) or list(names)[:3]
        raise CompileError(f"pattern {pattern!r} matches no parameter; near it are {', '.join(near)}")
    return matching
