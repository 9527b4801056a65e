import time
from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from device_runtime import measure
from device_runtime.conditions import Conditions
from device_runtime.graph_runs import VisitPlan, Watched, watch_graph
from device_runtime.measure import FULL, QUICK, Measurement, MeasurePlan, measure_device
from device_runtime.measurement_pack import PackManifest, read_pack
from device_runtime.node_times import AttributionError
from device_runtime.probe import Host
from profiles.predict import predict_kernel
from profiles.records import decode_record, encode_record
from profiles.schema import DeviceProfile, Figure

PLAN = MeasurePlan(3, 1e9, VisitPlan(visit_ms=0.2, max_watched=6))
HOST = Host("a CPU", (), Figure(1024, "MiB", "measured", "a test"), "x86_64", "an OS", ("a warning of the host",))
NETWORK_RUNS = 3 * (PLAN.visit.min_samples)


@pytest.fixture(scope="module")
def measurement(tmp_path_factory, tiny_pack) -> Measurement:
    pack = read_pack(tiny_pack(tmp_path_factory.mktemp("measure") / "pack"))
    return Measurement(pack, HOST, "this-machine", "desktop", PLAN)


def ticking(step_s: float):
    """A clock on which every run takes one step."""
    ticks = count()
    return lambda: next(ticks) * step_s


def times_more(measurement: Measurement, number: int) -> Measurement:
    """The same over a pack with the network `number` times."""
    manifest: PackManifest = measurement.pack.manifest
    copies = [replace(entry, network=i) for i in range(1, number + 1) for entry in manifest.networks()[0]]
    pack = replace(measurement.pack, manifest=replace(manifest, entries=(manifest.entries[0], *copies)))
    return replace(measurement, pack=pack)


def test_a_real_measurement_gives_times_of_every_kernel_in_every_direction_and_of_the_networks(measurement):
    profile = measure_device(measurement, time.perf_counter, lambda _: None)
    relu, linear = measurement.pack.manifest.kernels[1:]
    assert {(one.kernel, one.batch_size, one.direction) for one in profile.kernels} == {
        (kernel, batch_size, direction)
        for kernel in (relu, linear)
        for batch_size, direction in ((1, "forward"), (4, "evaluate"), (4, "gradient"))
    }
    for one in (*profile.kernels, *profile.networks):
        assert 0 <= one.min_ms <= one.median_ms <= one.p90_ms
        assert 0 < len(one.samples_ms) <= 64
    for network in profile.networks:
        assert network.kernels == (relu, linear)
        assert network.min_ms > 0
        assert network.repetitions >= NETWORK_RUNS


def test_kernels_add_up_to_their_network(measurement, monkeypatch):
    # Of ONNX Runtime's own clock, which tells whole microseconds, so small a network's kernels are mostly rounding.
    watched = Watched(np.array([[4.0, 6.0]]), np.array([1.0, 1.0]))
    monkeypatch.setattr(measure, "watch_graph", lambda *_: watched)
    monkeypatch.setattr(measure, "time_graph", lambda run, *_: [9.0 if len(run.kernels) == 2 else 1.0])
    profile = measure_device(measurement, ticking(1e-3), lambda _: None)
    assert len(profile.networks) == 3
    for network in profile.networks:
        times = [profile.times_by_kernel[kernel, network.batch_size, network.direction] for kernel in network.kernels]
        assert [one.median_ms for one in times] == pytest.approx([3.0, 5.0])
        assert network.median_ms - profile.throughput.call_overhead_ms.value == 8.0


def test_the_profile_says_what_ran_where_and_what_held(measurement):
    before = Conditions((0, 1), ("schedutil",), (1800.0, None), 31.5, 80.0)
    after = replace(before, mhz=(1700.0, None), celsius=45.0, battery=79.0)
    states = iter((before, after))
    profile = measure_device(
        replace(measurement, measured_on="2024-05-01"), ticking(1e-3), lambda _: None, lambda: next(states)
    )
    assert (profile.name, profile.device_class, profile.soc) == ("this-machine", "desktop", "a CPU")
    assert (profile.runtime.name, profile.threads, profile.affinity) == ("onnxruntime", 1, "0,1")
    assert profile.warnings == ("a warning of the host",)
    (session,) = profile.sessions
    assert (session.pack_id, session.measured_on) == (measurement.pack.pack_id, "2024-05-01")
    assert (session.affinity, session.governors, session.mhz_before) == ((0, 1), ("schedutil",), (1800.0, None))
    assert (session.mhz_after, session.celsius_before, session.celsius_after) == ((1700.0, None), 31.5, 45.0)
    assert (session.battery_before, session.battery_after) == (80.0, 79.0)
    assert (session.rounds, session.warm_up, session.drift, session.grade) == (3, 3, 0.0, "A")
    assert session.seconds > 0
    assert "ORT" in session.runtime_build
    assert measurement.pack.pack_id[:12] in profile.throughput.call_overhead_ms.source
    assert decode_record(DeviceProfile, encode_record(profile)) == profile


