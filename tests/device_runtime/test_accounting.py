from math import inf, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opacus.accountants.analysis import rdp as opacus_rdp

from device_runtime.accounting import (
    ORDERS,
    Budget,
    BudgetExceededError,
    Release,
    check_fits,
    epsilon_of,
    epsilon_of_schedule,
    gaussian_order,
    planned_order,
    rdp_by_split,
    rdp_by_split_max,
    subsampled_gaussian_rdp,
)

CHECK_POINTS = [
    (0.25, 1.34, 40, 7.98),
    (1.0, 10.0, 60, 3.54),
    (256 / 60000, 1.1, 60 * 60000 // 256, 2.60),
]
UPDATE = Release("update", "train", 0.25, 1.34)
SOME_ORDERS = (*range(2, 33), 48, 64, 96, 128, 192, 256)


@pytest.mark.parametrize(("sample_rate", "noise_multiplier", "num_steps", "epsilon"), CHECK_POINTS)
class TestCheckPoints:
    def test_epsilon_is_the_published_figure(self, sample_rate, noise_multiplier, num_steps, epsilon):
        schedule = [Release("update", "train", sample_rate, noise_multiplier, num_steps)]
        assert epsilon_of_schedule(schedule, 1e-5) == pytest.approx(epsilon, abs=0.005)

    def test_rdp_is_opacus_at_every_order(self, sample_rate, noise_multiplier, num_steps, epsilon):
        theirs = opacus_rdp.compute_rdp(
            q=sample_rate, noise_multiplier=noise_multiplier, steps=num_steps, orders=list(ORDERS)
        )
        release = Release("update", "train", sample_rate, noise_multiplier, num_steps)
        assert [release.rdp(order) for order in ORDERS] == pytest.approx(list(theirs), rel=1e-6)

    def test_rdp_is_dp_accountings_at_every_order(self, sample_rate, noise_multiplier, num_steps, epsilon):
        dp_accounting = pytest.importorskip("dp_accounting", reason="dp-accounting is not installed; `make env` does")
        accountant = dp_accounting.rdp.RdpAccountant(list(ORDERS))
        accountant.compose(
            dp_accounting.PoissonSampledDpEvent(sample_rate, dp_accounting.GaussianDpEvent(noise_multiplier)), num_steps
        )
        release = Release("update", "train", sample_rate, noise_multiplier, num_steps)
        assert [release.rdp(order) for order in ORDERS] == pytest.approx(list(accountant._rdp), rel=1e-6)
        assert epsilon_of_schedule([release], 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-6)


def draw_schedule(seed):
    """One to three kinds of releases on one split, a quarter of them with everybody, as a run file would plan them."""
    rng = np.random.default_rng(seed)
    return tuple(
        Release(
            kind,
            "train",
            sample_rate=1.0 if rng.random() < 0.25 else float(10 ** rng.uniform(-2.5, -0.1)),
            noise_multiplier=float(np.exp(rng.uniform(np.log(0.7), np.log(12)))),
            num_steps=int(10 ** rng.uniform(0, 2)),
        )
        for kind in ("update", "metrics", "reward")[: rng.integers(1, 4)]
    )


def event_of(dp_accounting, release):
    """One logical step, as dp-accounting says it."""
    gaussian = dp_accounting.GaussianDpEvent(release.noise_multiplier)
    is_sampled = release.sample_rate < 1
    return dp_accounting.PoissonSampledDpEvent(release.sample_rate, gaussian) if is_sampled else gaussian


@pytest.mark.filterwarnings("ignore:Optimal order is the:UserWarning")
@pytest.mark.parametrize("seed", range(50))
class TestGeneratedSchedules:
    def test_rdp_and_epsilon_are_opacus_and_dp_accountings_on_equal_orders(self, seed):
        dp_accounting = pytest.importorskip("dp_accounting", reason="dp-accounting is not installed; `make env` does")
        schedule = draw_schedule(seed)
        accountant, opacus = dp_accounting.rdp.RdpAccountant(list(SOME_ORDERS)), 0.0
        for release in schedule:
            accountant.compose(event_of(dp_accounting, release), release.num_steps)
            opacus += opacus_rdp.compute_rdp(
                q=release.sample_rate,
                noise_multiplier=release.noise_multiplier,
                steps=release.num_steps,
                orders=list(SOME_ORDERS),
            )
        ours = [rdp_by_split_max(schedule, order) for order in SOME_ORDERS]
        # Divergences near rounding are as good as zero.
        assert ours == pytest.approx(list(opacus), rel=1e-6, abs=1e-10)
        assert ours == pytest.approx(list(accountant._rdp), rel=1e-6, abs=1e-10)
        epsilon = epsilon_of_schedule(schedule, 1e-5, SOME_ORDERS)
        theirs = opacus_rdp.get_privacy_spent(orders=list(SOME_ORDERS), rdp=opacus, delta=1e-5)[0]
        assert epsilon == pytest.approx(float(theirs), rel=1e-6)
        assert epsilon == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-6)

    def test_the_filter_and_the_plan_never_claim_less_than_the_privacy_loss_distribution(self, seed):
        dp_accounting = pytest.importorskip("dp_accounting", reason="dp-accounting is not installed; `make env` does")
        schedule = draw_schedule(seed)
        accountant = dp_accounting.pld.PLDAccountant(value_discretization_interval=1e-3)
        for release in schedule:
            accountant.compose(event_of(dp_accounting, release), release.num_steps)
        planned = epsilon_of_schedule(schedule, 1e-5)
        assert 0 < accountant.get_epsilon(1e-5) <= planned
        for order in (planned_order(schedule, 1e-5), 3, 40):
            spent = epsilon_of(rdp_by_split_max(schedule, order), order, 1e-5)
            assert spent >= planned * (1 - 1e-12)


