import json

import pytest
from typer.testing import CliRunner

from device_runtime.console import Command, Program, build_app
from pipeline.command_line.profile_probe import EXAMPLE, probe

DUMP = "/proc/cpuinfo:processor : 0\n/proc/cpuinfo:CPU architecture: 8\n/sys/devices/system/cpu/possible:0-1\n"
PROGRAM = Program("handheld", "", "", {"profile probe": Command(probe, EXAMPLE)}, {"profile": ""}, (), {})


def run(*arguments: object) -> str:
    result = CliRunner().invoke(build_app(PROGRAM), ["profile", "probe", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def dump(tmp_path):
    path = tmp_path / "phone.txt"
    path.write_text(DUMP, encoding="utf-8")
    return path


def test_a_dump_is_told_as_data_and_as_a_table(dump):
    told = json.loads(run("--dump", dump, "--json"))
    assert told["abi"] == "arm64-v8a"
    assert [(one["core"], one["num_cores"]) for one in told["clusters"]] == [("unknown", 2)]
    assert "2 x unknown, no frequency told" in run("--dump", dump)


def test_a_folder_is_read_like_a_system(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor : 0\nflags : lm\nmodel name : Fast\n", encoding="utf-8")
    told = json.loads(run("--root", tmp_path, "--json"))
    assert (told["abi"], told["clusters"][0]["core"]) == ("x86_64", "Fast")


def test_this_machine_is_read_without_options():
    assert json.loads(run("--json"))["clusters"]
