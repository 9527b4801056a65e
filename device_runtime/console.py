"""What the two command lines share: commands with an example, exit codes, how an error is told, `--json`."""

import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table

from device_runtime.runtime_check import installed_version
from profiles.records import RecordError, to_plain

DONE, WORK_FAILED, WRONG_USAGE = 0, 1, 2

ExitCodes = Mapping[type[BaseException], int]

# The nearest class of an error's ancestry decides. A class beside a heavy import (torch, ONNX) needs no row: its
# ancestor has one, and listing it here would make `--help` slow.
EXIT_CODES: ExitCodes = {
    RecordError: WRONG_USAGE,
    ValueError: WRONG_USAGE,
    FileNotFoundError: WRONG_USAGE,
    FileExistsError: WRONG_USAGE,
    OSError: WORK_FAILED,
    ImportError: WORK_FAILED,
    RuntimeError: WORK_FAILED,
}

# With `--json` a command writes one JSON value to standard output and nothing else; progress goes to standard error.
JsonOption = Annotated[bool, typer.Option("--json", help="Write the result as one JSON value to standard output.")]


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        function: Its signature gives arguments and options, its docstring the help.
        example: A command line that works, shown under the help.
    """

    function: Callable[..., None]
    example: str


@dataclass(frozen=True)
class Program:
    """A command line.

    Attributes:
        name: What the user types.
        help: What it is for.
        example: A command line that works.
        commands: By name; `fleet run` is the command `run` of the group `fleet`.
        groups: Help of each group.
        packages: Distributions whose versions `--version` tells.
        exit_codes: From exception class to exit code.
    """

    name: str
    help: str
    example: str
    commands: Mapping[str, Command]
    groups: Mapping[str, str]
    packages: Sequence[str]
    exit_codes: ExitCodes


def build_app(program: Program) -> typer.Typer:
    """Make the typer application of a program."""
    app = _new_app(program.help, f"Example: {program.example}", invoke_without_command=True)
    app.callback()(_root_options(program))
    groups = {name: _new_app(text, None) for name, text in program.groups.items()}
    for name, group in groups.items():
        app.add_typer(group, name=name, no_args_is_help=True)
    for name, command in program.commands.items():
        group_name, _, last = name.rpartition(" ")
        parent = groups[group_name] if group_name else app
        parent.command(last, epilog=f"Example: {command.example}")(command.function)
    return app


def run_program(program: Program, arguments: Sequence[str] | None = None) -> None:
    """Run one command line and leave the process with its exit code: 0 done, 1 the work failed, 2 wrong usage.

    Args:
        arguments: Without the program's name; None takes the process's own.

    Raises:
        SystemExit: Always.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        build_app(program)(args=arguments, prog_name=program.name)
    except Exception as error:  # noqa: BLE001 - the one place where any error becomes an exit code
        _tell(error, program, arguments)
        sys.exit(exit_code_of(error, program.exit_codes) or WORK_FAILED)


def exit_code_of(error: BaseException, exit_codes: ExitCodes) -> int | None:
    """Look up an error by its class, then its ancestors in order; None for one that the table does not know."""
    return next((exit_codes[cls] for cls in type(error).__mro__ if cls in exit_codes), None)


def print_result(result: Any, as_json: bool, view: RenderableType) -> None:
    """Give a command's result: one JSON value, or `view` for a reader.

    Raises:
        ValueError: For NaN or infinity, which JSON does not have.
    """
    if as_json:
        sys.stdout.write(json.dumps(to_plain(result), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    else:
        Console().print(view)


def versions_of(packages: Sequence[str]) -> dict[str, str]:
    """Versions of the installed ones among `packages`, read without importing them."""
    found = {name: installed_version(name) for name in packages}
    return {name: version for name, version in found.items() if version is not None}


def _new_app(text: str, epilog: str | None, invoke_without_command: bool = False) -> typer.Typer:
    return typer.Typer(
        help=text,
        epilog=epilog,
        invoke_without_command=invoke_without_command,
        add_completion=False,
        pretty_exceptions_enable=False,  # `_tell` prints errors
    )


def _root_options(program: Program) -> Callable[..., None]:
    def root(
        context: typer.Context,
        version: Annotated[bool, typer.Option("--version", help="Tell the versions and leave.")] = False,
        # Read by `_tell`, from the arguments: an error has left this context when it is told.
        debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,  # noqa: ARG001
    ) -> None:
        if version:
            Console().print(_version_table(program))
            raise typer.Exit
        if context.invoked_subcommand is None:
            Console().print(context.get_help())
            raise typer.Exit(WRONG_USAGE)

    return root


def _version_table(program: Program) -> Table:
    table = Table(show_header=False, box=None)
    table.add_row("handheld", installed_version("handheld") or "not installed, run from its source tree")
    table.add_row("python", sys.version.split()[0])
    for name, version in versions_of(program.packages).items():
        table.add_row(name, version)
    return table


def _tell(error: Exception, program: Program, arguments: Sequence[str]) -> None:
    if "--debug" in arguments:
        traceback.print_exception(error)
    elif exit_code_of(error, program.exit_codes) is None or not str(error):
        # Nobody foresaw it: its message alone may say nothing.
        sys.stderr.write(f"{program.name}: {type(error).__name__}: {error}\n")
        sys.stderr.write(f"This is a defect; `{program.name} --debug {' '.join(arguments)}` shows where.\n")
    else:
        sys.stderr.write(f"{program.name}: {error}\n")
