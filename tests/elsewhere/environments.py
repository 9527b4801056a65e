"""The other environments, in `.elsewhere/`: made, and brought up to date by every run, from package indexes."""

import shutil
import subprocess
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / ".elsewhere"


class MissingError(RuntimeError):
    """An environment cannot be made here; the message says what is missing."""


def python_environment() -> Path:
    """The Python of an environment with the newest onnxruntime and what the device's session imports besides."""
    folder = FOLDER / "python"
    python = folder / "bin" / "python"
    if not (folder / "bin" / "pip").exists():
        venv.create(folder, clear=True, with_pip=True)
    # Without a network pip takes what is installed for the newest, unless it has to install again.
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--force-reinstall"]
    _install([*install, "onnxruntime", "numpy", "safetensors"], "the newest onnxruntime from PyPI")
    return python


def node_project(package: str, version: str) -> Path:
    """The folder of a Node project with one package, of a version or `latest`."""
    if not (shutil.which("node") and shutil.which("npm")):
        raise MissingError("node and npm are missing; install Node.js 20 or later (https://nodejs.org)")
    folder = FOLDER / f"{package}-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text('{"private": true}\n')
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel", "error", "--fetch-retries", "1"]
    wanted = f"{package}@{version}"
    _install(["npm", "install", "--prefix", folder, *options, wanted], f"{package} {version} from npm's registry")
    return folder


def _install(command: list[str | Path], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingError(f"{what} cannot be had; is there a network?\n{done.stderr}")
