"""The list of commands of `handheld`, and which of their errors are wrong usage.

A new command is one file beside this one with one function, and one row in COMMANDS. The file imports what is heavy
(torch, ONNX, matplotlib) inside the function: `handheld --help` answers at once, and a test watches it.
"""

from device_runtime.console import EXIT_CODES, WRONG_USAGE, Command, ExitCodes, Program, run_program
from pipeline.command_line import privacy
from pipeline.command_line.compile import compile_architecture
from pipeline.command_line.search import EXAMPLE as SEARCH_EXAMPLE
from pipeline.command_line.search import search
from pipeline.command_line.serve import serve
from pipeline.run_file import RunFileError

COMMANDS: dict[str, Command] = {
    "compile": Command(compile_architecture, "handheld compile docs/examples/architecture.json -o runs/artifact"),
    "privacy plan": Command(privacy.plan, privacy.EXAMPLE),
    "search": Command(search, SEARCH_EXAMPLE),
    "serve": Command(serve, "handheld serve --state runs/server --port 8470"),
}

GROUPS: dict[str, str] = {"privacy": "What a run spends."}

PIPELINE_EXIT_CODES: ExitCodes = {**EXIT_CODES, RunFileError: WRONG_USAGE}

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
