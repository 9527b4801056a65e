import inspect
import subprocess
import sys

import pytest

from device_runtime.command_line import PROGRAM as DEVICE_PROGRAM
from device_runtime.console import exit_code_of, run_program
from pipeline.command_line import PROGRAM
from pipeline.run_file import RunFileError

HEAVY = {"torch", "onnx", "onnxruntime", "executorch", "opacus", "sklearn", "matplotlib", "sqlalchemy", "fastapi"}


def modules_after(module: str, *arguments: str) -> tuple[str, set[str]]:
    """Standard output of a command line run in a process of its own, and the top-level modules it imported."""
    script = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr))\n"
        f"from {module} import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    return done.stdout, set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("module", ["pipeline.command_line", "device_runtime.command_line"])
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(module, option):
    out, modules = modules_after(module, option)
    assert out.strip()
    assert "typer" in modules
    assert not HEAVY & modules


def test_version_tells_the_versions_that_decide_a_result(capsys):
    with pytest.raises(SystemExit) as left:
        run_program(PROGRAM, ["--version"])
    assert left.value.code == 0
    told = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert {"handheld", "python", "torch", "onnx", "onnxruntime-training-cpu"} <= told


def test_a_bad_run_file_is_wrong_usage():
    assert exit_code_of(RunFileError(["run.toml: [run] lacks seed"]), PROGRAM.exit_codes) == 2


@pytest.mark.parametrize("program", [PROGRAM, DEVICE_PROGRAM], ids=lambda program: program.name)
def test_every_help_page_ends_with_an_example_of_its_own_command(program, capsys):
    for name, command in [("", program), *program.commands.items()]:
        with pytest.raises(SystemExit) as left:
            run_program(program, [*name.split(), "--help"])
        assert left.value.code == 0
        assert command.example.startswith(f"{program.name} {name}".strip())
        assert command.example in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("program", [PROGRAM, DEVICE_PROGRAM], ids=lambda program: program.name)
def test_every_command_and_group_says_what_it_is_for(program):
    assert all(inspect.getdoc(command.function) for command in program.commands.values())
    assert {name.rpartition(" ")[0] for name in program.commands} - {""} == set(program.groups)
