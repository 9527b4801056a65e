from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.run_result import read_finished_run
from pipeline.ship.bundle import ship_run
from pipeline.ship.exporters import EXPORTERS
from pipeline.ship.network import Outputs, trained_network
from pipeline.ship.parity import TOLERANCE, Parity, ParityError, measure_parity
from profiles.records import decode_record


def spoil(monkeypatch, file, change):
    """Let a file's outputs come back changed."""
    right = EXPORTERS[file]

    def run(path, x):
        return change(right.run(path, x))

    monkeypatch.setitem(EXPORTERS, file, replace(right, run=run))


def shift(amount):
    return lambda outputs: Outputs(outputs.logits + np.float32(amount), outputs.probabilities)


def test_parity_tells_each_output_of_each_file_on_golden_and_on_random_inputs(shipped):
    parity = decode_record(Parity, (Path(shipped.folder) / "parity.json").read_bytes())
    assert parity == shipped.parity
    assert {(row.file, row.inputs, row.output) for row in parity.rows} == {
        (file, inputs, output)
        for file in EXPORTERS
        for inputs in ("golden", "random")
        for output in ("logits", "probabilities")
    }
    for row in parity.rows:
        assert 0 < row.max_relative <= row.max_absolute
        assert row.max_relative <= parity.tolerance == 1e-4
        assert row.num_examples == (3 if row.inputs == "golden" else 64)


@pytest.mark.parametrize("file", EXPORTERS)
def test_a_file_above_the_tolerance_is_refused_by_name_and_figure(shipped, digits, monkeypatch, file):
    spoil(monkeypatch, file, shift(0.5))
    network, x = trained_network(read_finished_run(digits.folder)), digits.test.x[:1]
    with pytest.raises(
        ParityError, match=rf"^{file} on .* differs from the trained model by [1-5]\.\de-0[12] \(logits"
    ):
        measure_parity(Path(shipped.folder), network, {"drawn": x})


@pytest.mark.parametrize("change", [shift(np.nan), lambda o: Outputs(o.logits[:, :9], o.probabilities)])
def test_what_is_no_number_or_of_another_shape_is_refused(shipped, digits, monkeypatch, change):
    spoil(monkeypatch, "model.onnx", change)
    with pytest.raises(ParityError, match=r"by (nan|inf) \(logits of the drawn inputs\)"):
        measure_parity(
            Path(shipped.folder), trained_network(read_finished_run(digits.folder)), {"drawn": digits.test.x[:2]}
        )


def test_a_difference_counts_beside_large_values_and_not_beside_small_ones(shipped, digits, monkeypatch):
    network, x = trained_network(read_finished_run(digits.folder)), {"drawn": digits.test.x[:9]}
    spoil(monkeypatch, "model.onnx", lambda o: Outputs(o.logits * np.float32(1 + 5e-5), o.probabilities))
    parity = measure_parity(Path(shipped.folder), network, x)
    row = next(row for row in parity.rows if (row.file, row.output) == ("model.onnx", "logits"))
    assert row.max_absolute > TOLERANCE  # 5e-5 of logits beyond 2
    assert row.max_relative == pytest.approx(5e-5, rel=0.05)


@pytest.mark.usefixtures("onnx_only")
def test_a_parameter_lost_on_the_way_leaves_no_bundle(digits, tmp_path, monkeypatch):
    right = EXPORTERS["model.onnx"]

    def write(network, folder):
        with pytest.MonkeyPatch.context() as patch:
            bias = network.network.classifier.bias
            patch.setattr(bias, "data", bias.data + 0.01)
            right.write(network, folder)

    monkeypatch.setitem(EXPORTERS, "model.onnx", replace(right, write=write))
    with pytest.raises(ParityError, match=r"model.onnx on ONNX Runtime 1.19.2 .* nothing was shipped: install the"):
        ship_run(digits.folder, tmp_path / "bundle")
    assert not list(tmp_path.iterdir())
