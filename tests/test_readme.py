"""What the README tells to type works."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODULES = {"handheld": "pipeline.command_line", "handheld-device": "device_runtime.command_line"}
TESTED = "".join(re.findall(r"^```sh\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^\.venv/bin/(handheld.*)$", TESTED, flags=re.MULTILINE)
SHOWN = re.findall(r"^(handheld(?:-device)? .*)$", README, flags=re.MULTILINE)


def run(command: str, folder: Path) -> str:
    program, *arguments = shlex.split(command)
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from {MODULES[program]} import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        check=False,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
    return done.stdout


def test_the_readme_shows_both_programs():
    assert {command.split()[0] for command in COMMANDS} == set(MODULES)


@pytest.mark.slow
def test_the_commands_of_the_readme_run_one_after_the_other_in_a_clone(tmp_path):
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for command in COMMANDS:
        assert run(command, tmp_path)
    assert (tmp_path / "runs" / "example" / "report.html").stat().st_size > 10_000
    assert (tmp_path / "runs" / "example" / "bundle" / "model.pte").exists()


@pytest.mark.parametrize("command", SHOWN)
def test_a_command_that_the_readme_only_shows_has_the_options_it_shows(command, tmp_path):
    program, name, *arguments = shlex.split(command)
    text = run(f"{program} {name} --help", tmp_path)
    for option in (argument for argument in arguments if argument.startswith("--")):
        assert option in text


def test_the_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    told = set(re.findall(r"\bmake ([a-z-]+)`?", README))
    assert {"env", "check", "test"} <= told <= targets


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", README))
def test_a_link_of_the_readme_leads_to_a_file(link):
    assert (ROOT / link).exists()
