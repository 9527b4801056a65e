import pytest

from device_runtime.accounting import Release, epsilon_of_schedule
from pipeline.searching.loss_distribution import epsilon_of_fixed_schedule

SCHEDULES = [
    [Release("update", "train", 1.0, 4.0)],
    [Release("update", "train", 0.01, 1.0, 100), Release("metrics", "train", 0.5, 4.0)],
    [Release("update", "train", 0.1, 1.2, 10), Release("update", "train", 0.1, 1.2, 10)],
    [Release("update", "train", 1.0, 50.0)],
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_epsilon_is_dp_accountings_and_never_above_the_renyi_orders(schedule):
    dp_accounting = pytest.importorskip("dp_accounting", reason="dp-accounting is not installed; `make env` does")
    accountant = dp_accounting.pld.PLDAccountant(value_discretization_interval=1e-3)
    for release in schedule:
        gaussian = dp_accounting.GaussianDpEvent(release.noise_multiplier)
        sampled = dp_accounting.PoissonSampledDpEvent(release.sample_rate, gaussian)
        accountant.compose(sampled if release.sample_rate < 1 else gaussian, release.num_steps)
    exact = accountant.get_epsilon(1e-5)
    assert exact - 0.005 <= epsilon_of_fixed_schedule(schedule, 1e-5) <= exact + 0.03
    assert epsilon_of_fixed_schedule(schedule, 1e-5) <= epsilon_of_schedule(schedule, 1e-5)


def test_splits_add_up_apart_and_the_worst_counts():
    train, test = SCHEDULES[0], [Release("metrics", "test", 1.0, 2.0)]
    assert epsilon_of_fixed_schedule(train + test, 1e-5) == epsilon_of_fixed_schedule(test, 1e-5)
    assert epsilon_of_fixed_schedule(train + test, 1e-5) > epsilon_of_fixed_schedule(train, 1e-5)
    assert epsilon_of_fixed_schedule([], 1e-5) == 0


def test_what_a_client_releases_counts_on_every_split():
    """Two kinds of release of the client unit are one mechanism after the other, whatever they read."""
    update, metrics = (
        Release(kind, split, 1.0, 4.0, unit="client") for kind, split in (("update", "train"), ("metrics", "test"))
    )
    both = Release("update", "train", 1.0, 4.0, 2)
    assert epsilon_of_fixed_schedule([update, metrics], 1e-5) == pytest.approx(epsilon_of_fixed_schedule([both], 1e-5))
    beside = [Release("metrics", "test", 1.0, 9.0), update]
    assert epsilon_of_fixed_schedule(beside, 1e-5) > epsilon_of_fixed_schedule([update], 1e-5)


def test_a_release_without_noise_has_no_distribution():
    with pytest.raises(ValueError, match="noise_multiplier must be > 0 in a schedule"):
        epsilon_of_fixed_schedule([Release("update", "train", 0.5, 0.0)], 1e-5)
