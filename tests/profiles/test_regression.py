import numpy as np
import pytest
from sklearn.gaussian_process.kernels import Matern

from profiles.regression import (
    SmoothKernel,
    conformal_ends,
    fit_smooth,
    fit_times,
    fit_work,
    own_kernel,
    predict_left_out,
    work_terms,
)


def rows_of(num_rows, seed=0):
    """Widths and batches, and what they take: an overhead, bytes and multiply-accumulates."""
    rng = np.random.default_rng(seed)
    rows = np.exp(rng.uniform(np.log([8, 1]), np.log([512, 64]), (num_rows, 2)))
    return rows, 0.5 + 0.01 * rows[:, 0] + 0.002 * rows[:, 0] * rows[:, 1]


def noisy(num_rows, deviation, seed=0):
    rows, times = rows_of(num_rows, seed)
    return rows, times * np.exp(deviation * np.random.default_rng(seed + 100).standard_normal(num_rows))


@pytest.fixture(scope="module")
def model():
    return fit_times(*noisy(60, 0.05))


def covered(intervals, times):
    return np.mean((intervals[:, 0] <= times) & (times <= intervals[:, 1]))


def test_the_work_terms_are_the_products_of_all_subsets():
    assert work_terms(np.array([[2.0, 3.0, 5.0]])).tolist() == [[1, 2, 3, 5, 6, 10, 15, 30]]


def test_the_work_that_made_the_times_is_found_again_also_where_nothing_was_measured():
    work = fit_work(*rows_of(50), work_terms)
    asked = np.array([[100.0, 10.0], [4096.0, 256.0]])
    assert np.exp(work(asked)) == pytest.approx(0.5 + 0.01 * asked[:, 0] + 0.002 * asked.prod(1), rel=1e-3)


def test_one_row_in_ten_that_took_three_times_as_long_hardly_moves_the_work():
    rows, times = noisy(100, 0.02)
    disturbed = np.where(np.arange(100) % 10 == 0, 3, 1) * times
    clean, moved = (fit_work(rows, one, work_terms)(rows) for one in (times, disturbed))
    assert np.abs(moved - clean).max() < 0.05


def test_the_covariance_is_the_one_of_scikit_learn():
    rng = np.random.default_rng(0)
    rows, others, lengths = rng.normal(size=(5, 3)), rng.normal(size=(4, 3)), np.array([0.5, 1.0, 3.0])
    expected = 0.7 * Matern(lengths, nu=1.5)(rows, others)
    assert SmoothKernel(0.7, lengths, 0.1).covariance(rows, others) == pytest.approx(expected)


def test_the_process_follows_what_no_sum_of_products_can():
    rows, times = rows_of(80)
    bent = times * np.exp(0.3 * np.sin(np.log(rows[:, 0])))
    asked, truth = rows_of(200, seed=1)
    truth = truth * np.exp(0.3 * np.sin(np.log(asked[:, 0])))
    smooth = fit_smooth(rows, bent, work_terms, [own_kernel(rows, bent)])
    errors = [np.median(np.abs(one(asked) - np.log(truth))) for one in (smooth, fit_work(rows, bent, work_terms))]
    assert errors[0] < 0.02
    assert errors[1] > 0.05


def test_the_process_passes_by_a_row_that_was_disturbed():
    rows, times = noisy(80, 0.01)
    kernel = SmoothKernel(0.01, np.array([1.0, 1.0]), 1e-4)
    disturbed = times.copy()
    disturbed[3] *= 2
    clean, moved = (fit_smooth(rows, one, work_terms, [kernel])(rows[3:4])[0] for one in (times, disturbed))
    assert abs(moved - clean) < 0.1  # and not near log 2


def test_a_row_is_left_out_of_what_predicts_it():
    rows, times = rows_of(60)

    def nearest(its_rows, its_times):
        return lambda asked: np.log([its_times[np.argmin(np.abs(its_rows - one).sum(1))] for one in asked])

    found = predict_left_out(nearest, rows, times)
    assert not np.isclose(found, np.log(times)).any()
    assert np.isin(np.round(found, 9), np.round(np.log(times), 9)).all()


@pytest.mark.parametrize(
    ("num_errors", "share", "places"),
    [(40, 0.95, (1, 40)), (79, 0.95, (2, 78)), (99, 0.8, (10, 90)), (40, 0.8, (4, 37))],
)
def test_a_share_lies_between_order_statistics(num_errors, share, places):
    errors = np.arange(1.0, num_errors + 1)
    assert tuple(conformal_ends(errors, share)) == places
    assert (places[1] - places[0]) / (num_errors + 1) >= share


