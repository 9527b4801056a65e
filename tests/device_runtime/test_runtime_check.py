import subprocess
import sys
import textwrap
from importlib import metadata

import pytest

from device_runtime.runtime_check import (
    INFERENCE,
    TRAINING,
    RuntimeCombinationError,
    check_device_runtime,
    check_pipeline_runtime,
    installed_version,
)

BOTH = {INFERENCE: "1.31.1", TRAINING: "1.19.2"}
DEVICE = {INFERENCE: "1.31.1"}
SERVER = {TRAINING: "1.19.2"}


@pytest.mark.parametrize("check", [check_device_runtime, check_pipeline_runtime])
def test_both_packages_together_are_told_by_name_and_version_with_the_cure(check):
    with pytest.raises(
        RuntimeCombinationError,
        match=r"onnxruntime 1\.31\.1 and onnxruntime-training-cpu 1\.19\.2 .*pip uninstall -y onnxruntime onnxruntime-"
        r"training-cpu, then pip install 'handheld\[device\]' .* or pip install 'handheld\[pipeline\]'",
    ):
        check(BOTH.get)


@pytest.mark.parametrize("check", [check_device_runtime, check_pipeline_runtime])
def test_no_runtime_at_all_is_told_with_both_choices(check):
    with pytest.raises(RuntimeCombinationError, match=r"neither .*handheld\[device\].*handheld\[pipeline\]"):
        check({}.get)


def test_the_pipeline_refuses_a_device_environment():
    with pytest.raises(
        RuntimeCombinationError, match=r"made for a device.*pip uninstall -y onnxruntime, then pip install"
    ):
        check_pipeline_runtime(DEVICE.get)


def test_one_package_is_enough_for_a_device():
    check_device_runtime(DEVICE.get)
    check_device_runtime(SERVER.get)


def test_the_training_package_is_enough_for_the_pipeline():
    check_pipeline_runtime(SERVER.get)


def test_the_error_is_an_import_error():
    assert issubclass(RuntimeCombinationError, ImportError)


def test_an_installed_version_is_the_one_pip_knows():
    assert installed_version("pytest") == metadata.version("pytest")
    assert installed_version("no-such-distribution") is None


@pytest.mark.parametrize(
    ("package", "installed", "message"),
    [
        ("device_runtime", BOTH, "are installed together"),
        ("device_runtime", {}, "neither onnxruntime nor onnxruntime-training-cpu"),
        ("pipeline", DEVICE, "pipeline needs onnxruntime-training-cpu"),
    ],
)
def test_importing_a_package_in_a_wrong_environment_fails_with_that_error(package, installed, message):
    script = f"""
        from importlib import metadata
        def version(name, installed={installed!r}):
            if name not in installed:
                raise metadata.PackageNotFoundError(name)
            return installed[name]
        metadata.version = version
        import {package}
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last_line = done.stderr.strip().splitlines()[-1]
    assert last_line.startswith("device_runtime.runtime_check.RuntimeCombinationError: ")
    assert message in last_line


@pytest.mark.parametrize("package", ["profiles", "search"])
def test_profiles_and_search_need_no_runtime(package):
    script = f"from importlib import metadata; metadata.version = lambda name: 1 / 0; import {package}"
    subprocess.run([sys.executable, "-c", script], check=True)
