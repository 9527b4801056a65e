"""The list of commands of `handheld`, and which of their errors are wrong usage.

A new command is one file beside this one with one function, and one row in COMMANDS. The file imports what is heavy
(torch, ONNX, matplotlib) inside the function: `handheld --help` answers at once, and a test watches it.
"""

from device_runtime.console import EXIT_CODES, WRONG_USAGE, Command, ExitCodes, Program, run_program
from pipeline.run_file import RunFileError

COMMANDS: dict[str, Command] = {}

GROUPS: dict[str, str] = {}

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
