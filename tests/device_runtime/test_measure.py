import time
from dataclasses import replace
from itertools import count

import pytest

from device_runtime.measure import FULL, QUICK, Measurement, MeasurePlan, measure_device, num_visits
from device_runtime.measurement_pack import read_pack
from device_runtime.probe import Host
from profiles.predict import predict_kernel
from profiles.records import decode_record, encode_record
from profiles.schema import DeviceProfile, Figure

PLAN = MeasurePlan(num_rounds=3, extra_rounds=2, visit_ms=0.2)
HOST = Host("a CPU", (), Figure(1024, "MiB", "measured", "a test"), "x86_64", "an OS", ("a warning of the host",))


@pytest.fixture(scope="module")
def measurement(tmp_path_factory, tiny_pack) -> Measurement:
    pack = read_pack(tiny_pack(tmp_path_factory.mktemp("measure") / "pack"))
    return Measurement(pack, HOST, "this-machine", "desktop", PLAN)


def ticking(step_s: float):
    """A clock on which every run takes one step."""
    ticks = count()
    return lambda: next(ticks) * step_s


def test_a_real_measurement_gives_positive_times_of_every_kernel(measurement):
    profile = measure_device(measurement, time.perf_counter, lambda: None)
    assert [(one.kernel, one.batch_size, one.direction) for one in profile.kernels] == [
        (entry.kernel, entry.batch_size, entry.direction) for entry in measurement.pack.manifest.entries
    ]
    for one in profile.kernels:
        assert 0 < one.min_ms <= one.median_ms <= one.p90_ms
        assert one.repetitions >= PLAN.num_rounds * PLAN.min_samples
        assert one.spread >= 0


def test_the_profile_says_what_ran_where(measurement):
    profile = measure_device(measurement, ticking(1e-3), lambda: None)
    assert (profile.name, profile.device_class, profile.soc) == ("this-machine", "desktop", "a CPU")
    assert profile.runtime.name == "onnxruntime"
    assert profile.threads == 1
    assert profile.warnings == ("a warning of the host",)
    assert measurement.pack.pack_id[:12] in profile.throughput.call_overhead_ms.source
    assert decode_record(DeviceProfile, encode_record(profile)) == profile


def test_time_comes_from_the_clock_alone(measurement):
    profile = measure_device(measurement, ticking(1e-3), lambda: None)
    assert {(one.median_ms, one.spread) for one in profile.kernels} == {(1.0, 0.0)}
    assert profile.is_stable


def test_a_measured_kernel_is_predicted_as_measured(measurement):
    profile = measure_device(measurement, ticking(1e-3), lambda: None)
    entry = measurement.pack.manifest.entries[-1]
    assert predict_kernel(profile, entry.kernel, entry.batch_size, entry.direction).method == "measured"


def test_a_clock_that_slows_down_makes_the_profile_unstable(measurement):
    ticks = count()

    def slowing() -> float:
        return 1e-6 * next(ticks) ** 2

    profile = measure_device(measurement, slowing, lambda: None)
    assert not profile.is_stable
    assert profile.warnings[0].startswith("unstable:")


def test_fast_runs_are_repeated_until_the_visit_is_over_or_the_most_is_reached(measurement):
    plan = replace(PLAN, num_rounds=1, visit_ms=9.5, max_samples=25)
    for step_s, repetitions in ((5e-3, PLAN.min_samples), (1e-3, 10), (1e-6, 25)):
        profile = measure_device(replace(measurement, plan=plan), ticking(step_s), lambda: None)
        assert {one.repetitions for one in profile.kernels} == {repetitions}


def test_progress_advances_once_a_visit(measurement):
    visits = []
    measure_device(measurement, ticking(1e-3), lambda: visits.append(1))
    assert len(visits) == num_visits(measurement) == 3 * 4


def test_quick_visits_less_than_the_full_measurement():
    assert QUICK.num_rounds < FULL.num_rounds
    assert QUICK.visit_ms < FULL.visit_ms


def test_a_measurement_without_a_thread_is_refused(measurement):
    with pytest.raises(ValueError, match="threads must be >= 1, got 0"):
        replace(measurement, threads=0)
