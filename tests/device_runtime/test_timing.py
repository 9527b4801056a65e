import re

import numpy as np
import pytest

from device_runtime.timing import Stability, judge, warnings_of


def rounds_of(median: float, sigma: float, num_rounds: int = 6, seed: int = 0) -> list[list[float]]:
    rng = np.random.default_rng(seed)
    return [list(median * np.exp(sigma * rng.standard_normal(40))) for _ in range(num_rounds)]


def find_instability(graphs):
    return warnings_of(judge(graphs))


def test_steady_samples_are_stable():
    assert find_instability([rounds_of(median, 0.02, seed=seed) for seed, median in enumerate((0.01, 1.0, 50.0))]) == ()


def test_many_kernels_that_spread_are_told_with_the_cure():
    noisy = [rounds_of(1.0, 0.5, seed=seed) for seed in range(5)]
    steady = [rounds_of(1.0, 0.01, seed=seed) for seed in range(5)]
    (warning,) = find_instability(noisy + steady)
    assert warning.startswith("unstable: 50% of the graphs spread by more than 25% of their median; close other")


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


def test_a_last_round_that_was_broken_off_says_nothing_of_drift():
    graphs = [rounds_of(1.0, 0.01, seed=seed) for seed in range(4)]
    broken_off = [[*graphs[0], [9.0] * 40], *graphs[1:]]
    assert judge(broken_off).drift == judge(graphs).drift


@pytest.mark.parametrize(
    ("drift", "noisy", "grade"),
    [
        (0.0, 0.0, "A"),
        (0.02, 0.05, "A"),
        (0.021, 0.0, "B"),
        (0.0, 0.06, "B"),
        (0.1, 0.2, "C"),
        (0.11, 0.0, "unstable"),
        (0.0, 0.21, "unstable"),
    ],
)
def test_a_grade_is_the_best_whose_limits_both_keep(drift, noisy, grade):
    stability = Stability(drift, noisy)
    assert stability.grade == grade
    assert bool(warnings_of(stability)) == (grade == "unstable")
