from dataclasses import replace

import numpy as np
import pytest

from profiles.regression import SmoothKernel, calibrate, fit_smooth, fit_times, work_terms
from profiles.transfer import (
    TransferError,
    choose_anchor,
    fit_few,
    socs_of,
    transfer_errors,
    transfer_model,
    without_soc,
)

# Old cores run what is wide ("big") badly; within a kind, SoCs differ by their clock alone.
KINDS = {"old": {"thin": 10.0, "small": 20.0, "big": 400.0}, "new": {"thin": 3.0, "small": 6.0, "big": 60.0}}
SOCS = {"o1": ("old", 1.0), "o2": ("old", 1.1), "o3": ("old", 0.9), "n1": ("new", 1.0), "n2": ("new", 1.1)}
TABLE = {
    model: {soc: KINDS[kind][model] * clock for soc, (kind, clock) in SOCS.items()}
    for model in ("thin", "small", "big")
}


def phone(num_rows, seed, slow_wide=1.0):
    """Rows of a phone whose times have steps that no sum of products explains, and 3% noise."""
    rng = np.random.default_rng(seed)
    rows = np.exp(rng.uniform(np.log([8, 1]), np.log([512, 64]), (num_rows, 2)))
    steps = 1 + 0.4 * (np.floor(3 * np.log(rows[:, 0])) % 2)
    times = (0.5 + 0.01 * rows[:, 0] * slow_wide + 0.002 * rows[:, 0] * rows[:, 1]) * steps
    return rows, times * np.exp(0.03 * rng.standard_normal(num_rows))


@pytest.fixture(scope="module")
def source():
    rows, times = phone(150, seed=0)
    kernel = SmoothKernel(0.03, np.array([0.1, 10.0]), 0.001)
    log_ms = fit_smooth(rows, times, work_terms, [kernel])
    return calibrate(log_ms, rows, np.log(times) - log_ms(rows), (kernel,))


def error_of(model, num_rows=500):
    rows, times = phone(num_rows, seed=9, slow_wide=2.0)
    return np.median(np.abs(model.predict(rows).median_ms / (3 * times) - 1))


@pytest.mark.slow
def test_few_rows_go_further_with_another_phone(source):
    rows, times = phone(40, seed=1, slow_wide=2.0)
    assert error_of(fit_few([source], rows, 3 * times)) < 0.8 * error_of(fit_times(rows, 3 * times))


@pytest.mark.slow
def test_a_phone_unlike_the_others_is_still_fitted(source):
    rows, times = phone(60, seed=1, slow_wide=2.0)
    misleading = replace(source, log_ms=lambda asked: -source.log_ms(asked))
    assert error_of(fit_few([misleading], rows, 3 * times)) < 1.1 * error_of(fit_times(rows, 3 * times))


def test_intervals_of_few_rows_cover(source):
    model = fit_few([source], *phone(60, seed=2))
    rows, times = phone(2000, seed=3)
    low, high = model.predict(rows).interval80_ms.T
    assert 0.72 < np.mean((low <= times) & (times <= high)) < 0.88


def test_the_kernels_are_those_of_the_sources(source):
    assert fit_few([source, source], *phone(40, seed=1)).kernels == (*source.kernels, *source.kernels)


def test_a_transfer_without_another_phone_is_refused():
    with pytest.raises(ValueError, match="a model of another phone, got none; fit_times does without"):
        fit_few([], *phone(40, seed=1))


def test_the_anchor_is_the_model_that_says_most_of_others():
    assert choose_anchor(TABLE) == "small"  # as much as "thin", and first by name
    assert choose_anchor(TABLE, ["big", "thin"]) == "thin"


def test_where_the_anchor_takes_as_long_ratios_count_most():
    errors = np.linspace(-1, 1, 99)
    slow = transfer_model(TABLE, "big", "small", 21.0, errors).median_ms
    fast = transfer_model(TABLE, "big", "small", 6.3, errors).median_ms
    assert slow == pytest.approx(21.0 * 20, rel=0.01)
    assert fast == pytest.approx(6.3 * 10, rel=0.01)


def test_a_ratio_that_is_the_same_everywhere_is_exact_and_sure():
    found = transfer_model(TABLE, "thin", "small", 20.0, np.linspace(-1, 1, 99))
    assert found.median_ms == pytest.approx(10.0)
    low, high = found.interval80_ms
    assert 9.7 < low < 10 < high < 10.3
    assert found.interval95_ms[0] < low < high < found.interval95_ms[1]


def test_intervals_are_wider_for_a_soc_like_none_of_the_table_and_where_near_ones_disagree():
    errors = np.linspace(-1, 1, 99)

    def width(anchor_ms, model="thin"):
        low, high = transfer_model(TABLE, model, "small", anchor_ms, errors).interval80_ms
        return np.log(high / low)

    assert width(200.0) > 3 * width(20.0)
    assert width(11.0, "big") > 3 * width(11.0)


def test_errors_are_of_socs_left_out():
    assert np.abs(transfer_errors([without_soc(TABLE, "n1")])).max() > 3  # n2 is then alone of its kind, "big" far off
    exact = {model: times for model, times in TABLE.items() if model != "big"}
    assert transfer_errors([exact]) == pytest.approx(np.zeros(5), abs=1e-9)


def test_errors_of_several_tables_are_pooled_in_order():
    pooled = transfer_errors([TABLE, TABLE])
    assert len(pooled) == 2 * len(transfer_errors([TABLE])) == 2 * 5 * 2
    assert (np.diff(pooled) >= 0).all()


def test_a_soc_is_taken_out_of_all_models():
    assert socs_of(TABLE) == ["n1", "n2", "o1", "o2", "o3"]
    assert socs_of(without_soc(TABLE, "o1")) == ["n1", "n2", "o2", "o3"]
    assert socs_of(TABLE)[2] == "o1"


def test_what_a_table_cannot_tell_is_refused():
    with pytest.raises(TransferError, match="no SoC of the table has both 'big' and the anchor 'other'"):
        transfer_model(TABLE | {"other": {"x": 1.0}}, "big", "other", 1.0, np.zeros(50))
    with pytest.raises(TransferError, match="on two SoCs; add rows of a second SoC"):
        choose_anchor({"thin": {"o1": 1.0}, "big": {"o1": 2.0}})
