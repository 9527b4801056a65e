"""`handheld-device run`: take part in a server's rounds with examples that stay here."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from device_runtime.terms import Unit
from profiles.schema import DeviceClass

if TYPE_CHECKING:
    from device_runtime.client_records import Action, ClientState
    from device_runtime.driver import Outcome


class ClientStoppedError(RuntimeError):
    """The client left because it could not go on; the message names the cure."""


def run(  # noqa: PLR0913  (the command's own options)
    *,
    server: Annotated[str, typer.Option(help="URL of the server, without /v1.")],
    data: Annotated[str, typer.Option(help="images:DIR or npz:FILE; ledger and split go by its full path.")],
    state: Annotated[Path, typer.Option(help="Folder for key, ledger and cache; one process at a time.")],
    spec: Annotated[
        Path | None, typer.Option(help="manifest.json, or an ExampleSpec, to read the data by; else guessed from them.")
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Privacy budget of this data for its lifetime; without it only ordinary work.")
    ] = None,
    delta: Annotated[float | None, typer.Option(help="Goes with --epsilon; below 1 / number of examples.")] = None,
    order: Annotated[int | None, typer.Option(help="RDP order of the ledger, fixed when it is begun.")] = None,
    unit: Annotated[
        Unit, typer.Option(help="What --epsilon protects: one example, or one client; work of the other is refused.")
    ] = "example",
    rounds: Annotated[int | None, typer.Option(min=1, help="Leave after so many reports.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Do what there is to do now, one report at most.")] = False,
    emulated_seed: Annotated[
        int | None, typer.Option(help="Derive key and all randomness, for tests: such a client is no real device.")
    ] = None,
    device_class: Annotated[
        DeviceClass, typer.Option(help="Of the profile, when the server asks this device to measure itself.")
    ] = "desktop",
    trust_server_with_sums: Annotated[
        bool, typer.Option(help="Take part in runs whose server sees raw sums and adds the noise itself.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON value a line for every step.")] = False,
) -> None:
    """Train, evaluate and measure for a server, on examples that stay here."""
    from device_runtime.run_process import RunOptions, run_with_options  # noqa: PLC0415  (imports the runtime)

    budget, limits = (epsilon, delta, order), (rounds, once)
    options = RunOptions(
        server, data, state, spec, *budget, *limits, emulated_seed, device_class, trust_server_with_sums, unit
    )
    with _status(as_json) as tell:
        outcome = run_with_options(options, tell)
    _finish(outcome, as_json)


@contextmanager
def _status(as_json: bool) -> "Iterator[Callable[[ClientState, Action], None]]":
    """Tell each step: a JSON line on standard output, or one line on standard error that is written over."""
    if as_json:
        yield lambda state, action: _write_line(describe_step(state, action))
        return
    with Console(stderr=True).status("starting") as status:
        yield lambda state, action: status.update(_sentence(describe_step(state, action)))


def describe_step(state: "ClientState", action: "Action") -> dict[str, Any]:
    """What a person or a program may want to know of a step."""
    step = {
        "action": type(action).__name__.lower(),
        "phase": state.phase,
        "assignment": None if state.assignment is None else state.assignment.assignment_id,
        "num_reported": state.num_reported,
        "note": state.note,
    }
    for name in ("method", "target", "earliest_s", "latest_s", "reason"):
        if hasattr(action, name):
            step[name] = getattr(action, name)
    return step


def _sentence(step: dict[str, Any]) -> str:
    doing = {"request": f"{step.get('method')} {step.get('target')}", "sleep": "resting"}.get(
        step["action"], step["action"]
    )
    note = f" ({step['note']})" if step["note"] else ""
    return f"{step['num_reported']} reports; {step['phase']}: {doing}{note}"


def _finish(outcome: "Outcome", as_json: bool) -> None:
    if outcome.reason in {"stopped", "no-answer"}:
        raise ClientStoppedError(outcome.detail)
    if as_json:
        _write_line({"action": "leave", "reason": outcome.reason, "num_reported": outcome.num_reported})
        return
    rest = "" if outcome.rest_s is None else f"; the server has work in {outcome.rest_s:.0f} s at the earliest"
    Console().print(f"{outcome.num_reported} reports taken, left because: {outcome.reason}{rest}")


def _write_line(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()
