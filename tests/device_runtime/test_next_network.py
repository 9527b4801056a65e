import numpy as np
import pytest

from device_runtime.next_network import next_network, tell
from profiles.kernel import Kernel


def conv(channels: int, side: int = 8) -> tuple:
    return Kernel("conv", (channels, side, side), (channels, side, side), 3), 1, "forward"


def linear(size: int) -> tuple:
    return Kernel("linear", (size,), (10,)), 1, "forward"


def work(key: tuple) -> float:
    return key[0].multiply_accumulates() + key[0].bytes_moved(1)


def test_without_a_measurement_the_packs_first_network_is_next():
    assert next_network([[conv(8)], [conv(16)]], {}) == 0


def test_a_network_of_known_kernels_comes_last():
    known = {conv(8): 1.0, conv(16): 4.0, linear(10): 0.1, linear(20): 0.2}
    assert next_network([[conv(8), linear(10)], [conv(12), linear(10)]], known) == 1


def test_the_network_is_next_about_which_neighbours_disagree():
    even = {conv(c): work(conv(c)) * 1e-6 for c in (4, 8, 16)}
    odd = {linear(size): work(linear(size)) * factor for size, factor in ((64, 1e-6), (128, 5e-6), (256, 1e-6))}
    assert next_network([[conv(12)], [linear(90)]], even | odd) == 1
    assert next_network([[linear(90)], [conv(12)]], even | odd) == 0


def test_a_doubtful_kernel_counts_by_its_share_of_the_network():
    known = {conv(8): 1.0, conv(9): 1.2, linear(10): 1e-5, linear(11): 9e-5}
    all_of_it, next_to_nothing = [linear(15)], [linear(15), conv(8)]
    assert next_network([next_to_nothing, all_of_it], known) == 1


def test_a_family_that_nobody_measured_is_doubtful():
    known = {conv(8): 1.0, conv(16): 4.0}
    assert next_network([[conv(12)], [linear(10)]], known) == 1


def test_a_told_kernel_is_scaled_by_work_and_a_known_one_is_itself():
    known = {conv(8): 2.0, conv(16): 2.0 * work(conv(16)) / work(conv(8))}
    told = tell([conv(8), conv(12)], known)
    assert told[conv(8)] == (2.0, 0.0)
    ms, doubt = told[conv(12)]
    assert ms == pytest.approx(2.0 * work(conv(12)) / work(conv(8)))
    assert 0 < doubt < 0.2


def test_measuring_what_is_next_lessens_the_error_sooner_than_the_packs_order():
    """Times that jump in the middle of the sizes, as where a cache ends: the choice goes there."""
    networks = [[conv(c)] for c in range(4, 68, 2)]

    def true_ms(key: tuple) -> float:
        return work(key) * (1e-6 if key[0].input_shape[0] < 50 else 4e-6)

    def error_after(num: int, adaptive: bool) -> float:
        left, known = list(networks), {}
        for _ in range(num):
            place = next_network(left, known) if adaptive else 0
            ((key,), *_) = (left.pop(place),)
            known[key] = true_ms(key)
        told = tell([key for (key,) in left], known)
        return float(np.mean([abs(np.log(told[key][0] / true_ms(key))) for key in told]))

    assert error_after(8, adaptive=True) < error_after(8, adaptive=False) / 2
