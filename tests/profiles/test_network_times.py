from dataclasses import replace

import numpy as np
import pytest

from profiles.catalogue import load_profile
from profiles.kernel import Kernel
from profiles.kernel_times import owners_of
from profiles.network_parts import MOST, START, alike, items_of, network_sizes, parts_of, relations
from profiles.network_times import MIN_NETWORKS, model_of
from profiles.predict import predict_kernels, predict_networks
from profiles.schema import DeviceProfile
from tests.profiles.simulated_device import (
    BATCH_SIZE,
    NOISE,
    draw_architectures,
    kernels_by_way,
    measure,
    network_ms,
)

NUM_MEASURED, NUM_NEW = 40, 120
ARCHITECTURES = draw_architectures(NUM_MEASURED + NUM_NEW, seed=0)


@pytest.fixture(scope="module")
def device() -> DeviceProfile:
    """A simulated device, measured with 40 networks."""
    return measure(load_profile("pixel-4"), ARCHITECTURES[:NUM_MEASURED])


@pytest.fixture(scope="module")
def new():
    """Of networks that were not measured: kernels, and what a measurement would say."""
    rng = np.random.default_rng(1)
    found = {}
    for way in (0, 1):
        networks = [kernels_by_way(one)[way] for one in ARCHITECTURES[NUM_MEASURED:]]
        noise = np.exp(NOISE * rng.standard_normal(len(networks)))
        found[networks[0][2]] = [kernels for kernels, _, _ in networks], [network_ms(*one) for one in networks] * noise
    return found


@pytest.mark.parametrize(
    ("direction", "batch_size"), [pytest.param("forward", 1, marks=pytest.mark.slow), ("gradient", BATCH_SIZE)]
)
def test_networks_that_were_not_measured_take_what_is_predicted_as_often_as_the_intervals_say(
    device, new, direction, batch_size
):
    networks, measured = new[direction]
    found = predict_networks(device, networks, batch_size, direction)
    medians = np.array([one.median_ms for one in found])
    assert np.mean(np.abs(medians / measured - 1) < 0.1) > 0.9
    for share, name in ((0.8, "interval80_ms"), (0.95, "interval95_ms")):
        low, high = np.array([getattr(one, name) for one in found]).T
        assert share - 0.15 < np.mean((low <= measured) & (measured <= high)) < share + 0.15
    assert {"measured", "regression"} <= {one.method for one in found} <= {"measured", "regression", "scaled"}


def test_a_plain_sum_would_be_far_off(device, new):
    networks, measured = new["forward"]
    without = predict_networks(replace(device, networks=()), networks, 1, "forward")
    assert np.median([one.median_ms / ms for one, ms in zip(without, measured, strict=True)]) > 1.1


def test_errors_are_those_of_networks_whose_own_kernels_are_not_known():
    """Kernels that follow no rule: only networks that share theirs with others may look well predicted."""
    rng = np.random.default_rng(2)
    profile = measure(load_profile("pixel-4"), ARCHITECTURES[:NUM_MEASURED])
    owners = owners_of([one for one in profile.networks if one.direction == "forward"])
    wild = {kernel: float(np.exp(rng.standard_normal())) for kernel, few in owners.items() if few}
    kernels = tuple(replace(one, median_ms=one.median_ms * wild.get(one.kernel, 1.0)) for one in profile.kernels)
    times = {one.kernel: one.median_ms for one in kernels if one.direction == "forward"}
    networks = tuple(
        replace(one, median_ms=sum(times[kernel] for kernel in one.kernels)) if one.direction == "forward" else one
        for one in profile.networks
    )
    wild_profile = replace(profile, kernels=kernels, networks=networks)
    found, tame = (model_of(one, "forward", 1).calibration for one in (wild_profile, profile))
    assert found.high80 / found.low80 > 1.25 > tame.high80 / tame.low80


def test_many_at_once_are_as_one_by_one_to_the_last_bit(device, new):
    networks = new["forward"][0][:20]
    alone = [predict_kernels(replace(device), kernels, 1, "forward") for kernels in networks[:3]]
    together = predict_networks(device, networks, 1, "forward")
    assert together == [predict_kernels(device, kernels, 1, "forward") for kernels in networks]
    assert together[:3] == alone


def test_too_few_networks_are_not_learnt_from(device):
    few = [one for one in device.networks if one.direction == "forward"][: MIN_NETWORKS - 1]
    assert model_of(replace(device, networks=tuple(few)), "forward", 1) is None
    assert model_of(device, "evaluate", 1) is None


def test_another_batch_size_is_learnt_from_the_nearest_one_measured(device, new):
    kernels = new["gradient"][0][0]
    smaller, given, larger = (predict_kernels(device, kernels, size, "gradient") for size in (8, BATCH_SIZE, 32))
    assert smaller.median_ms < given.median_ms < larger.median_ms
    assert larger.method == "scaled"
    widths = [one.interval80_ms[1] / one.interval80_ms[0] for one in (given, larger)]
    assert widths[0] < widths[1]


def test_the_p90_is_that_of_the_measured_networks(device, new):
    found = predict_kernels(device, new["forward"][0][0], 1, "forward")
    assert found.p90_ms == pytest.approx(1.05 * found.median_ms)


def test_a_family_that_no_network_had_counts_with_what_all_have_in_common(device):
    known = kernels_by_way(ARCHITECTURES[0])[0][0]
    strange = Kernel("attention", (64, 32, 32), (64, 32, 32))
    without, found = (predict_kernels(device, kernels, 1, "forward") for kernels in (known, [*known, strange]))
    assert found.median_ms > without.median_ms
    assert found.interval95_ms[1] / found.median_ms > without.interval95_ms[1] / without.median_ms
    assert "'attention'" in found.warnings[0]


def test_a_kernel_stands_between_the_families_before_and_after_it():
    relu, conv = Kernel("relu", (4, 2, 2), (4, 2, 2)), Kernel("conv", (4, 2, 2), (4, 2, 2), kernel=3)
    assert items_of([conv, relu]) == [(conv, "", "relu"), (relu, "conv", "")]


def test_covariances_of_corrections_are_symmetric_and_those_of_a_process():
    items = items_of(kernels_by_way(ARCHITECTURES[0])[0][0])
    parts = parts_of(items, np.linspace(0.1, 1, len(items)), {})
    found = list(relations(parts, parts))
    assert len(found) + 2 == len(START.deviations(1.0)) == len(MOST.deviations(1.0))
    sizes = network_sizes([kernel.bytes_moved(1) for kernel, _, _ in items])
    for covariance in (*found, alike(sizes, sizes)):
        assert np.allclose(covariance, covariance.T)
        assert np.linalg.eigvalsh(covariance).min() > -1e-6