@given(st.floats(1e-4, 0.999), st.floats(0.4, 100), st.integers(2, 256))
def test_subsampled_rdp_is_opacus(sample_rate, noise_multiplier, order):
    theirs = float(opacus_rdp.compute_rdp(q=sample_rate, noise_multiplier=noise_multiplier, steps=1, orders=[order])[0])
    # The sum of binomial terms starts at 1: divergences near rounding are as good as zero.
    assert subsampled_gaussian_rdp(sample_rate, noise_multiplier, order) == pytest.approx(theirs, rel=1e-6, abs=1e-12)


@given(st.floats(0.01, 1), st.floats(0.5, 20), st.integers(2, 64))
def test_sampling_never_costs_more_than_everybody_and_more_noise_never_more(sample_rate, noise_multiplier, order):
    rdp = subsampled_gaussian_rdp(sample_rate, noise_multiplier, order)
    assert 0 <= rdp <= order / (2 * noise_multiplier**2) * (1 + 1e-9)
    assert subsampled_gaussian_rdp(sample_rate, 2 * noise_multiplier, order) <= rdp + 1e-12


def test_without_noise_it_costs_infinity():
    assert Release("metrics", "test", 0.5, 0.0).rdp(8) == inf
    with pytest.raises(BudgetExceededError):
        check_fits(Budget(1e6, 1e-5, 8), {}, [Release("metrics", "test", 0.5, 0.0)])


@pytest.mark.parametrize("sample_rate", [1e-300, 1e-9, 0.5, 1.0])
@pytest.mark.parametrize("noise_multiplier", [5e-324, 1e-200, 1e-160, 1e-155])
@pytest.mark.parametrize("order", [2, 32, 256])
def test_as_good_as_no_noise_never_costs_nothing(sample_rate, noise_multiplier, order):
    assert subsampled_gaussian_rdp(sample_rate, noise_multiplier, order) > 1e300
    release = Release("metrics", "test", sample_rate, noise_multiplier)
    with pytest.raises(BudgetExceededError):
        check_fits(Budget(1e6, 1e-5, order), {}, [release])
    with pytest.raises(BudgetExceededError):
        check_fits(Budget(1e6, 1e-5, order), {"train": inf}, [UPDATE])
    with pytest.raises(BudgetExceededError):
        check_fits(Budget(1e6, 1e-5, order), {"train": float("nan")}, [UPDATE])


@given(st.floats(5e-324, 1), st.floats(0, 1.7e308), st.integers(2, 256))
def test_a_cost_is_a_number_or_infinity_and_never_undefined(sample_rate, noise_multiplier, order):
    assert subsampled_gaussian_rdp(sample_rate, noise_multiplier, order) >= 0


