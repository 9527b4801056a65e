from dataclasses import replace

import pytest

from profiles.kernel import Kernel
from profiles.records import RecordError, decode_record, encode_record, record_id
from profiles.schema import Calibration, DeviceProfile, Figure, NetworkTime, Rates
from profiles.sessions import Session
from search.architecture import Architecture, Stage, Stem
from search.cost import kernels_of
from search.layers import layers_of


def test_a_profile_comes_back_from_its_json_as_it_was(profile):
    again = decode_record(DeviceProfile, encode_record(profile))
    assert again == profile
    assert record_id(again) == record_id(profile)


def test_a_profile_of_a_newer_schema_is_refused_by_name(profile):
    with pytest.raises(RecordError, match="schema is 2, this version reads up to 1: update handheld"):
        decode_record(DeviceProfile, encode_record(replace(profile, schema=2)))


def test_a_figure_without_a_source_or_provenance_is_refused(profile):
    data = encode_record(profile)
    with pytest.raises(RecordError, match="must name its unit and its source"):
        decode_record(DeviceProfile, data.replace(b'"source":"a test"', b'"source":""', 1))
    with pytest.raises(RecordError, match="must be one of 'measured', 'published', 'estimated', got 'guessed'"):
        decode_record(DeviceProfile, data.replace(b'"provenance":"measured"', b'"provenance":"guessed"', 1))


def test_a_battery_came_later_and_changes_no_id_where_nothing_is_known_of_it(profile):
    assert b"battery" not in encode_record(profile)
    known = replace(profile, battery_mah=Figure(4000, "mAh", "measured", "a test"))
    assert decode_record(DeviceProfile, encode_record(known)) == known
    assert record_id(known) != record_id(profile)


def test_networks_sessions_and_calibrations_came_later_and_come_back_as_they_were(profile):
    plain = encode_record(profile)
    assert not any(word in plain for word in (b"networks", b"sessions", b"calibrations", b"samples_ms"))
    kernel = profile.kernels[0]
    known = replace(
        profile,
        kernels=(replace(kernel, samples_ms=(1.5, 1.25)), *profile.kernels[1:]),
        networks=(NetworkTime((kernel.kernel,) * 2, 1, "forward", 2.0, 2.5, 1.5, 0.1, 3, (2.0, 2.5, 1.5)),),
        sessions=(_session(),),
        calibrations=(Calibration("gradient", 0.9, 0.9, 1.1, 0.8, 1.3, 1.05, "a test"),),
    )
    again = decode_record(DeviceProfile, encode_record(known))
    assert again == known
    assert len({record_id(known), record_id(profile), record_id(replace(known, networks=()))}) == 3


def test_a_session_says_none_where_the_system_does_not_tell():
    silent = replace(_session(), mhz_before=(None, 1800.0), celsius_after=None, measured_on=None)
    assert decode_record(Session, encode_record(silent)) == silent
    with pytest.raises(RecordError, match="grade must be one of 'A', 'B', 'C', 'unstable', got 'D'"):
        decode_record(Session, encode_record(silent).replace(b'"grade":"A"', b'"grade":"D"'))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low80": 0.7}, "must be > 0 and within each other"),
        ({"low95": 0.0}, "must be > 0 and within each other"),
        ({"high95": float("inf")}, "must be > 0 and within each other"),
        ({"factor": 0.0}, "factor must be > 0"),
        ({"p90_over_p50": 0.99}, "p90_over_p50 >= 1"),
    ],
)
def test_a_calibration_has_intervals_within_each_other(change, message):
    with pytest.raises(ValueError, match=message):
        replace(Calibration("forward", 1.0, 0.9, 1.1, 0.8, 1.2, 1.02, "a test"), **change)


def _session() -> Session:
    return Session(
        pack_id="0" * 64,
        measured_on="2024-05-01",
        threads=1,
        affinity=(0, 1),
        governors=("schedutil",),
        mhz_before=(1800.0, 2800.0),
        mhz_after=(1800.0, 2400.0),
        celsius_before=31.5,
        celsius_after=44.0,
        battery_before=80.0,
        battery_after=79.0,
        runtime_build="a build",
        warm_up=3,
        rounds=7,
        drift=0.02,
        grade="A",
        seconds=120.0,
    )


@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_a_figure_is_a_finite_number_of_at_least_zero(value):
    with pytest.raises(ValueError, match="value must be >= 0 and finite"):
        Figure(value, "ms", "measured", "a test")


