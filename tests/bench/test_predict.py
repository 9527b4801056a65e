import signal
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.predict import bars_of, entries_of, held_out, measure_twice, predicted_row, run, spearman, speed_bar
from device_runtime.graph_runs import time_graph
from pipeline.packs import compile_pack, default_architectures, default_spaces
from profiles.catalogue import load_profile
from profiles.records import encode_record
from search.architecture import Architecture, Stem


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    networks = [Architecture((1, 8, 8), 10, Stem(width)) for width in (4, 8)]
    return compile_pack(networks, 4, tmp_path_factory.mktemp("packs") / "pack")


def row(**values):
    return {"kind": "forward", "simple_within_10": 0.9, "within_10": 0.9, "spearman": 0.99, "covered_80": 0.8} | values


def test_networks_are_different_ones_of_the_default_spaces_and_none_of_the_packs():
    networks = held_out(20)
    assert len(set(networks)) == 20
    assert not set(networks) & set(default_architectures())
    shapes = [space.input_shape for space in default_spaces()]
    assert [one.input_shape for one in networks[:4]] == shapes * 2
    assert held_out(5) == networks[:5]


def both_ways(pack):
    return {direction: entries_of(pack, direction) for direction in ("forward", "gradient")}


@pytest.mark.parametrize("direction", ["forward", "gradient"])
def test_each_network_is_measured_twice_and_stands_beside_its_prediction(pack, direction):
    entries = entries_of(pack, direction)
    times = measure_twice(pack, both_ways(pack), None)[direction]
    assert len(times) == 2
    assert all(ms > 0 for both in times for ms in both)
    found = predicted_row(
        load_profile("pixel-4"), [pack.manifest.kernels_of(one) for one in entries], entries[0], times
    )
    for (first, second), tested in zip(times, found["tested"], strict=True):
        assert tested[:2] == pytest.approx([first, second], rel=1e-4)
        numbers = dict(zip(found["columns"], tested, strict=True))
        assert numbers["low95"] < numbers["low80"] < numbers["median_ms"] < numbers["high80"] < numbers["high95"]


def python(code):
    return subprocess.Popen([sys.executable, "-c", code])


def is_paused(session):
    return Path(f"/proc/{session.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_the_session_waits_while_networks_are_measured_and_then_runs_to_its_end(pack, monkeypatch):
    session, seen = python("import time; time.sleep(0.5)"), []

    def noted(*args):
        seen.append(is_paused(session) if session.poll() is None else None)
        return time_graph(*args)

    monkeypatch.setattr("bench.predict.SESSIONS_TURN_S", 0.05)
    monkeypatch.setattr("bench.predict.TURN_S", 0.0)
    monkeypatch.setattr("bench.predict.time_graph", noted)
    measure_twice(pack, both_ways(pack), session)
    assert session.returncode == 0
    assert len(seen) == 2 * 5 * (3 * 2 + 2)
    assert seen[0] is True
    assert False not in seen


def test_a_session_that_fails_is_told(pack):
    with pytest.raises(subprocess.CalledProcessError):
        measure_twice(pack, both_ways(pack), python("raise SystemExit(3)"))


def test_a_bench_that_is_broken_off_leaves_no_session_paused(pack, monkeypatch):
    session = python("import time; time.sleep(600)")

    def broken_off(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.predict.time_graph", broken_off)
    with pytest.raises(KeyboardInterrupt):
        measure_twice(pack, both_ways(pack), session)
    assert session.returncode == -signal.SIGKILL


def test_the_share_is_of_what_a_second_measurement_reaches():
    bars = {bar.name: bar for bar in bars_of(row(within_10=0.86), 0.95)}
    share = bars["forward: within 10%, as a share of the second measurement's"]
    assert (share.value, share.met) == (pytest.approx(0.86 / 0.9), True)
    assert all(bar.met for bar in bars.values())


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({"within_10": 0.8}, "within 10%, as a share"),
        ({"spearman": 0.96}, "Spearman"),
        ({"covered_80": 0.74}, "cover at least"),
        ({"covered_80": 0.86}, "cover at most"),
    ],
)
def test_each_bar_can_be_missed(change, missed):
    (bar,) = [bar for bar in bars_of(row(**change), 0.95) if not bar.met]
    assert missed in bar.name


def test_a_session_that_disagrees_with_itself_does_not_count():
    (bar,) = bars_of(row(simple_within_10=0.84), 0.95)
    assert not bar.met


@pytest.mark.parametrize("is_stable", [True, False])
def test_an_unstable_session_does_not_count(pack, tmp_path, monkeypatch, is_stable):
    path = tmp_path / "profile.json"
    path.write_bytes(encode_record(replace(load_profile("pixel-4"), is_stable=is_stable)))
    monkeypatch.setattr("bench.predict.held_out", lambda num: [])
    monkeypatch.setattr("bench.predict._kept_pack", lambda networks, folder: pack)
    monkeypatch.setattr("bench.predict.MANY", 2)
    monkeypatch.setattr("bench.predict.os.sched_setaffinity", lambda *_: None)
    options = Namespace(quick=True, profile=path, data=tmp_path)
    stable, *others = run(options, tmp_path).bars
    assert (stable.name.startswith("the session is graded stable"), stable.met) == (True, is_stable)
    assert any(bar.name.startswith("forward") for bar in others) == is_stable


def test_ranks_are_compared_and_nothing_else():
    values = np.array([3.0, 1.0, 2.0])
    assert spearman(values, np.exp(values)) == pytest.approx(1)
    assert spearman(values, -values) == pytest.approx(-1)


@pytest.mark.slow
def test_the_speed_is_of_ten_thousand_networks():
    assert "10,000" in speed_bar(load_profile("pixel-4")).name
