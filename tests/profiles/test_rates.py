from dataclasses import replace
from itertools import product
from math import inf

import numpy as np
import pytest

from profiles.catalogue import load_profile
from profiles.kernel import Kernel
from profiles.predict import predict_kernels
from profiles.rates import fit_throughput, fit_within_networks
from profiles.schema import Figure, KernelTime, Rates

CALL = Figure(0.01, "ms", "measured", "a test")
TRUE = {"forward": (20.0, 10.0, 0.002), "evaluate": (15.0, 8.0, 0.005), "gradient": (5.0, 4.0, 0.02)}


def rates(gmac_s, memory_gb_s, layer_overhead_ms) -> Rates:
    units = ((gmac_s, "GMAC/s"), (memory_gb_s, "GB/s"), (layer_overhead_ms, "ms"))
    return Rates(*(Figure(value, unit, "measured", "a test") for value, unit in units))


def kernel_times(noise: float = 0.0) -> list[KernelTime]:
    rng = np.random.default_rng(0)
    kernels = [
        Kernel("conv", (width, side, side), (2 * width, side, side), 3) for width in (4, 16, 64) for side in (4, 16)
    ]
    kernels += [Kernel("relu", (width, side, side), (width, side, side)) for width in (4, 64) for side in (4, 32)]
    times = []
    for direction, true in TRUE.items():
        for kernel in kernels:
            ms = CALL.value + rates(*true).kernel_ms(kernel, 8) * np.exp(noise * rng.standard_normal())
            times.append(KernelTime(kernel, 8, direction, ms, ms, ms, 0.0, 10))
    return times


def test_rates_that_made_the_times_are_found_again():
    fitted = fit_throughput(kernel_times(), CALL)
    for direction, true in TRUE.items():
        found = getattr(fitted, direction)
        values = (found.gmac_s.value, found.memory_gb_s.value, found.layer_overhead_ms.value)
        assert values == pytest.approx(true, rel=1e-3)
    assert fitted.call_overhead_ms == CALL


def test_noise_errs_to_neither_side():
    fitted = fit_throughput(times := kernel_times(noise=0.5), CALL)
    ratios = [fitted.kernel_ms(time.kernel, 8, time.direction) / (time.median_ms - CALL.value) for time in times]
    assert 0.8 < np.exp(np.mean(np.log(ratios))) < 1.25


def test_a_figure_says_how_many_kernels_it_was_fitted_to():
    found = fit_throughput(kernel_times(), CALL).gradient.gmac_s
    assert found.provenance == "measured"
    assert found.source == "a test, fitted to 10 gradient kernels"


def test_a_term_that_explains_nothing_leaves_a_finite_rate():
    flat = [KernelTime(time.kernel, 8, time.direction, 1.01, 1.01, 1.01, 0.0, 10) for time in kernel_times()]
    fitted = fit_throughput(flat, CALL).forward
    assert fitted.layer_overhead_ms.value == pytest.approx(1.0, rel=0.01)
    assert 0 < fitted.gmac_s.value < inf


def test_no_rate_is_far_above_what_the_fastest_kernel_shows():
    flat = [KernelTime(time.kernel, 8, time.direction, 1.01, 1.01, 1.01, 0.0, 10) for time in kernel_times()]
    fitted = fit_throughput(flat, CALL).forward
    forward = [time for time in flat if time.direction == "forward"]
    most_macs, most_bytes = (
        max(done(time.kernel) for time in forward) / 1e6
        for done in (lambda kernel: 8 * kernel.multiply_accumulates(), lambda kernel: kernel.bytes_moved(8))
    )
    assert fitted.gmac_s.value == pytest.approx(2 * most_macs, rel=0.01)
    assert fitted.memory_gb_s.value == pytest.approx(2 * most_bytes, rel=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_a_large_kernel_of_a_device_that_knows_small_ones_is_within_its_interval(seed):
    """Small kernels all take their overhead, so that nothing but it can be fitted."""
    rng, true = np.random.default_rng(seed), rates(60.0, 100.0, 1e-3)
    small = [Kernel("conv", (width, 4, 4), (other, 4, 4), 3) for width in (1, 2, 4, 8) for other in (2, 4, 8)]
    times = []
    for kernel, direction in product(small, ("forward", "evaluate", "gradient")):
        ms = true.kernel_ms(kernel, 1) * float(np.exp(0.1 * rng.standard_normal()))
        times.append(KernelTime(kernel, 1, direction, ms, ms, ms, 0.0, 10))
    nothing = Figure(0.0, "ms", "measured", "a test")
    profile = replace(
        load_profile("pixel-4"), kernels=tuple(times), networks=(), throughput=fit_within_networks(times, nothing)
    )
    large = Kernel("conv", (32, 96, 96), (32, 96, 96), 3)
    low, high = predict_kernels(profile, [large], 1, "forward").interval95_ms
    assert low < true.kernel_ms(large, 1) < high


def test_times_below_the_call_still_give_rates():
    fast = [KernelTime(time.kernel, 8, time.direction, 0.005, 0.005, 0.005, 0.0, 10) for time in kernel_times()]
    assert fit_throughput(fast, CALL).forward.gmac_s.value > 0


def test_a_direction_without_kernels_is_an_error_that_names_it():
    others = [time for time in kernel_times() if time.direction != "gradient"]
    with pytest.raises(ValueError, match="at least one gradient kernel, got none; use another pack"):
        fit_throughput(others, CALL)
