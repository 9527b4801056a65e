import json
import subprocess
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from bench import private_step, private_ways
from bench.measuring import print_result
from bench.private_memory import measure_peak_mib, peak_of_steps
from bench.private_networks import NETWORKS, BenchNetwork
from bench.private_ways import ORDINARY, OURS, PRIVATE, WAYS, Scene, Way, prepare
from pipeline.compile.versions import DEFAULT_BATCH_SIZE

BATCH_SIZE = 2 * DEFAULT_BATCH_SIZE
RUN = {"rounds": 2, "versions": {"torch": "2"}, "sources": "a"}


def make_tiny() -> nn.Module:
    """Large last weights spread the examples' norms over both sides of the clip."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        network[-1].weight.mul_(5)
    return network


TINY = BenchNetwork(make_tiny, (1, 6, 6), 3, bar=1.0)


@pytest.fixture(scope="module")
def measured():
    """A row, the options of the timing, and the session options of our graphs and of ORT Training's modules."""
    timing, ours, theirs = {}, [], []

    def time_interleaved(*arguments, **options):
        timing.update(options)
        return original_timing(*arguments, **options)

    def open_session(artifact):
        session = original_session(artifact)
        ours.extend(graph.get_session_options() for graph in (session.gradient_graph, session.evaluate_graph))
        return session

    def open_module(*arguments, **options):
        theirs.append(options["session_options"])
        return original_module(*arguments, **options)

    original_timing, original_session = private_step.time_interleaved, private_ways.StepSession
    original_module = private_ways.api.Module
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(private_step, "measure_peak_mib", lambda _name, way, _batch, _folder: len(way))
        patch.setattr(private_step, "time_interleaved", time_interleaved)
        patch.setattr(private_ways, "StepSession", open_session)
        patch.setattr(private_ways.api, "Module", open_module)
        row = private_step.measure_row("tiny", TINY, BATCH_SIZE, rounds=2)
    return SimpleNamespace(row=row, timing=timing, ours=ours, theirs=theirs)


@pytest.fixture
def row(measured):
    return measured.row


pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Full backward hook is firing", "ignore:Secure RNG turned off"),
]


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


def test_times_are_processor_time_of_methods_that_have_settled(measured):
    assert measured.timing == {"clock": time.process_time, "settle": 1}


def plain_options(options) -> dict:
    values = {name: getattr(options, name) for name in dir(options) if not name.startswith("_")}
    return {name: value for name, value in values.items() if not callable(value)}


def test_ort_training_has_the_session_options_that_ours_have(measured):
    ours, *others = (plain_options(options) for options in measured.ours + measured.theirs)
    assert len(measured.theirs) == 2
    assert others == [ours] * 3
    assert ours["intra_op_num_threads"] == 1


@pytest.mark.parametrize("clip", [1e-6, 1e6], ids=["every example clipped", "none clipped"])
def test_the_clip_cuts_some_examples_of_the_tiny_network_and_leaves_others(clip, monkeypatch):
    opened = WAYS["torch_vmap"](Scene(TINY, BATCH_SIZE, folder=None))
    opened.step()
    truth = opened.gradient()
    monkeypatch.setattr(private_ways, "MAX_GRAD_NORM", clip)
    opened.step()
    other = opened.gradient() / min(clip, 1.0)
    assert np.linalg.norm(other - truth) > 0.1 * np.linalg.norm(truth)


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


def test_a_batch_that_is_no_multiple_of_the_chunk_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match=f"multiple of the chunk size {DEFAULT_BATCH_SIZE}, got 9"):
        prepare(Scene(TINY, 9, tmp_path))


MET = {
    "vs_ort_training": 1.0,
    "vs_torch": 2.001,
    "memory_vs_ort_training": 1.0,
    "memory_vs_ort_training_chunks": 1.0,
}


def rows_of(**changes) -> list[dict]:
    values = MET | changes
    return [
        {"network": name, "batch_size": size, "bar": network.bar, **values}
        for name, network in NETWORKS.items()
        for size in private_step.BATCH_SIZES
    ]


def missed_by(**changes) -> list[str]:
    return [bar.name for bar in private_step.bars_of(rows_of(**changes)) if not bar.met]


