import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.compile.quiet import quiet_native_log

ROOT = Path(__file__).parents[3]


def test_native_and_python_output_go_nowhere_and_come_back(capfd):
    with quiet_native_log():
        os.write(1, b"native chatter")
        os.write(2, b"native log")
        print("chatter")  # noqa: T201
    os.write(2, b"after")
    os.write(1, b"after")
    sys.stdout.write("wards")
    assert capfd.readouterr() == ("afterwards", "after")


def test_an_error_passes_and_the_output_comes_back(capfd):
    with pytest.raises(RuntimeError, match="inside"), quiet_native_log():
        raise RuntimeError("inside")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


SCRIPT = """
import sys
from pipeline.compile.quiet import quiet_native_log
sys.stdout.write("before")
with quiet_native_log():
    pass
"""


def test_what_python_wrote_before_is_not_lost():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "before"
