"""The list of commands of `handheld`, and which of their errors are wrong usage.

A new command is one file beside this one with one function, and one row in COMMANDS. The file imports what is heavy
(torch, ONNX, matplotlib) inside the function: `handheld --help` answers at once, and a test watches it.
"""

from device_runtime.console import EXIT_CODES, WORK_FAILED, WRONG_USAGE, Command, ExitCodes, Program, run_program
from device_runtime.measure_command import measure
from pipeline.command_line import (
    fleet,
    privacy,
    profile,
    profile_import,
    profile_predict,
    profile_probe,
    profile_sessions,
    profile_show,
    profile_transfer,
)
from pipeline.command_line.collect import EXAMPLE as COLLECT_EXAMPLE
from pipeline.command_line.collect import collect
from pipeline.command_line.compile import EXAMPLE as COMPILE_EXAMPLE
from pipeline.command_line.compile import compile_network
from pipeline.command_line.demo import EXAMPLE as DEMO_EXAMPLE
from pipeline.command_line.demo import demo
from pipeline.command_line.report import EXAMPLE as REPORT_EXAMPLE
from pipeline.command_line.report import report
from pipeline.command_line.search import EXAMPLE as SEARCH_EXAMPLE
from pipeline.command_line.search import search
from pipeline.command_line.serve import serve
from pipeline.command_line.ship import EXAMPLE as SHIP_EXAMPLE
from pipeline.command_line.ship import ship
from pipeline.run_file import RunFileError

COMMANDS: dict[str, Command] = {
    "compile": Command(compile_network, COMPILE_EXAMPLE),
    "demo": Command(demo, DEMO_EXAMPLE),
    "fleet run": Command(fleet.run, fleet.EXAMPLE),
    "privacy plan": Command(privacy.plan, privacy.EXAMPLE),
    "profile list": Command(profile.list_profiles, profile.EXAMPLES["list"]),
    "profile show": Command(profile_show.show, profile_show.EXAMPLE),
    "profile predict": Command(profile_predict.predict, profile_predict.EXAMPLE),
    "profile measure": Command(measure, profile.EXAMPLES["measure"]),
    "profile collect": Command(collect, COLLECT_EXAMPLE),
    "profile probe": Command(profile_probe.probe, profile_probe.EXAMPLE),
    "profile merge": Command(profile_sessions.merge, profile_sessions.EXAMPLES["merge"]),
    "profile compare": Command(profile_sessions.compare, profile_sessions.EXAMPLES["compare"]),
    "profile check": Command(profile_sessions.check, profile_sessions.EXAMPLES["check"]),
    "profile import": Command(profile_import.import_table, profile_import.EXAMPLE),
    "profile transfer": Command(profile_transfer.transfer, profile_transfer.EXAMPLE),
    "profile pack": Command(profile.pack, profile.EXAMPLES["pack"]),
    "report": Command(report, REPORT_EXAMPLE),
    "search": Command(search, SEARCH_EXAMPLE),
    "serve": Command(serve, "handheld serve --state runs/server --port 8470"),
    "ship": Command(ship, SHIP_EXAMPLE),
}

GROUPS: dict[str, str] = {
    "fleet": "Emulated phones, without a search.",
    "privacy": "What a run spends.",
    "profile": "What devices can do.",
}

PIPELINE_EXIT_CODES: ExitCodes = {
    **EXIT_CODES,
    RunFileError: WRONG_USAGE,
    profile_sessions.FaultyProfileError: WORK_FAILED,
}

PROGRAM = Program(
    name="handheld",
    help="Find, train and ship models for the phones that people hold.",
    example="handheld --version",
    commands=COMMANDS,
    groups=GROUPS,
    packages=("torch", "onnx", "onnxruntime-training-cpu", "executorch", "opacus", "numpy", "scikit-learn"),
    exit_codes=PIPELINE_EXIT_CODES,
)


def main() -> None:
    """Run the process's own command line."""
    run_program(PROGRAM)
