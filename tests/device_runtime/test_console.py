import json
import math
from dataclasses import dataclass, replace

import pytest
from rich.table import Table

from device_runtime.command_line import PROGRAM as DEVICE_PROGRAM
from device_runtime.console import (
    EXIT_CODES,
    WORK_FAILED,
    WRONG_USAGE,
    Command,
    JsonOption,
    Program,
    exit_code_of,
    print_result,
    run_program,
    versions_of,
)


@dataclass(frozen=True)
class Weight:
    grams: float


class MisspeltError(ValueError):
    """An own error that a table has no row for."""


def weigh(grams: float, json: JsonOption = False) -> None:
    """Weigh something."""
    table = Table()
    table.add_row("grams", str(grams))
    print_result(Weight(grams), json, table)


def fail(kind: str) -> None:
    """Fail in one of several ways."""
    raise {
        "usage": MisspeltError("grams must be > 0, got -1"),
        "work": RuntimeError("the scale is gone; plug it in"),
        "disk": OSError(28, "No space left on device"),
        "interrupt": KeyboardInterrupt(),
        "defect": KeyError("grams"),
        "silent": RuntimeError(),
    }[kind]


PROGRAM = Program(
    name="scale",
    help="Weigh things.",
    example="scale weigh 3",
    commands={
        "weigh": Command(weigh, "scale weigh 3"),
        "fail": Command(fail, "scale fail usage"),
        "tools fail": Command(fail, "scale tools fail usage"),
    },
    groups={"tools": "Look after the scale."},
    packages=("pytest", "no-such-distribution"),
    exit_codes=EXIT_CODES,
)


def run(capsys, *arguments, program=PROGRAM):
    """Exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as left:
        run_program(program, arguments)
    written = capsys.readouterr()
    return left.value.code, written.out, written.err


def test_work_that_is_done_exits_with_0(capsys):
    code, out, err = run(capsys, "weigh", "3")
    assert (code, err) == (0, "")
    assert "grams" in out


def test_json_is_one_value_on_standard_output_and_nothing_else(capsys):
    code, out, err = run(capsys, "weigh", "3", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"grams": 3.0}


def test_json_never_holds_what_json_does_not_have(capsys):
    code, out, err = run(capsys, "weigh", "nan", "--json")
    assert (code, out) == (2, "")
    assert "JSON" in err


@pytest.mark.parametrize(
    ("kind", "code", "message"),
    [
        ("usage", 2, "scale: grams must be > 0, got -1\n"),
        ("work", 1, "scale: the scale is gone; plug it in\n"),
        ("disk", 1, "scale: [Errno 28] No space left on device\n"),
    ],
)
def test_a_foreseen_error_is_one_line_without_a_traceback(capsys, kind, code, message):
    assert run(capsys, "fail", kind) == (code, "", message)


@pytest.mark.parametrize(("kind", "told"), [("defect", "KeyError: 'grams'"), ("silent", "RuntimeError: ")])
def test_an_error_nobody_foresaw_names_its_class_and_how_to_see_more(capsys, kind, told):
    code, out, err = run(capsys, "fail", kind)
    assert (code, out) == (1, "")
    assert err == f"scale: {told}\nThis is a defect; `scale --debug fail {kind}` shows where.\n"


def test_debug_shows_the_traceback_and_keeps_the_exit_code(capsys):
    code, _, err = run(capsys, "--debug", "fail", "usage")
    assert code == 2
    assert "Traceback" in err
    assert "MisspeltError: grams must be > 0, got -1" in err


@pytest.mark.parametrize("arguments", [["wiegh", "3"], ["weigh"], ["weigh", "heavy"], ["weigh", "3", "--jsn"], []])
def test_wrong_usage_exits_with_2(capsys, arguments):
    assert run(capsys, *arguments)[0] == 2


def test_an_interrupted_command_does_not_exit_with_0(capsys):
    code, _, err = run(capsys, "fail", "interrupt")
    assert code == 130  # what shells expect of a program that Ctrl-C stopped
    assert "Traceback" not in err


def test_a_name_of_two_words_is_a_command_of_a_group(capsys):
    assert run(capsys, "tools", "fail", "work")[0] == 1
    code, out, _ = run(capsys, "tools", "--help")
    assert code == 0
    assert "Look after the scale." in out


@pytest.mark.parametrize("arguments", [["--help"], ["weigh", "--help"], ["tools", "fail", "--help"]])
def test_help_ends_with_an_example(capsys, arguments):
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert "Example: scale " in out


def test_version_tells_handheld_python_and_the_installed_packages(capsys):
    code, out, _ = run(capsys, "--version")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["handheld", "python", "pytest"]


def test_versions_leave_out_what_is_not_installed():
    assert list(versions_of(["pytest", "no-such-distribution"])) == ["pytest"]


def test_the_nearest_ancestor_in_the_table_decides():
    assert exit_code_of(MisspeltError(), EXIT_CODES) == WRONG_USAGE
    assert exit_code_of(MisspeltError(), {**EXIT_CODES, MisspeltError: WORK_FAILED}) == WORK_FAILED
    assert exit_code_of(FileNotFoundError(), EXIT_CODES) == WRONG_USAGE
    assert exit_code_of(ConnectionError(), EXIT_CODES) == WORK_FAILED
    assert exit_code_of(KeyError(), EXIT_CODES) is None


def test_a_program_decides_by_its_own_table(capsys):
    program = replace(PROGRAM, exit_codes={**EXIT_CODES, MisspeltError: WORK_FAILED})
    assert run(capsys, "fail", "usage", program=program)[0] == 1


def test_print_result_refuses_infinity():
    with pytest.raises(ValueError, match="JSON"):
        print_result(Weight(math.inf), True, "")


def test_the_device_program_answers_help_and_version(capsys):
    assert "handheld-device" in run(capsys, "--help", program=DEVICE_PROGRAM)[1]
    assert "onnxruntime" in run(capsys, "--version", program=DEVICE_PROGRAM)[1]
