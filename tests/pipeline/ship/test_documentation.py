import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.command_line.ship import EXAMPLE

DOCUMENT = (Path(__file__).parents[3] / "docs" / "ship.md").read_text(encoding="utf-8")


def test_the_document_explains_every_file_of_a_bundle(shipped):
    named = {"golden-N.png" if name.startswith("golden-") else name for name in shipped.bundle.files}
    for name in {*named, "bundle.json"}:
        assert f"| `{name}` |" in DOCUMENT


def test_the_document_gives_the_commands_own_example():
    assert EXAMPLE in DOCUMENT


@pytest.mark.slow
def test_the_command_in_a_process_of_its_own_writes_every_file_and_says_nothing_else(digits, tmp_path):
    script = "from pipeline.command_line import main; main()"
    command = [sys.executable, "-c", script, "ship", str(digits.folder), "-o", str(tmp_path / "bundle")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert done.stderr == ""
    assert {"model.onnx", "model.ort", "model.pte"} <= {path.name for path in (tmp_path / "bundle").iterdir()}
    assert done.stdout.lstrip().startswith("bundle of digits")
