"""Every exporter on every option of the search space: the written file says what the network says."""

import importlib.metadata
from pathlib import Path

import numpy as np
import pytest

from pipeline.run_result import read_finished_run
from pipeline.ship.executorch_export import PTE
from pipeline.ship.exporters import EXPORTERS
from pipeline.ship.network import exact_outputs, trained_network
from search.architecture import Architecture, Stage, Stem

OPTIONS = {
    "plain depthwise, flatten, relu": Architecture((1, 8, 8), 10, Stem(4, 5), (Stage("depthwise", 6, 2, 3, 2),)),
    "inverted with a skip, group norm, hard-swish, global average": Architecture(
        (3, 9, 7), 3, Stem(6, 3, 2), (Stage("inverted", 6, 2, 3, 1, 2),), "global_average", "group", "hard_swish"
    ),
    "no stage, odd sides, stride 3": Architecture((3, 11, 5), 2, Stem(5, 3, 3), (), "flatten", "group", "relu"),
    "group norm over one channel each, hard-swish, flatten": Architecture(
        (1, 6, 6), 4, Stem(3), (Stage("depthwise", 5, 1, 5),), "flatten", "group", "hard_swish"
    ),
}
CASES = [
    pytest.param(file, name, marks=[pytest.mark.slow] if file == PTE else [], id=f"{file}: {name}")
    for file in EXPORTERS
    for name in OPTIONS
]


def differences(file, network, folder, x):
    """Largest difference of each output from the network's, written files made in order."""
    for name, exporter in EXPORTERS.items():
        if name == file or (name == "model.onnx" and file != PTE):
            exporter.write(network, folder)
    expected, found = exact_outputs(network, x).by_name(), EXPORTERS[file].run(folder / file, x).by_name()
    assert found.keys() == expected.keys()
    return [float(np.abs(found[name] - expected[name]).max()) for name in expected]


@pytest.mark.parametrize(("file", "option"), CASES)
def test_a_written_file_agrees_with_the_network(untrained, draw_inputs, tmp_path, file, option):
    network = untrained(OPTIONS[option])
    for num_examples in (1, 5):
        x = draw_inputs(network.x_shape, num_examples)
        assert max(differences(file, network, tmp_path, x)) <= 1e-5


@pytest.mark.parametrize("file", EXPORTERS)
def test_a_shipped_file_agrees_with_the_trained_network_on_examples_it_never_saw(shipped, digits, file):
    expected = exact_outputs(trained_network(read_finished_run(digits.folder)), digits.test.x)
    found = EXPORTERS[file].run(Path(shipped.folder) / file, digits.test.x)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)


@pytest.mark.parametrize("file", EXPORTERS)
def test_a_runtime_is_told_with_its_version(file):
    exporter = EXPORTERS[file]
    assert exporter.runtime_and_version().endswith(f" {importlib.metadata.version(exporter.distribution)}")


@pytest.mark.slow
def test_the_same_network_gives_the_same_pte(untrained, tmp_path):
    network, files = untrained(OPTIONS["no stage, odd sides, stride 3"]), []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        EXPORTERS[PTE].write(network, tmp_path / name)
        files.append((tmp_path / name / PTE).read_bytes())
    assert files[0] == files[1]