TIME_BARS = {"lenet5": 1.15, "mobilenet_v2": 1.25, "resnet8": 1.25, "ds_cnn": 1.15, "transformer": 1.5}
PLACES = [f"{network}, batch {size}" for network in TIME_BARS for size in (1, 8, 32)]


def test_rows_that_reach_every_bar_miss_none():
    assert missed_by() == []


@pytest.mark.parametrize("bar", sorted(set(TIME_BARS.values())))
def test_time_is_judged_at_the_largest_batch_by_the_bar_of_each_network(bar):
    def over(limit):
        return [
            f"{name}, batch 32: time over ORT Training's, whole batch" for name, own in TIME_BARS.items() if own < limit
        ]

    assert missed_by(vs_ort_training=bar) == over(bar)
    assert missed_by(vs_ort_training=bar + 1e-4) == over(bar + 1e-4)


@pytest.mark.parametrize(
    ("ratio", "work"),
    [("memory_vs_ort_training", "whole batch"), ("memory_vs_ort_training_chunks", "equal chunks")],
)
def test_memory_is_judged_in_every_row_over_the_whole_batch_and_over_equal_chunks(ratio, work):
    assert missed_by(**{ratio: 1.5}) == []
    assert missed_by(**{ratio: 1.5001}) == [f"{place}: memory over ORT Training's, {work}" for place in PLACES]
    assert missed_by(**{ratio: None}) == ["rows measured, memory included"]


@pytest.mark.parametrize(
    ("speedup", "batch_sizes"), [(2.0001, []), (1.9999, [1, 8]), (1.3001, [1, 8]), (1.2999, [1, 8, 32])]
)
def test_the_mean_speedup_over_torch_has_a_bar_a_batch_size(speedup, batch_sizes):
    assert missed_by(vs_torch=speedup) == [f"batch {size}: geometric mean of the same" for size in batch_sizes]


def test_no_row_is_slower_than_torch():
    slower = [f"{place}: faster than torch's fastest private way" for place in PLACES]
    assert not set(missed_by(vs_torch=1.0)) & set(slower)
    assert set(missed_by(vs_torch=0.9999)) > set(slower)


def test_rows_that_are_missing_are_a_bar_that_is_missed():
    missed = [bar.name for bar in private_step.bars_of(rows_of()[:-1]) if not bar.met]
    assert missed == ["rows measured, memory included"]


@pytest.mark.parametrize(
    ("arguments", "ratio", "code"),
    [([], 1.5, 0), ([], 1.51, 1), (["--quick"], 1.51, 0), (["--net", "lenet5"], 1.5, 0), (["--batch", "8"], 1.5, 0)],
)
def test_only_the_full_run_fails_by_a_missed_bar_and_every_run_tells_it(arguments, ratio, code, monkeypatch, capsys):
    def measure_row(name, network, batch_size, _rounds):
        row = dict.fromkeys(private_step.COLUMNS, 1.0) | MET | {"memory_vs_ort_training": ratio}
        return row | {"network": name, "batch_size": batch_size, "bar": network.bar}

    monkeypatch.setattr(private_step, "measure_row", measure_row)
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    monkeypatch.setattr("onnxruntime.set_default_logger_severity", lambda _: None)
    monkeypatch.setattr("sys.argv", ["private_step", *arguments])
    try:
        private_step.main()
        exited = 0
    except SystemExit as exit_:
        exited = exit_.code
    assert exited == code
    captured = capsys.readouterr()
    told = [f"missed: {bar['name']}: " for bar in json.loads(captured.out.splitlines()[-1])["bars"] if not bar["met"]]
    assert all(line in captured.err for line in told)
    assert bool(told) == (ratio > 1.5 or bool(arguments))


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


def test_ways_may_differ_by_rounding_and_no_more():
    private_step.check_same_work(ways_of(pytorch=(1.00009, [1.0, 2.0])))
    with pytest.raises(RuntimeError, match="different losses"):
        private_step.check_same_work(ways_of(pytorch=(1.00011, [1.0, 2.0])))
    for way in (*PRIVATE, *ORDINARY[1:]):
        private_step.check_same_work(ways_of(**{way: (1.0, [1.0, 2.0 + 0.0099 * 5**0.5])}))
        with pytest.raises(RuntimeError, match=f"{way} and .* compute different gradients"):
            private_step.check_same_work(ways_of(**{way: (1.0, [1.0, 2.0 + 0.0101 * 5**0.5])}))


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
