"""The device extra alone, from the wheel, in an environment of its own and an empty folder; needs a package index.

An empty folder, because `search`, `profiles` and `pipeline` are names that other distributions use too: what is
imported has to be what was installed.
"""

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("profiles", "search", "device_runtime", "pipeline")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: a `build` folder left in the tree would put deleted files into it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", source / "dist", source]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = (source / "dist").glob("handheld-*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """The `bin` folder of an environment with `handheld[device]` and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    install = [folder / "bin" / "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
    subprocess.run([*install, f"handheld[device] @ {wheel.as_uri()}"], check=True)
    return folder / "bin"


def run(command, folder):
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_wheel_holds_every_file_of_the_packages_and_no_other(wheel):
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    in_tree = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert inside == in_tree


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_handheld_device_runs_in_an_empty_folder(environment, tmp_path, option):
    done = run([environment / "handheld-device", option], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "handheld" in done.stdout


@pytest.mark.slow
def test_every_module_of_device_runtime_imports_and_with_it_what_it_needs_of_profiles(environment, tmp_path):
    paths = sorted((ROOT / "device_runtime").rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    done = run([environment / "python", "-c", "".join(f"import {name}\n" for name in names)], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("library", ["torch", "onnx", "sklearn", "fastapi", "sqlalchemy"])
def test_a_servers_libraries_are_absent(environment, tmp_path, library):
    done = run([environment / "python", "-c", f"import {library}"], tmp_path)
    assert f"No module named '{library}'" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", [["python", "-c", "import pipeline"], ["handheld", "--help"]])
def test_the_pipeline_says_which_package_it_misses(environment, tmp_path, command):
    done = run([environment / command[0], *command[1:]], tmp_path)
    assert done.returncode == 1
    last_line = done.stderr.strip().splitlines()[-1]
    assert "RuntimeCombinationError: pipeline needs onnxruntime-training-cpu" in last_line
    assert "pip uninstall -y onnxruntime, then pip install 'handheld[pipeline]'" in last_line
