"""How much a process grows when it opens a network and runs it several times: exact bookkeeping, then calibrated.

Bookkeeping of values and of what lies idle between them is `search.liveness`'s. What the runtime takes beside was
fitted on nets that `bench/predict_memory.py` sets apart, and on 40 as small as those of the default pack. Intervals are
shares of the prediction, for what bookkeeping misses, and MiB, for the runtime itself.
"""

from dataclasses import dataclass

from pipeline.compile.liveness import read_program
from search.architecture import Architecture
from search.cost import IDLE_SHARE
from search.layers import layers_of
from search.liveness import Peak, Program, peak_of
from search.training_graph import training_program

_MIB = 2**20
_SESSION_BYTES = 1.2 * _MIB  # no net of the default pack's kind takes 5% more then; most take a little less
_NODE_BYTES = 3.3 * 2**10  # a kernel, its node and the names of its values
_TABLE_SHARE = 8 / 256  # exact, from `bfc_arena.h`: 8 bytes for each 256 of a region, used or not
# Of a gradient graph's constants, folded ones above all, copies are left outside of the arena: 0.9 of them as a mean
# over nets, of which some have twice as much. This is the most with which no net set apart is over by 10%: to be under
# is worse.
_CONSTANT_SHARE = 1.2
_NODES_A_STEP, _LEAST_NODES = 1.65, 60  # a graph has more operators than an architecture has steps
# Of a shipped model: copies of its constants while the file is read, and later; more of those that are laid out anew.
# Fitted on the shipped models of 85 such nets: where one takes 8% more than this, others take a quarter less.
_OPENED_SHARE, _OPENED_PACKED = 1.3, 4.0
_HELD_SHARE, _HELD_PACKED = 0.5, 2.0
_SHIPPED_SESSION_BYTES, _SHIPPED_NODE_BYTES = 1.0 * _MIB, 4.5 * 2**10

Interval = tuple[float, float]


@dataclass(frozen=True)
class _Errors:
    """Ends of the measured: as shares of what was predicted, and bytes by which they lie further out."""

    shares80: Interval
    shares95: Interval
    bytes80: float
    bytes95: float


_OF_GRAPHS = _Errors((0.965, 1.005), (0.925, 1.02), 0.3 * _MIB, 0.6 * _MIB)
_OF_ARCHITECTURES = _Errors((0.93, 1.0), (0.89, 1.03), 0.3 * _MIB, 0.8 * _MIB)
_OF_SHIPPED = _Errors((0.84, 1.02), (0.78, 1.06), 0.05 * _MIB, 0.1 * _MIB)


@dataclass(frozen=True)
class ProcessMemory:
    """Bytes that a process grows by; what is fed to the graph is there before and comes on top.

    Attributes:
        resident: Predicted; the ends of its intervals follow.
        peak: Of the values alone, by bookkeeping.
        num_nodes: Operators that run, as far as they are known.
        constants: Bytes of the graph's constants.
    """

    resident: float
    interval80: Interval
    interval95: Interval
    peak: Peak
    num_nodes: int
    constants: int


def predict_memory(graph: bytes) -> ProcessMemory:
    """Of `gradient.onnx`, or another graph whose parameters are inputs.

    Memory patterns are off and there is one thread, as `device_runtime.session` opens a graph.

    Raises:
        CompileError: The graph is no ONNX model that runs, or a shape depends on an input; says which.
    """
    program = read_program(graph)
    peak, num_nodes, constants = peak_of(program), len(program.steps), sum(program.constants)
    resident = _arena(peak) + _SESSION_BYTES + _NODE_BYTES * num_nodes + _CONSTANT_SHARE * constants
    return _with_errors(resident, _OF_GRAPHS, program, peak, num_nodes)


def predict_step_memory(architecture: Architecture, batch_size: int) -> ProcessMemory:
    """Of an architecture's `gradient.onnx` for `batch_size` examples, without compiling it."""
    program = training_program(layers_of(architecture), batch_size)
    peak, num_nodes = peak_of(program), _LEAST_NODES + round(_NODES_A_STEP * len(program.steps))
    beside = _SESSION_BYTES + _NODE_BYTES * num_nodes + _CONSTANT_SHARE * sum(program.constants)
    return _with_errors(_arena(peak, IDLE_SHARE) + beside, _OF_ARCHITECTURES, program, peak, num_nodes)


def predict_inference_memory(graph: bytes) -> ProcessMemory:
    """Of a model whose parameters are constants, for a fixed batch, with memory patterns or without.

    Either the runs take most, or opening the file does.

    Raises:
        CompileError: As `predict_memory`.
    """
    program = read_program(graph)
    peak, num_nodes = peak_of(program), len(program.steps)
    plain = sum(program.constants) - program.packed
    opened = _OPENED_SHARE * plain + _OPENED_PACKED * program.packed
    running = _arena(peak) + _HELD_SHARE * plain + _HELD_PACKED * program.packed
    resident = _SHIPPED_SESSION_BYTES + _SHIPPED_NODE_BYTES * num_nodes + max(opened, running)
    return _with_errors(resident, _OF_SHIPPED, program, peak, num_nodes)


def _arena(peak: Peak, idle: float = 1.0) -> float:
    return idle * peak.written + _TABLE_SHARE * peak.reserved


def _with_errors(resident: float, errors: _Errors, program: Program, peak: Peak, num_nodes: int) -> ProcessMemory:
    def ends(shares: Interval, beyond: float) -> Interval:
        return max(shares[0] * resident - beyond, 0.0), shares[1] * resident + beyond

    within80, within95 = ends(errors.shares80, errors.bytes80), ends(errors.shares95, errors.bytes95)
    return ProcessMemory(resident, within80, within95, peak, num_nodes, sum(program.constants))
