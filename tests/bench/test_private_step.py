import json
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from bench import private_step
from bench.measuring import print_result
from bench.private_memory import measure_peak_mib, peak_of_steps
from bench.private_networks import NETWORKS, BenchNetwork
from bench.private_ways import ORDINARY, OURS, PRIVATE, WAYS, Scene, Way, prepare
from pipeline.compile.versions import DEFAULT_BATCH_SIZE

BATCH_SIZE = 2 * DEFAULT_BATCH_SIZE
RUN = {"rounds": 2, "versions": {"torch": "2"}, "sources": "a"}


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
    assert {"ort_training", "ort_training_chunks", *PRIVATE} < set(WAYS)
    for way in [*WAYS, "host"]:
        assert row[way] > 0
        assert len(row["times_ms"][way]) == 2
        assert row["spread"][way]["min_ms"] <= row["spread"][way]["max_ms"]
    for way in ("ort_training", "ort_training_chunks"):
        assert row[f"vs_{way}"] == pytest.approx(row[OURS] / row[way], rel=0.02)
        assert row[f"memory_vs_{way}"] == pytest.approx(len("handheld") / len(way))
    assert row["vs_torch"] == pytest.approx(min(row[way] for way in PRIVATE) / row[OURS], rel=0.02)


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


def test_a_batch_that_is_no_multiple_of_the_chunk_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match=f"multiple of the chunk size {DEFAULT_BATCH_SIZE}, got 9"):
        prepare(Scene(TINY, 9, tmp_path))


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
        ({"vs_ort_training": 1.1504}, 2),
        ({"memory_vs_ort_training": 1.6}, 15),
        ({"memory_vs_ort_training": None}, 1),
    ],
)
def test_the_bars_are_those_of_the_rows(changes, num_missed):
    assert sum(not bar.met for bar in private_step.bars_of(rows_of(**changes))) == num_missed


def test_rows_that_are_missing_are_a_bar_that_is_missed():
    missed = [bar.name for bar in private_step.bars_of(rows_of()[:-1]) if not bar.met]
    assert missed == ["rows measured, memory included"]


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


def test_the_peak_of_steps_is_at_least_what_they_keep(tmp_path, monkeypatch):
    kept = []
    allocate = Way(lambda: kept.append(np.ones(4 << 20)) or 0.0, lambda: kept[-1])
    monkeypatch.setitem(WAYS, OURS, lambda scene: allocate)
    assert 95 < peak_of_steps(Scene(TINY, 1, tmp_path), OURS) < 128  # three steps of 32 MiB


def test_a_memory_process_that_fails_says_why(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "no manifest\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match="memory of handheld on lenet5 cannot be measured: no manifest"):
        measure_peak_mib("lenet5", OURS, 1, tmp_path)


def test_what_was_measured_before_a_stop_is_kept(tmp_path, capsys):
    path = tmp_path / "result.rows"
    assert private_step.kept_rows(path, RUN) == []
    rows = [{"network": name, "batch_size": 1, "run": RUN} for name in "ab"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert private_step.kept_rows(path, RUN) == rows
    assert not capsys.readouterr().err


def test_rows_of_another_run_and_a_torn_one_are_dropped_with_a_message(tmp_path, capsys):
    path = tmp_path / "result.rows"
    runs = [RUN, RUN | {"rounds": 40}, RUN | {"sources": "b", "versions": {}}]
    rows = [{"network": name, "batch_size": 8, "run": run} for name, run in zip("abc", runs, strict=True)]
    rows.append({"network": "d", "batch_size": 8})  # as rows once were
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"network": "e", "ba', encoding="utf-8")
    assert private_step.kept_rows(path, RUN) == rows[:1]
    assert [line.removeprefix(f"{path}: dropped ") for line in capsys.readouterr().err.splitlines()] == [
        "b, batch 8: measured with other rounds",
        "c, batch 8: measured with other versions, sources",
        "d, batch 8: measured with other rounds, versions, sources",
        "a row that was not written to its end",
    ]
    assert private_step.kept_rows(path, RUN) == rows[:1]  # the file holds nothing else any more
    assert not capsys.readouterr().err


def test_a_run_is_known_by_rounds_versions_machine_and_sources():
    result = private_step.new_result("private_step", private_step.PACKAGES)
    run = private_step.run_of(result, 3)
    assert (run["rounds"], run["versions"]["torch"]) == (3, result.versions["torch"])
    assert run["processor"] == result.machine["processor"]
    assert len(run["sources"]) == 64


def test_without_an_ordinary_step_there_is_nothing_to_compare_with(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.private_ways.write_ort_training", lambda *_: "left out: a reason")
    with pytest.raises(RuntimeError, match="ort_training left out: a reason"):
        prepare(Scene(TINY, 2, tmp_path))
