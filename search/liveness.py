"""Peak memory of a graph's run from the lives of its values, by the rules of ONNX Runtime's allocation planner.

`onnxruntime/core/framework/allocation_planner.cc`, one stream, without memory patterns: a value is a view of an input
where its operator says so; takes the memory of an input that nobody reads any more where its operator may work in
place; else that of the value of the same shape that died last; else memory of its own. Memory goes back to the arena
after the last reader of all the values that were in it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from search.arena import Arena

FLOAT_BYTES = 4
_SEGMENT = 128 * 128  # values of unfolded input that a convolution makes at a time
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One operator's run.

    Attributes:
        reads, writes: Names of values; one that is read twice stands there twice.
        is_view: The first value written is the first one read, under another shape.
        in_place: Which value read the first one written may take the memory of; None for none.
        workspace: Bytes that the operator takes for itself, and how many of them it writes to.
        temporaries: Bytes of values that it makes before those it writes.
        num_kept: How many of them are there at a time, besides the one that is made.
    """

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    is_view: bool = False
    in_place: int | None = None
    workspace: tuple[int, int] = (0, 0)
    temporaries: tuple[int, ...] = ()
    num_kept: int = 1


@dataclass(frozen=True)
class Program:
    """A graph in the order of its execution.

    Attributes:
        shapes: Of the values that steps write.
        item_bytes: Bytes of an item, of values that are not float32.
        outputs: Values that the caller gets when the run ends.
        constants: Bytes of each constant.
        packed: Bytes of those that matrix products lay out anew when the graph is opened.
    """

    steps: Sequence[Step]
    shapes: Mapping[str, Shape]
    outputs: frozenset[str]
    item_bytes: Mapping[str, int]
    constants: Sequence[int] = ()
    packed: int = 0

    def kind(self, name: str) -> tuple[Shape, int]:
        """Shape and item size; values of one kind may have one another's memory."""
        return self.shapes[name], self.item_bytes.get(name, FLOAT_BYTES)


@dataclass(frozen=True)
class Peak:
    """What a run of a program needs, bytes.

    Attributes:
        live: Constants, values and what operators write for themselves, where most of them are there at once.
        written: Pages of the arena that were ever written to: live values, and what lies idle between them.
        reserved: All that the arena asked the system for.
    """

    live: int
    written: int
    reserved: int


def peak_of(program: Program) -> Peak:
    """Simulate runs, each of which finds the arena empty, until one finds it large enough: all others are like it."""
    return _Simulation(program).run()


def plan_memory(program: Program) -> dict[str, str]:
    """For each value that a step writes, the value whose memory it has: itself where it has its own.

    A view of what steps do not write, an input or a constant, is named after that.
    """
    return _Planner(program).plan()


def convolution_workspace(batch_size: int, weight: Shape, num_positions: int, groups: int) -> tuple[int, int]:
    """Bytes that a convolution which is no plain matrix product takes, and writes to: `MlasConvPrepare`, one thread.

    Args:
        weight: (outputs, inputs of a group, *kernel).
        num_positions: Of one channel of the output.
    """
    outputs, unfolded = weight[0] // groups, prod(weight[1:]) * num_positions
    if outputs > num_positions:
        return FLOAT_BYTES * unfolded, FLOAT_BYTES * unfolded
    taken = max(unfolded, outputs * num_positions, _SEGMENT) if batch_size * groups > 1 else _SEGMENT
    return FLOAT_BYTES * taken, FLOAT_BYTES * min(unfolded, _SEGMENT)


class _Planner:
    """Walks the steps once; knows how often each memory is still needed, and which is free."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._memory: dict[str, str] = {}
        self._uses = dict.fromkeys(program.shapes, 1)  # the step that writes it is one
        for name in (*(name for step in program.steps for name in step.reads), *program.outputs):
            if name in self._uses:
                self._uses[name] += 1
        self._dead: dict[tuple[Shape, int], list[str]] = {}  # by kind, the last dead last

    def plan(self) -> dict[str, str]:
        for step in self._program.steps:
            for name in step.writes:
                taken = None if name in self._program.outputs else self._reusable(step, name)
                self._memory[name] = taken or name
                if taken in self._uses:
                    self._uses[taken] += self._uses[name]
            self._finish(step.reads)
            self._finish(step.writes)
        return self._memory

    def _reusable(self, step: Step, name: str) -> str | None:
        kind = self._program.kind(name)
        place = 0 if step.is_view else step.in_place
        if name == step.writes[0] and place is not None:
            read = step.reads[place]
            memory = self._memory.get(read, read)
            if step.is_view or (self._uses.get(memory) == 1 and self._program.kind(read) == kind):
                return memory
        dead = self._dead.get(kind)
        return dead.pop() if dead and kind[0] else None  # a single number never takes another's memory

    def _finish(self, names: Iterable[str]) -> None:
        for name in names:
            memory = self._memory.get(name)
            if memory in self._uses:
                self._uses[memory] -= 1
                if not self._uses[memory]:
                    self._dead.setdefault(self._program.kind(memory), []).append(memory)


class _Simulation:
    """Owns the arena and what lies in it."""

    def __init__(self, program: Program) -> None:
        self._program = program
        memory = plan_memory(program)
        kinds = {name: program.kind(name) for name, own in memory.items() if own == name}
        self._sizes = {name: size for name, (shape, item) in kinds.items() if (size := item * prod(shape))}
        self._releases = self._find_releases(memory)
        self._arena = Arena()
        self._addresses: dict[str, int] = {}
        for size in filter(None, program.constants):
            self._arena.allocate(size)
        self._live = self._most = sum(program.constants)

    def run(self) -> Peak:
        before = -1
        while before < self._arena.reserved_bytes:
            before = self._arena.reserved_bytes
            for step, dead in zip(self._program.steps, self._releases, strict=True):
                self._take(step)
                self._release(dead)
            self._release([*self._addresses])
        return Peak(self._most, self._arena.written_bytes, self._arena.reserved_bytes)

    def _release(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self._addresses:
                self._arena.free(self._addresses.pop(name))
                self._live -= self._sizes[name]

    def _take(self, step: Step) -> None:
        arena = self._arena
        passing: list[int] = []
        for size in step.temporaries:
            passing.append(arena.allocate(size))
            if len(passing) > step.num_kept:
                arena.free(passing.pop(0))
        for name in step.writes:
            if name in self._sizes:
                self._addresses[name] = arena.allocate(self._sizes[name])
                self._live += self._sizes[name]
        if step.workspace[0]:
            passing.append(arena.allocate(*step.workspace))
        self._most = max(self._most, self._live + sum(step.temporaries[: step.num_kept + 1]) + step.workspace[1])
        for address in passing:
            arena.free(address)

    def _find_releases(self, memory: Mapping[str, str]) -> list[list[str]]:
        """Which memory goes back after each step; what nobody reads stays until the run ends."""
        last = {memory.get(name, name): at for at, step in enumerate(self._program.steps) for name in step.reads}
        releases: list[list[str]] = [[] for _ in self._program.steps]
        for name, at in last.items():
            if name not in self._program.outputs:
                releases[at].append(name)
        return releases
