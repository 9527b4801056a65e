"""The golden cases on this environment's ONNX Runtime; `make test-elsewhere` takes the same files to other runtimes."""

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file

from tests.golden.compiled import TOLERANCE, compile_case, largest_difference
from tests.golden.make import FLOAT32_ERROR, FOLDER, make_golden, read_golden
from tests.golden.networks import CASES


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Small networks gain nothing from more, and on a busy machine torch's threads wait for each other."""
    torch.set_num_threads(1)


def run(graph: bytes, inputs: dict) -> dict:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    outputs = session.run(names, {value.name: inputs[value.name] for value in session.get_inputs()})
    return dict(zip(names, outputs, strict=True))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_freshly_compiled_graphs_give_the_golden_outputs(case, tmp_path):
    artifact = compile_case(case, tmp_path / "artifact")
    for _, inputs, expected in read_golden(case):
        found = run(artifact.gradient, inputs) | run(artifact.evaluate, inputs)
        assert largest_difference(case, found, expected) < TOLERANCE


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden_files_hold_what_their_script_makes(case):
    stored, made = load_file(FOLDER / f"{case.name}.safetensors"), make_golden(case)
    assert stored.keys() == made.keys()
    for name, value in made.items():
        assert stored[name].dtype == value.dtype
        np.testing.assert_allclose(stored[name], value, rtol=FLOAT32_ERROR, atol=1e-6)


@pytest.mark.parametrize("factor", [1.001, np.nan])
def test_a_wrong_gradient_of_the_smallest_parameter_is_a_difference(factor):
    case = CASES[0]
    _, _, expected = next(read_golden(case))
    wrong = expected["gradient_sum"].copy()
    wrong[-case.num_outputs :] *= factor  # the bias of the head
    assert largest_difference(case, expected, expected) == 0
    assert not largest_difference(case, {**expected, "gradient_sum": wrong}, expected) < TOLERANCE


def test_golden_files_are_small():
    assert sum(path.stat().st_size for path in FOLDER.glob("*.safetensors")) < 200_000
