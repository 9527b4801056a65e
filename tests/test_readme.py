"""What the README tells to type works."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODULES = {"handheld": "pipeline.command_line", "handheld-device": "device_runtime.command_line"}
COMMANDS = re.findall(r"^\.venv/bin/(handheld.*)$", README, flags=re.MULTILINE)


def test_the_readme_shows_both_programs():
    assert {command.split()[0] for command in COMMANDS} == set(MODULES)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_runs(command):
    program, *arguments = shlex.split(command)
    script = f"from {MODULES[program]} import main; main()"
    subprocess.run([sys.executable, "-c", script, *arguments], cwd=ROOT, check=True, capture_output=True)


def test_the_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    told = set(re.findall(r"\bmake ([a-z-]+)`?", README))
    assert {"env", "check", "test"} <= told <= targets


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", README))
def test_a_link_of_the_readme_leads_to_a_file(link):
    assert (ROOT / link).exists()
