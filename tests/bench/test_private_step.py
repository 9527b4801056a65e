import json
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from bench import private_step
from bench.measuring import print_result
from bench.private_memory import peak_of_one_step
from bench.private_networks import NETWORKS, BenchNetwork
from bench.private_ways import ORDINARY, OURS, PRIVATE, WAYS, Scene, Way, prepare
from pipeline.compile.versions import DEFAULT_BATCH_SIZE

BATCH_SIZE = 9  # two chunks, the second one filled up


def make_tiny() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


TINY = BenchNetwork(make_tiny, (1, 6, 6), 3, bar=1.0)


@pytest.fixture(scope="module")
def row():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(private_step, "measure_peak_mib", lambda _name, way, _batch, _folder: len(way))
        return private_step.measure_row("tiny", TINY, BATCH_SIZE, rounds=2)


pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing", "ignore:Secure RNG turned off")


def test_every_way_is_timed_in_one_row(row):
    assert (row["network"], row["batch_size"], row["chunk_size"]) == ("tiny", BATCH_SIZE, DEFAULT_BATCH_SIZE)
    assert row["parameters"] == 4 * 9 + 4 + 4 + 4 + 3 * 64 + 3
    for way in [*WAYS, "host"]:
        assert row[way] > 0
        assert len(row["times_ms"][way]) == 2
        assert row["spread"][way]["min_ms"] <= row["spread"][way]["max_ms"]
    assert row["vs_ort_training"] == pytest.approx(row[OURS] / row["ort_training"], rel=0.02)
    assert row["vs_torch"] == pytest.approx(min(row[way] for way in PRIVATE) / row[OURS], rel=0.02)
    assert row["memory_vs_ort_training"] == pytest.approx(len("handheld") / len("ort_training"), abs=0.001)


def test_the_table_and_the_json_hold_every_column(row, capsys):
    result = replace(private_step.new_result("private_step", private_step.PACKAGES), rows=[row])
    print_result(result, private_step.COLUMNS)
    plain = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"torch", "opacus", "onnxruntime-training-cpu"} <= set(plain["versions"])
    assert set(private_step.COLUMNS) <= set(plain["rows"][0])


def test_every_network_has_a_bar_and_gives_one_row_an_example():
    for network in NETWORKS.values():
        scene = Scene(network, 2, folder=None)
        logits = scene.module()(scene.tensors()[0])
        assert logits.shape == (2, network.num_classes)
        assert network.bar in {1.15, 1.25, 1.5}


def rows_of(**changes) -> list[dict]:
    values = {"vs_ort_training": 1.0, "vs_torch": 2.0, "memory_vs_ort_training": 1.0} | changes
    return [
        {"network": name, "batch_size": size, "bar": network.bar, **values}
        for name, network in NETWORKS.items()
        for size in private_step.BATCH_SIZES
    ]


@pytest.mark.parametrize(
    ("changes", "num_missed"),
    [
        ({}, 0),
        ({"vs_ort_training": 1.2}, 2),  # LeNet-5 and DS-CNN have 1.15
        ({"vs_torch": 0.9}, 15 + 3),
        ({"vs_torch": 1.4}, 2),  # the means of batches 1 and 8
        ({"memory_vs_ort_training": 1.6}, 5),
        ({"memory_vs_ort_training": None}, 0),
    ],
)
def test_the_bars_are_those_of_the_rows(changes, num_missed):
    assert sum(not bar.met for bar in private_step.bars_of(rows_of(**changes))) == num_missed


def ways_of(**changes) -> dict[str, Way]:
    """Ways that give loss 1 and gradient [1, 2], or (loss, gradient) as told."""
    values = {way: (1.0, [1.0, 2.0]) for way in WAYS} | changes
    return {
        way: Way(lambda loss=loss: loss, lambda gradient=gradient: np.array(gradient))
        for way, (loss, gradient) in values.items()
    }


def test_ways_that_do_not_do_the_same_work_are_not_compared():
    private_step.check_same_work(ways_of())
    private_step.check_same_work(ways_of(**dict.fromkeys(ORDINARY, (1.0, [5.0, 5.0]))))
    with pytest.raises(RuntimeError, match="different losses"):
        private_step.check_same_work(ways_of(pytorch=(1.1, [1.0, 2.0])))
    with pytest.raises(RuntimeError, match="opacus_ghost and handheld compute different gradients"):
        private_step.check_same_work(ways_of(opacus_ghost=(1.0, [1.0, 2.5])))
    with pytest.raises(RuntimeError, match="pytorch and ort_training compute different gradients"):
        private_step.check_same_work(ways_of(pytorch=(1.0, [np.nan, 2.0])))


def test_the_peak_of_a_step_is_at_least_what_the_step_keeps(tmp_path, monkeypatch):
    kept = []
    allocate = Way(lambda: kept.append(np.ones(4 << 20)) or 0.0, lambda: kept[-1])
    monkeypatch.setitem(WAYS, OURS, lambda scene: allocate)
    assert 31 < peak_of_one_step(Scene(TINY, 1, tmp_path), OURS) < 64


def test_what_was_measured_before_a_stop_is_kept(tmp_path):
    path = tmp_path / "result.rows"
    assert private_step._kept(None) == private_step._kept(path) == []
    path.write_text('{"network": "a"}\n{"network": "b"}\n', encoding="utf-8")
    assert [row["network"] for row in private_step._kept(path)] == ["a", "b"]


def test_without_an_ordinary_step_there_is_nothing_to_compare_with(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.private_ways.write_ort_training", lambda *_: "left out: a reason")
    with pytest.raises(RuntimeError, match="ort_training left out: a reason"):
        prepare(Scene(TINY, 2, tmp_path), 2)
