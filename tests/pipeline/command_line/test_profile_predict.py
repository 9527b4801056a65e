import json
from math import ceil
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from device_runtime.console import build_app, run_program
from pipeline.command_line import PROGRAM
from pipeline.command_line.profile_predict import MAX_BATCH_SIZE
from profiles.catalogue import catalogue_names, load_profile
from profiles.energy import big_core_curve, energy_mj
from profiles.records import encode_record, to_plain
from search.architecture import Architecture, Stem
from search.cost import cost_of, predict_latency, predict_training_step

NETWORK = Architecture((1, 8, 8), 10, Stem(4))


@pytest.fixture
def network(tmp_path) -> Path:
    path = tmp_path / "network.json"
    path.write_bytes(encode_record(NETWORK))
    return path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(
        build_app(PROGRAM), ["profile", "predict", *map(str, arguments)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return result.stdout


def fail(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit) as left:
        run_program(PROGRAM, ["profile", "predict", *map(str, arguments)])
    assert left.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def write_graph(path: Path, operator: str) -> Path:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4, 4]) for name in ("x", "y")]
    nodes = [helper.make_node(operator, ["x"], ["y"])]
    onnx.save(helper.make_model(helper.make_graph(nodes, "a test", values[:1], values[1:])), path)
    return path


def test_it_gives_what_the_search_reckons_with_and_the_intervals(network):
    (told,) = json.loads(run(network, "--profile", "pixel-4", "--batch-size", 8, "--json"))
    profile = load_profile("pixel-4")
    assert told["cost"] == to_plain(cost_of(NETWORK, profile, 8))
    assert (told["profile"], told["device_class"], told["batch_size"]) == ("pixel-4", "high", 8)
    for name, found in (
        ("latency", predict_latency(NETWORK, profile)),
        ("training_step", predict_training_step(NETWORK, profile, 8)),
    ):
        for field in ("median_ms", "p90_ms", "interval80_ms", "interval95_ms", "method"):
            assert told[name][field] == to_plain(getattr(found, field))
        assert told[name]["energy_mj"] == energy_mj(big_core_curve(profile), found.median_ms)


def test_a_local_round_is_its_gradient_steps(network):
    (told,) = json.loads(run(network, "--profile", "pixel-4", "--examples", 50, "--epochs", 3, "--json"))
    assert told["num_steps"] == 3 * ceil(50 / 16)
    for field in ("median_ms", "energy_mj"):
        assert told["local_round"][field] == pytest.approx(told["num_steps"] * told["training_step"][field])
    assert told["local_round"]["interval80_ms"][1] > told["local_round"]["median_ms"]


def test_without_a_profile_it_takes_the_whole_catalogue(network):
    assert [one["profile"] for one in json.loads(run(network, "--json"))] == list(catalogue_names())
    assert all(name in run(network) for name in ("pixel-4", "redmi-8"))


def test_it_takes_a_profile_of_ones_own(tmp_path, network):
    path = tmp_path / "mine.json"
    path.write_bytes(encode_record(load_profile("galaxy-s9")))
    (told,) = json.loads(run(network, "--profile", path, "--json"))
    assert told["profile"] == "galaxy-s9"


def test_a_graph_is_predicted_from_its_operators(tmp_path):
    (told,) = json.loads(run(write_graph(tmp_path / "net.onnx", "Relu"), "--profile", "pixel-4", "--json"))
    assert told["latency"]["median_ms"] > 0
    assert told["cost"] is None
    assert not any("not known" in warning for warning in told["warnings"])


def test_operators_that_are_not_known_are_named_and_make_the_interval_wide(tmp_path):
    known, unknown = (
        json.loads(run(write_graph(tmp_path / f"{name}.onnx", name), "--profile", "pixel-4", "--json"))[0]
        for name in ("Relu", "Bernoulli")
    )
    assert any("Bernoulli" in warning for warning in unknown["warnings"])
    widths = [one["latency"]["interval95_ms"][1] / one["latency"]["interval95_ms"][0] for one in (known, unknown)]
    assert widths[1] > 10 * widths[0]
    assert "Bernoulli" in run(tmp_path / "Bernoulli.onnx", "--profile", "pixel-4")


def test_an_unknown_profile_names_the_nearest(network, capsys):
    assert "did you mean 'pixel-4'" in fail(capsys, network, "--profile", "pixel4")


def test_files_that_are_none_of_these_are_told_by_name(tmp_path, capsys):
    for name, words in (("network.json", "Architecture lacks input_shape"), ("net.onnx", "no protocol buffer")):
        path = tmp_path / name
        path.write_text("{}", encoding="utf-8")
        told = fail(capsys, path)
        assert name in told
        assert words in told


def test_the_largest_batch_size_is_told_and_predicts(network, capsys):
    assert "65536" in fail(capsys, network, "--profile", "pixel-4", "--batch-size", 10**9)
    (told,) = json.loads(run(network, "--profile", "pixel-4", "--batch-size", MAX_BATCH_SIZE, "--json"))
    assert told["batch_size"] == 65536
