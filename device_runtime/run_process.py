"""What `handheld-device run` does: open the folder and the data, set the budget, run until done or told to stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from device_runtime.accounting import Budget, gaussian_order
from device_runtime.driver import ClientTerms, Limits, Outcome, Watch, data_source_id, run_client
from device_runtime.examples.schemes import open_source
from device_runtime.examples.source import SpecOverrides
from device_runtime.ledger import read_ledger
from device_runtime.specs import ExampleSpec, Manifest
from device_runtime.state_folder import StateFolder
from device_runtime.stopping import StopFlag
from device_runtime.terms import Unit
from profiles.records import RecordError, decode_record, parse_json
from profiles.schema import DeviceClass

PATIENCE_S, FIRST_PATIENCE_S = 600.0, 30.0  # for a server that is down for a while; for a URL that never worked


@dataclass(frozen=True)
class RunOptions:
    """The command line's options.

    Attributes:
        order: Of the budget's filter; None for the ledger's own, or where there is none yet the most useful one.
        unit: Of the budget.
    """

    server: str
    data: str
    state: Path
    spec: Path | None
    epsilon: float | None
    delta: float | None
    order: int | None
    rounds: int | None
    once: bool
    emulated_seed: int | None
    device_class: DeviceClass = "desktop"
    trusts_sums: bool = False
    unit: Unit = "example"


def run_with_options(options: RunOptions, watch: Watch) -> Outcome:
    """Open folder and data, then run until done or until SIGTERM or SIGINT."""
    wanted = SpecOverrides() if options.spec is None else read_spec(options.spec)
    source, name = open_source(options.data, wanted), source_name(options.data)
    with StateFolder(options.state) as folder:
        budget = budget_of(options, _ledger_order(folder, data_source_id(name, options.emulated_seed)))
        terms = ClientTerms(
            options.server,
            source,
            name,
            budget,
            emulated_seed=options.emulated_seed,
            trusts_sums=options.trusts_sums,
            device_class=options.device_class,
        )
        with _stop_on_signals() as stop:
            return run_client(folder, terms, _limits(options, folder), stop, watch)


def source_name(data: str) -> str:
    """The name of a data source: its scheme and full path, whatever folder the command is typed in."""
    scheme, _, path = data.partition(":")
    return f"{scheme}:{Path(path).expanduser().resolve().as_posix()}"


def read_spec(path: Path) -> ExampleSpec:
    """The specification in a manifest.json or in a file of its own."""
    data = path.read_bytes()
    value = parse_json(data, str(path))
    try:
        if isinstance(value, dict) and "architecture_id" in value:
            return decode_record(Manifest, data).spec
        return decode_record(ExampleSpec, data)
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from error


def budget_of(options: RunOptions, ledger_order: int | None) -> Budget | None:
    """The budget that the options ask for; None without epsilon and delta."""
    epsilon, delta = options.epsilon, options.delta
    if epsilon is None and delta is None:
        if options.order is not None or options.unit != "example":
            raise ValueError("--order and --unit go with --epsilon and --delta: privacy parameters have no defaults")
        return None
    if epsilon is None or delta is None:
        missing = "--epsilon" if epsilon is None else "--delta"
        raise ValueError(f"{missing} must be given too: privacy parameters have no defaults")
    return Budget(epsilon, delta, options.order or ledger_order or gaussian_order(epsilon, delta), options.unit)


def _ledger_order(folder: StateFolder, source: str) -> int | None:
    content = read_ledger(folder.ledger_storage(source))
    return None if content is None else content.budget.order


def _limits(options: RunOptions, folder: StateFolder) -> Limits:
    state = folder.load_state()
    has_met = state is not None and state.server_key is not None
    return Limits(1 if options.once else options.rounds, options.once, PATIENCE_S if has_met else FIRST_PATIENCE_S)


@contextmanager
def _stop_on_signals() -> Iterator[StopFlag]:
    """A flag that the first SIGTERM or SIGINT sets; a second one ends the process as usual."""
    stop, before = StopFlag(), {}

    def leave(number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, leave)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
