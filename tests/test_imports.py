"""DESIGN's import table: who may import whom, and which heavy libraries may appear where."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OWN = {"profiles", "search", "device_runtime", "pipeline"}
CLIENT_LIBRARIES = {"numpy", "safetensors", "httpx", "cryptography", "PIL", "typer", "rich", "onnxruntime"}
SERVER_LIBRARIES = {
    "torch",
    "onnx",
    "executorch",
    "opacus",
    "scipy",
    "sklearn",
    "optuna",
    "fastapi",
    "starlette",
    "uvicorn",
    "sqlalchemy",
    "pydantic",
    "pydantic_core",
    "jinja2",
    "matplotlib",
}


@dataclass(frozen=True)
class Row:
    """What one package may import: packages of ours, libraries, and libraries in files of certain names only."""

    own: frozenset[str] = frozenset()
    libraries: frozenset[str] = frozenset()
    libraries_by_file: tuple[tuple[str, str], ...] = ()
    never: tuple[str, ...] = ()


TABLE = {
    "profiles": Row(
        libraries=frozenset({"numpy"}),
        libraries_by_file=(
            ("network_errors.py", "scipy"),
            ("regression.py", "sklearn"),
            ("regression.py", "threadpoolctl"),
        ),
    ),
    "search": Row(
        own=frozenset({"profiles"}), libraries=frozenset({"numpy"}), libraries_by_file=(("*optuna*.py", "optuna"),)
    ),
    # The training part of ONNX Runtime needs torch, and predictors need scikit-learn: neither is on a phone.
    "device_runtime": Row(
        own=frozenset({"profiles"}),
        libraries=frozenset(CLIENT_LIBRARIES),
        never=("onnxruntime.training", "profiles.*predict*", "profiles.regression", "profiles.transfer"),
    ),
    "pipeline": Row(
        own=frozenset({"profiles", "search", "device_runtime"}),
        libraries=frozenset(CLIENT_LIBRARIES | SERVER_LIBRARIES),
        libraries_by_file=(("*ray*.py", "ray"),),
    ),
}


def imported_modules(source: str) -> set[str]:
    """All modules that a file imports anywhere in it, inside functions and by name too, with their parents."""
    names = [name.split(".") for name in _imported_names(source)]
    return {".".join(name[:length]) for name in names for length in range(1, len(name) + 1)}


def _imported_names(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant))


def forbidden_imports(path: Path, source: str) -> set[str]:
    """Top-level names, or patterns, that the table does not allow in the file at `path` (relative to the root)."""
    package = path.parts[0]
    row = TABLE[package]
    allowed = {package, *row.own, *row.libraries, *sys.stdlib_module_names}
    allowed |= {library for pattern, library in row.libraries_by_file if fnmatch(path.name, pattern)}
    modules = imported_modules(source)
    found = {module.partition(".")[0] for module in modules} - allowed
    return found | {pattern for pattern in row.never if any(fnmatch(module, pattern) for module in modules)}


def source_files() -> list[Path]:
    return [path.relative_to(ROOT) for package in sorted(OWN) for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("path", source_files(), ids=str)
def test_a_file_imports_only_what_the_table_allows(path):
    assert forbidden_imports(path, (ROOT / path).read_text(encoding="utf-8")) == set()


def test_the_table_covers_every_package_and_finds_files_in_each():
    assert set(TABLE) == OWN
    assert {path.parts[0] for path in source_files()} == OWN


def test_no_row_allows_pipeline_and_search_and_device_runtime_stay_apart():
    assert all("pipeline" not in row.own for row in TABLE.values())
    assert "device_runtime" not in TABLE["search"].own
    assert "search" not in TABLE["device_runtime"].own


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("device_runtime/session.py", "import torch", {"torch"}),
        ("device_runtime/session.py", "from onnx import helper", {"onnx"}),
        ("device_runtime/session.py", "def f():\n    import sklearn.datasets", {"sklearn"}),
        ("device_runtime/session.py", "if TYPE_CHECKING:\n    from search.layers import Layer", {"search"}),
        ("device_runtime/session.py", "import importlib\nimportlib.import_module('pipeline.serve')", {"pipeline"}),
        ("device_runtime/session.py", "__import__('torch')", {"torch"}),
        ("device_runtime/session.py", "import onnxruntime.training.api", {"onnxruntime.training"}),
        ("device_runtime/session.py", "from onnxruntime import training", {"onnxruntime.training"}),
        ("device_runtime/session.py", "from profiles import latency_predictor", {"profiles.*predict*"}),
        ("device_runtime/http/client.py", "import requests", {"requests"}),
        ("search/evolution.py", "import device_runtime.specs", {"device_runtime"}),
        ("search/evolution.py", "import optuna", {"optuna"}),
        ("profiles/records.py", "from sklearn import linear_model", {"sklearn"}),
        ("profiles/records.py", "import search", {"search"}),
        ("pipeline/serve.py", "import tests.conftest", {"tests"}),
    ],
)
def test_the_checker_catches_a_violation(path, source, found):
    assert forbidden_imports(Path(path), source) == found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("profiles/regression.py", "from sklearn.ensemble import RandomForestRegressor"),
        ("search/optuna_search.py", "import optuna"),
        ("device_runtime/session.py", "import json\nimport onnxruntime\nfrom profiles.records import to_plain"),
        ("device_runtime/session.py", "from device_runtime import specs"),
        ("pipeline/compile/gradient.py", "import onnxruntime.training\nfrom search.layers import layers_of"),
    ],
)
def test_the_checker_lets_the_table_through(path, source):
    assert forbidden_imports(Path(path), source) == set()
