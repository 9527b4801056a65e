import os
import sys

import pytest

from pipeline.compile.quiet import quiet_native_log


def test_native_and_python_output_go_nowhere_and_come_back(capfd):
    with quiet_native_log():
        os.write(2, b"native log")
        print("chatter")  # noqa: T201
    os.write(2, b"after")
    sys.stdout.write("wards")
    assert capfd.readouterr() == ("wards", "after")


def test_an_error_passes_and_the_output_comes_back(capfd):
    with pytest.raises(RuntimeError, match="inside"), quiet_native_log():
        raise RuntimeError("inside")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"