def test_time_comes_from_the_clock_alone(measurement):
    profile = measure_device(measurement, ticking(1e-3), lambda _: None)
    assert {(one.median_ms, one.spread) for one in profile.networks} == {(1.0, 0.0)}
    assert profile.throughput.call_overhead_ms.value == 1.0
    assert profile.is_stable


def test_a_measured_kernel_is_predicted_as_measured_without_a_call_in_it(measurement):
    profile = measure_device(measurement, time.perf_counter, lambda _: None)
    for one in profile.kernels:
        predicted = predict_kernel(profile, one.kernel, one.batch_size, one.direction)
        assert (predicted.method, predicted.ms) == ("measured", one.median_ms)


def test_a_clock_that_slows_down_makes_the_profile_unstable(measurement):
    ticks = count()

    def slowing() -> float:
        return 1e-6 * next(ticks) ** 2

    profile = measure_device(measurement, slowing, lambda _: None)
    assert (profile.is_stable, profile.sessions[0].grade) == (False, "unstable")
    assert profile.warnings[0].startswith("unstable:")


def test_fast_runs_are_repeated_until_the_visit_is_over_or_the_most_is_reached(measurement):
    plan = replace(PLAN, num_rounds=1, visit=replace(PLAN.visit, visit_ms=9.5, max_samples=25))
    for step_s, repetitions in ((1.0, 1), (5e-3, PLAN.visit.min_samples), (1e-3, 10), (1e-6, 25)):
        profile = measure_device(replace(measurement, plan=plan), ticking(step_s), lambda _: None)
        assert {one.repetitions for one in profile.networks} == {repetitions}


def test_every_round_times_all_graphs_and_every_third_one_watches_them(measurement, monkeypatch):
    watched = []
    monkeypatch.setattr(measure, "watch_graph", lambda *given: watched.append(given[0]) or watch_graph(*given))
    profile = measure_device(replace(measurement, plan=replace(PLAN, num_rounds=5)), ticking(1e-3), lambda _: None)
    assert profile.sessions[0].rounds == 5
    assert len(watched) == 2 * len(profile.networks)


def test_a_budget_leaves_networks_out_before_it_leaves_rounds_out(measurement):
    many = times_more(measurement, 10)
    all_s = measure_device(many, ticking(1e-3), lambda _: None).sessions[0].seconds
    half = replace(many, plan=replace(PLAN, budget_s=all_s / 2))
    profile = measure_device(half, ticking(1e-3), lambda _: None)
    (session,) = profile.sessions
    assert all_s / 4 < session.seconds <= all_s / 2 * 1.05
    assert session.rounds == PLAN.num_rounds
    assert 2 <= len(profile.networks) // 3 <= 6


def test_the_first_network_is_measured_whatever_the_budget(measurement):
    profile = measure_device(replace(measurement, plan=replace(PLAN, budget_s=1e-9)), ticking(1e-3), lambda _: None)
    assert (len(profile.networks), profile.sessions[0].rounds) == (3, 1)


def test_progress_rises_to_the_end(measurement):
    told = []
    measure_device(times_more(measurement, 4), ticking(1e-3), told.append)
    assert told[-1] == 1.0
    assert all(0 < share <= 1 for share in told)
    assert told[0] < 0.3
    assert len(told) == 4 + 2 * 4 * (3 + 2) + 1  # a shipped model is visited three times a round


def test_nodes_without_a_kernels_name_are_an_error_and_not_lost(measurement):
    graph = measurement.pack.manifest.entries[1].sha256
    data = measurement.pack.graphs[graph].replace(b"k0/Relu", b"xx/Relu").replace(b"k1/Exp", b"xx/Exp")
    pack = replace(measurement.pack, graphs=measurement.pack.graphs | {graph: data})
    with pytest.raises(AttributionError, match="is of no kernel; compile the pack again"):
        measure_device(replace(measurement, pack=pack), ticking(1e-3), lambda _: None)


def test_quick_visits_less_than_the_full_measurement():
    assert QUICK.num_rounds < FULL.num_rounds
    assert QUICK.visit.visit_ms < FULL.visit.visit_ms
    assert (QUICK.budget_s, FULL.budget_s) == (120, 600)


@pytest.mark.parametrize(
    "change", [{"threads": 0}, {"plan": replace(PLAN, budget_s=0)}, {"plan": replace(PLAN, num_rounds=0)}]
)
def test_a_measurement_without_threads_rounds_or_time_is_refused(measurement, change):
    with pytest.raises(ValueError, match="must"):
        replace(measurement, **change)
