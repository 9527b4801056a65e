from dataclasses import replace

import pytest
from hypothesis import given

from profiles.kernel import Kernel
from profiles.predict import METHODS, predict_kernel, predict_kernels
from profiles.schema import Calibration
from search.cost import kernels_of, training_kernels_of

CONV = Kernel("conv", (4, 8, 8), (8, 8, 8), kernel=3)
WIDER = Kernel("conv", (4, 8, 8), (16, 8, 8), kernel=3)
RELU = Kernel("relu", (8, 8, 8), (8, 8, 8))


def test_a_measured_kernel_takes_what_was_measured_without_the_call(profile):
    found = predict_kernel(profile, CONV, 1, "forward")
    assert (found.ms, found.method) == (12.0 - 2.0, "measured")


def test_a_time_that_nobody_took_was_transferred_and_the_kernel_is_still_unknown(profile):
    kernels = tuple(replace(time, repetitions=0) for time in profile.kernels)
    found = predict_kernels(replace(profile, kernels=kernels), [CONV], 1, "forward")
    assert (found.median_ms, found.method, found.unknown) == (12.0, "transferred", (CONV,))


def test_an_unknown_kernel_is_the_most_alike_one_of_its_family_scaled_by_the_work(profile):
    found = predict_kernel(profile, WIDER, 1, "forward")
    model = profile.throughput.forward.kernel_ms
    assert found.method == "scaled"
    assert found.ms == pytest.approx(10.0 * model(WIDER, 1) / model(CONV, 1))


def test_another_batch_size_is_scaled_too(profile):
    found = predict_kernel(profile, CONV, 32, "gradient")
    assert found.method == "scaled"
    assert 100.0 < found.ms < 200.0


def test_a_family_that_nobody_measured_is_predicted_from_the_throughput(profile):
    found = predict_kernel(profile, RELU, 1, "forward")
    assert found.method == "throughput"
    assert found.ms == pytest.approx(1.0 + 4 * 2 * 512 / 1e6)


def test_a_time_below_the_empty_call_counts_as_none(profile):
    kernels = tuple(replace(time, median_ms=1.0) for time in profile.kernels)
    assert predict_kernel(replace(profile, kernels=kernels), CONV, 1, "forward").ms == 0.0


def test_a_run_is_the_sum_of_its_kernels_and_one_call(profile):
    found = predict_kernels(profile, [CONV, RELU, CONV], 1, "forward")
    parts = [predict_kernel(profile, kernel, 1, "forward").ms for kernel in (CONV, RELU, CONV)]
    assert found.median_ms == pytest.approx(2.0 + sum(parts))


def test_a_run_is_known_as_its_least_sure_kernel_and_names_the_unknown_ones_once(profile):
    assert predict_kernels(profile, [CONV], 1, "forward").method == "measured"
    found = predict_kernels(profile, [CONV, RELU, WIDER, RELU], 1, "forward")
    assert (found.method, found.unknown) == ("throughput", (RELU, WIDER))
    assert predict_kernels(profile, [CONV, WIDER], 1, "forward").method == "scaled"


def test_no_kernel_at_all_is_an_empty_call(profile):
    found = predict_kernels(profile, [], 1, "forward")
    assert (found.median_ms, found.method, found.unknown) == (2.0, "measured", ())


def test_every_architecture_is_predicted_on_every_kind_of_profile(profile, architectures):
    @given(architectures)
    def check(architecture):
        for kernels, batch_size, direction in (
            (kernels_of(architecture), 1, "forward"),
            (kernels_of(architecture), 5, "evaluate"),
            (training_kernels_of(architecture), 5, "gradient"),
        ):
            found = predict_kernels(profile, kernels, batch_size, direction)
            assert found.median_ms > 0
            assert found.method in METHODS

    check()


def test_a_kind_that_no_version_knows_is_predicted_and_marked(profile):
    found = predict_kernels(profile, [Kernel("attention", (4, 8), (4, 8))], 1, "forward")
    assert found.method == "throughput"
    assert found.unknown == (Kernel("attention", (4, 8), (4, 8)),)


def test_no_layer_of_ours_is_a_guess_and_a_network_lies_within_a_factor_of_two(profile, architectures):
    phone = replace(profile, kernels=())

    @given(architectures)
    def check(architecture):
        for kernels, direction in (
            (kernels_of(architecture), "forward"),
            (training_kernels_of(architecture), "gradient"),
        ):
            found = predict_kernels(phone, kernels, 4, direction)
            assert found.warnings == ()
            assert found.interval95_ms == pytest.approx((found.median_ms / 2, 2 * found.median_ms))
            assert found.interval95_ms[0] < found.interval80_ms[0] < found.median_ms < found.interval80_ms[1]

    check()


def test_a_calibration_that_came_with_a_profile_gives_factor_intervals_and_p90(profile):
    given_ = Calibration("forward", 0.5, 0.9, 1.2, 0.8, 1.4, 1.1, "a test")
    phone = replace(profile, calibrations=(given_,))
    plain, found = (predict_kernels(one, [CONV], 1, "forward") for one in (profile, phone))
    assert found.median_ms == 0.5 * plain.median_ms
    assert found.p90_ms == pytest.approx(1.1 * found.median_ms)
    assert found.interval80_ms == pytest.approx((0.9 * found.median_ms, 1.2 * found.median_ms))
    assert found.interval95_ms == pytest.approx((0.8 * found.median_ms, 1.4 * found.median_ms))


def test_what_a_devices_own_networks_say_goes_before_a_calibration_that_came_with_its_profile(profile, monkeypatch):
    given_, own = (
        Calibration("forward", 0.5, *ends, 1.1, "a test") for ends in ((0.1, 9, 0.1, 9), (0.9, 1.2, 0.8, 1.4))
    )

    class Learnt:
        calibration = own

        def median_ms(self, networks, *_):
            return [7.0 for _ in networks]

    monkeypatch.setattr("profiles.predict.model_of", lambda *_: Learnt())
    found = predict_kernels(replace(profile, calibrations=(given_,)), [CONV], 1, "forward")
    assert found.median_ms == 7.0
    assert found.interval95_ms == pytest.approx((0.8 * 7.0, 1.4 * 7.0))