def test_intervals_cover_what_they_promise_on_new_rows(model):
    rows, times = noisy(3000, 0.05, seed=1)
    found = model.predict(rows)
    inside = ~found.is_outside
    assert 0.75 < covered(found.interval80_ms[inside], times[inside]) < 0.85
    assert 0.91 < covered(found.interval95_ms[inside], times[inside]) < 0.98


def test_the_middle_is_right_and_within_its_intervals(model):
    rows, truth = rows_of(300, seed=2)
    found = model.predict(rows)
    assert np.median(np.abs(found.median_ms / truth - 1)) < 0.03
    ends = [found.interval95_ms[:, 0], found.interval80_ms[:, 0], found.median_ms]
    ends += [found.interval80_ms[:, 1], found.interval95_ms[:, 1]]
    assert (np.diff(ends, axis=0) > 0).all()


@pytest.mark.slow
def test_intervals_are_wider_where_measurements_spread_more():
    rows, times = rows_of(100)
    deviation = np.where(rows[:, 0] < 64, 0.15, 0.01)
    times = times * np.exp(deviation * np.random.default_rng(1).standard_normal(100))
    ends = fit_times(rows, times).predict([[10.0, 8.0], [400.0, 8.0]]).interval80_ms
    small, large = np.log(ends[:, 1] / ends[:, 0])
    assert small > 2 * large


def test_beyond_the_rows_a_prediction_says_so_and_is_wider_the_farther(model):
    largest = model.bounds[1]
    found = model.predict([largest, 2 * largest, 4 * largest, model.bounds[0] / 2])
    assert found.is_outside.tolist() == [False, True, True, True]
    widths = np.log(found.interval80_ms[:, 1] / found.interval80_ms[:, 0])
    assert widths[1] > widths[0] + 1.3  # log 2 for each of two features
    assert widths[2] > widths[1] + 1.3
    assert widths[3] > 1.3


@pytest.mark.slow
def test_the_same_rows_make_the_same_model_bit_for_bit(model):
    rows, _ = rows_of(20, seed=3)
    again = fit_times(*noisy(60, 0.05)).predict(rows)
    first = model.predict(rows)
    assert again.median_ms.tolist() == first.median_ms.tolist()
    assert again.interval95_ms.tolist() == first.interval95_ms.tolist()


@pytest.mark.slow
def test_a_feature_that_never_changes_does_no_harm():
    rows, times = noisy(40, 0.02)
    model = fit_times(np.column_stack([rows, np.full(40, 7.0)]), times)
    found = model.predict([[100.0, 10.0, 7.0], [100.0, 10.0, 8.0]])
    assert found.median_ms[0] == pytest.approx(0.5 + 1 + 2, rel=0.05)
    assert found.is_outside.tolist() == [False, True]


@pytest.mark.slow
def test_trees_follow_a_jump_between_cores():
    rows, times = noisy(1000, 0.02)
    asked, truth = rows_of(1000, seed=1)
    found = fit_times(rows, np.where(rows[:, 0] > 100, 2, 1) * times).predict(asked)
    right = np.abs(found.median_ms / (np.where(asked[:, 0] > 100, 2, 1) * truth) - 1) < 0.1
    assert right.mean() > 0.95


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda rows, times: (rows[:30], times[:30]), "rows must be >= 40 .* got 30; measure more"),
        (lambda rows, times: (rows, times[:-1]), r"one time for each of 60 rows, got shape \(59,\)"),
        (lambda rows, times: (rows, times - times[0]), "times_ms must be positive, got .*drop such rows"),
        (lambda rows, times: (rows * 0, times), "features must be positive and finite; add 1"),
        (lambda rows, times: (np.tile(rows, 4), times), "features must be 1 to 6, got 8; multiply"),
        (lambda rows, times: (rows[:, 0], times), r"shape \[rows, features\], got \[60\]"),
    ],
)
def test_rows_that_cannot_be_fitted_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        fit_times(*change(*rows_of(60)))


def test_other_features_than_fitted_are_refused(model):
    with pytest.raises(ValueError, match="the 2 fitted features, got 3"):
        model.predict(np.ones((4, 3)))