def test_two_vectors_clipped_apart_cost_what_one_joint_release_with_their_common_noise_costs():
    apart = sum(subsampled_gaussian_rdp(1.0, s, 8) for s in (3.0, 4.0))
    assert apart == pytest.approx(subsampled_gaussian_rdp(1.0, 1 / sqrt(1 / 9 + 1 / 16), 8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_rate": 0.0}, r"sample_rate must be in \(0, 1\], got 0"),
        ({"sample_rate": 1.1}, r"sample_rate must be in \(0, 1\], got 1.1"),
        ({"noise_multiplier": -1.0}, "noise_multiplier must be >= 0, got -1"),
        ({"noise_multiplier": float("nan")}, "noise_multiplier must be >= 0, got nan"),
        ({"num_steps": 0}, "num_steps must be >= 1, got 0"),
    ],
)
def test_a_release_that_cannot_be_is_refused(change, message):
    values = {"kind": "update", "split": "train", "sample_rate": 0.5, "noise_multiplier": 1.0}
    with pytest.raises(ValueError, match=message):
        Release(**(values | change))


class TestSums:
    def test_splits_add_up_apart_and_the_worst_counts(self):
        other = Release("metrics", "validation", 0.5, 4.0)
        releases = [UPDATE, other, UPDATE]
        spent = rdp_by_split(releases, 5)
        assert spent == {"train": 2 * UPDATE.rdp(5), "validation": other.rdp(5)}
        assert rdp_by_split_max(releases, 5) == 2 * UPDATE.rdp(5)
        assert epsilon_of_schedule(releases, 1e-5) == epsilon_of_schedule([UPDATE, UPDATE], 1e-5)

    def test_nothing_released_is_epsilon_0(self):
        assert epsilon_of_schedule([], 1e-5) == 0
        assert Budget(8, 1e-5, 5).epsilon_spent(0.0) == 0

    def test_the_planned_order_is_where_the_total_is_smallest(self):
        schedule = [Release("update", "train", 0.25, 1.34, 40), Release("metrics", "validation", 0.5, 4.0)]
        order = planned_order(schedule, 1e-5)
        at_order = epsilon_of(rdp_by_split_max(schedule, order), order, 1e-5)
        assert at_order == pytest.approx(epsilon_of_schedule(schedule, 1e-5))
        with pytest.raises(ValueError, match="a plan must hold at least one release"):
            planned_order([], 1e-5)

    def test_the_order_without_a_plan_lets_the_most_gaussian_releases_through(self):
        release = Release("update", "train", 1.0, 10.0)
        counts = {order: int(budget_rdp(8.0, order) // release.rdp(order)) for order in range(2, 64)}
        assert counts[gaussian_order(8.0, 1e-5)] == max(counts.values())


def budget_rdp(epsilon, order):
    return epsilon - epsilon_of(0.0, order, 1e-5)


class TestBudget:
    @pytest.mark.parametrize("count", [1, 40, 60])
    def test_the_filter_lets_through_exactly_what_fits(self, count):
        schedule = [UPDATE] * count
        order = planned_order(schedule, 1e-5)
        budget = Budget(epsilon_of_schedule(schedule, 1e-5), 1e-5, order)
        for i in range(count):
            check_fits(budget, rdp_by_split(schedule[:i], order), [UPDATE])
        spent = rdp_by_split(schedule, order)
        with pytest.raises(BudgetExceededError, match=r"one more update on the train split would spend epsilon \d"):
            check_fits(budget, spent, [UPDATE])
        check_fits(budget, spent, [Release("metrics", "validation", 0.25, 1.34)])

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ((0.0, 1e-5, 8), "epsilon must be > 0"),
            ((inf, 1e-5, 8), "epsilon must be > 0"),
            ((1.0, 1.0, 8), r"delta must be in \(0, 1\)"),
            ((1.0, 1e-5, 1), r"order must be an integer in \[2, 256\]"),
            ((1.0, 1e-5, 3), "leaves nothing to spend at order 3; choose a higher order or a larger epsilon"),
        ],
    )
    def test_a_budget_that_buys_nothing_is_refused(self, values, message):
        with pytest.raises(ValueError, match=message):
            Budget(*values)
