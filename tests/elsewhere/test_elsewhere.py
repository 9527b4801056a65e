"""The golden cases on other ONNX Runtimes: the newest, the oldest that artifacts name, and the browser's under Node."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipeline.compile.versions import MINIMUM_RUNTIME
from tests.elsewhere.environments import ROOT, node_project, python_environment
from tests.golden.compiled import TOLERANCE, compile_case, largest_difference
from tests.golden.make import read_golden
from tests.golden.networks import CASES

pytestmark = pytest.mark.elsewhere
HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory):
    """A folder with an artifact a golden case, and the inputs of its steps."""
    folder = tmp_path_factory.mktemp("artifacts")
    for case in CASES:
        compile_case(case, folder / case.name)
        (folder / case.name / "steps").mkdir()
        for step, inputs, _ in read_golden(case):
            save_file(inputs, folder / case.name / "steps" / f"{step}.safetensors")
    return folder


def on_the_newest():
    return [python_environment(), HERE / "run_session.py"]


def on_the_oldest():
    return ["node", HERE / "run_graphs.mjs", "onnxruntime-node", node_project("onnxruntime-node", MINIMUM_RUNTIME)]


def in_the_browsers():
    return ["node", HERE / "run_graphs.mjs", "onnxruntime-web", node_project("onnxruntime-web", "latest")]


@pytest.fixture(scope="session", params=[on_the_newest, on_the_oldest, in_the_browsers], ids=lambda f: f.__name__)
def elsewhere(request, artifacts, tmp_path_factory, say):
    """The folder with what a runtime made of every step, and a line about it that grows by what the tests find."""
    results = tmp_path_factory.mktemp("results")
    command = [*request.param(), artifacts, results]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    said = json.loads(done.stdout)
    found = {}
    yield results, found
    say(f"{said['runtime']}:")
    for name, difference in found.items():
        say(f"  {name:12} largest relative difference {difference:.1e}, a step {said['median_ms'][name]:.2f} ms")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_graphs_give_the_golden_outputs(case, elsewhere):
    results, found = elsewhere
    steps = [
        largest_difference(case, load_file(results / case.name / f"{step}.safetensors"), expected)
        for step, _, expected in read_golden(case)
    ]
    found[case.name] = np.max(steps)  # NaN where there is one
    assert found[case.name] < TOLERANCE


def test_all_of_a_runs_time_is_told_by_kernel_on_the_newest(say):
    command = [python_environment(), HERE / "run_watched.py", "4"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    said = json.loads(done.stdout)
    assert {direction for direction, *_ in said["graphs"]} == {"forward", "evaluate", "gradient"}
    for _, run_ms, kernels_ms, num_nodes in said["graphs"]:
        assert num_nodes > 1
        assert np.percentile(kernels_ms, 25) == pytest.approx(run_ms, rel=0.01)
    say(f"{said['runtime']}: the nodes of {len(said['graphs'])} graphs are all of kernels")
