import re

import numpy as np
import pytest

from device_runtime.timing import find_instability, summarize


def rounds_of(median: float, sigma: float, num_rounds: int = 6, seed: int = 0) -> list[list[float]]:
    rng = np.random.default_rng(seed)
    return [list(median * np.exp(sigma * rng.standard_normal(40))) for _ in range(num_rounds)]


def test_a_summary_takes_the_samples_of_all_rounds_together():
    found = summarize([[1.0, 2.0, 3.0], [4.0, 5.0]])
    assert (found.median_ms, found.min_ms, found.repetitions) == (3.0, 1.0, 5)
    assert found.p90_ms == pytest.approx(4.6)
    assert found.spread == pytest.approx((4.0 - 2.0) / 3.0, abs=1e-4)


def test_one_outlier_moves_neither_median_nor_spread():
    quiet = rounds_of(1.0, 0.01)
    loud = [*quiet[:-1], [*quiet[-1], 1000.0]]
    assert summarize(loud).median_ms == pytest.approx(summarize(quiet).median_ms, rel=0.01)
    assert summarize(loud).spread == pytest.approx(summarize(quiet).spread, rel=0.1)


def test_steady_samples_are_stable():
    assert find_instability([rounds_of(median, 0.02, seed=seed) for seed, median in enumerate((0.01, 1.0, 50.0))]) == ()


def test_many_kernels_that_spread_are_told_with_the_cure():
    noisy = [rounds_of(1.0, 0.5, seed=seed) for seed in range(5)]
    steady = [rounds_of(1.0, 0.01, seed=seed) for seed in range(5)]
    (warning,) = find_instability(noisy + steady)
    assert warning.startswith("unstable: 50% of the kernels spread by more than 25% of their median; close other")


def test_one_kernel_that_spreads_among_many_is_its_own_affair():
    steady = [rounds_of(1.0, 0.01, seed=seed) for seed in range(9)]
    assert find_instability([rounds_of(1.0, 0.5), *steady]) == ()


def test_a_device_that_gets_slower_is_told_by_how_much():
    heating = [
        [[sample * (1 + 0.1 * i) for sample in samples] for i, samples in enumerate(rounds_of(median, 0.01))]
        for median in (0.1, 5.0)
    ]
    (warning,) = find_instability(heating)
    assert re.search(r"slowest round took (49|50|51)% longer than the fastest; let the device cool down", warning)


def test_one_kernel_that_drifts_alone_is_no_drift_of_the_device():
    alone = [[sample * (1 + 0.1 * i) for sample in samples] for i, samples in enumerate(rounds_of(1.0, 0.01))]
    steady = [rounds_of(1.0, 0.01, seed=seed) for seed in range(9)]
    assert find_instability([alone, *steady]) == ()