def test_a_rate_of_zero_would_divide_by_it_and_is_refused():
    zero, one = Figure(0, "GMAC/s", "measured", "a test"), Figure(1, "GB/s", "measured", "a test")
    with pytest.raises(ValueError, match="rates must be > 0"):
        Rates(zero, one, one)


@pytest.mark.parametrize("change", [{"name": ""}, {"threads": 0}])
def test_a_profile_needs_a_name_and_a_thread(profile, change):
    with pytest.raises(ValueError, match="must have a name and threads >= 1"):
        replace(profile, **change)


def test_equal_profiles_are_one_key_whatever_object_holds_them(profile):
    assert {profile: 1}[decode_record(DeviceProfile, encode_record(profile))] == 1


@pytest.mark.parametrize(
    ("kernel", "family"),
    [
        (Kernel("conv", (4, 8, 8), (8, 8, 8), 3), "conv"),
        (Kernel("conv", (4, 8, 8), (8, 8, 8), 1), "pointwise_conv"),
        (Kernel("conv", (4, 8, 8), (4, 8, 8), 3, groups=4), "depthwise_conv"),
        (Kernel("conv", (1, 8, 8), (4, 8, 8), 3), "conv"),
        (Kernel("first_conv", (1, 8, 8), (4, 8, 8), 3), "first_conv"),
        (Kernel("relu", (4, 8, 8), (4, 8, 8)), "relu"),
    ],
)
def test_convolutions_that_are_computed_differently_are_families_of_their_own(kernel, family):
    assert kernel.family == family


def test_a_kernel_counts_work_and_parameters_as_its_layer_does():
    network = Architecture((3, 9, 9), 4, Stem(8, 5, 2), (Stage("inverted", 8, 2, 3, 1, 2), Stage("depthwise", 12)))
    layers = [layer for layer in layers_of(network) if layer.kind != "flatten"]
    kernels = kernels_of(network)
    assert [kernel.multiply_accumulates() for kernel in kernels] == [layer.multiply_accumulates() for layer in layers]
    assert [kernel.num_parameters() for kernel in kernels] == [layer.num_parameters() for layer in layers]


def test_a_pooling_works_through_its_windows_and_a_mix_through_all_its_inputs():
    assert Kernel("max_pool", (8, 4, 4), (8, 2, 2), 3, 2).multiply_accumulates() == 8 * 4 * 9
    mix = Kernel("mix", (8, 4, 4), (8, 4, 4), num_inputs=3)
    assert (mix.multiply_accumulates(), mix.num_parameters()) == (3 * 8 * 16, 3)


def test_bytes_are_inputs_and_outputs_of_the_batch_and_parameters_once():
    assert Kernel("linear", (10,), (3,)).bytes_moved(7) == 4 * (7 * (10 + 3) + 33)
    assert Kernel("add", (2, 4, 4), (2, 4, 4)).bytes_moved(1) == 4 * 3 * 32
    assert Kernel("add", (2, 4, 4), (2, 4, 4), num_inputs=5).bytes_moved(1) == 4 * 6 * 32
    assert Kernel("concat", (2, 4, 4), (6, 4, 4), num_inputs=3).bytes_moved(2) == 4 * 2 * (3 + 3) * 32
    assert Kernel("mix", (2, 4, 4), (2, 4, 4), num_inputs=3).bytes_moved(1) == 4 * ((3 + 1) * 32 + 3)
    assert Kernel("max_pool", (2, 4, 4), (2, 2, 2), 3, 2).bytes_moved(1) == 4 * (32 + 8)


def test_what_kernels_got_later_is_left_out_of_older_records():
    assert record_id(Kernel("add", (2,), (2,))) == record_id(
        {"kind": "add", "input_shape": [2], "output_shape": [2], "kernel": 1, "stride": 1, "groups": 1}
    )
    dilated = Kernel("conv", (4, 8, 8), (8, 8, 8), 3, dilation=2)
    assert decode_record(Kernel, encode_record(dilated)) == dilated


def test_rates_add_overhead_compute_and_memory():
    rates = Rates(*(Figure(value, "any", "measured", "a test") for value in (2.0, 0.5, 0.25)))
    kernel = Kernel("linear", (1000,), (100,))
    compute, memory = 4 * 100_000 / 2e6, 4 * (4 * 1100 + 100_100) / 0.5e6
    assert rates.kernel_ms(kernel, 4) == pytest.approx(0.25 + compute + memory)
