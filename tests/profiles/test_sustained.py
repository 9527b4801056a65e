import csv
from math import exp
from pathlib import Path

import numpy as np
import pytest

from profiles.sustained import (
    ROUGH_TAIL,
    SUSTAINED_SLOWDOWNS,
    TIME_CONSTANT_S,
    TYPICAL_TAIL,
    TailModel,
    ThermalModel,
    draw_sustained,
    draw_tail,
    heat,
    rest,
    slowdown,
    tail_quantile,
    thermal_model,
    work_on,
)

MLPERF = Path(__file__).parents[3] / "shared" / "data" / "phones" / "mlperf-mobile" / "mlperf_mobile_latency.csv"
NEEDS_SHARED = pytest.mark.skipif(not MLPERF.is_file(), reason="the shared data are not here")
MODEL = ThermalModel(heating_s=100, cooling_s=200, thresholds=(0.5, 0.9), slowdowns=(1.2, 2.0))
HALF_HOUR = 1800.0


def test_without_load_nothing_heats_up():
    assert heat(MODEL, [], [0, 1e6]).tolist() == [0, 0]
    assert slowdown(MODEL, [], [0, 1e6]).tolist() == [1, 1]
    assert slowdown(MODEL, [(50, 60)], [0, 49]).tolist() == [1, 1]


def test_heat_follows_newtons_law_through_work_and_rest():
    found = heat(MODEL, [(10, 110), (310, 360)], [10, 110, 310, 360, 560])
    first = 1 - exp(-1)
    second = 1 - (1 - first * exp(-1)) * exp(-0.5)
    assert found == pytest.approx([0, first, first * exp(-1), second, second * exp(-1)])


def test_load_slows_down_in_plateaus_and_rest_recovers():
    at = np.arange(0, 2000, 5.0)
    found = slowdown(MODEL, [(0, 1000)], at)
    assert set(found) == {1.0, 1.2, 2.0}
    assert (np.diff(found[at <= 1000]) >= 0).all()
    assert (np.diff(found[at > 1000]) <= 0).all()
    assert (found[0], found[at == 1000][0], found[-1]) == (1, 2, 1)


def test_an_interval_cut_in_two_is_the_same_load_and_order_of_questions_does_not_matter():
    at = [700, 20, 300]
    whole, cut = heat(MODEL, [(0, 400)], at), heat(MODEL, [(0, 150), (150, 400)], at)
    assert cut == pytest.approx(whole)
    assert heat(MODEL, [(0, 400)], at[::-1]).tolist() == whole[::-1].tolist()


@pytest.mark.parametrize(
    ("level", "cool_s"), [(0.0, 10.0), (0.0, 69.0), (0.0, 900.0), (0.5, 5.0), (0.7, 300.0), (0.95, 1.0)]
)
def test_work_takes_what_its_heat_slows_it_down_to(level, cool_s):
    seconds, after = work_on(MODEL, level, cool_s)
    began = -MODEL.heating_s * np.log1p(-level)  # the load that made it as hot
    at = began + (np.arange(20_000) + 0.5) / 20_000 * seconds
    load = [(0.0, began + seconds)]
    assert np.mean(1 / slowdown(MODEL, load, at)) * seconds == pytest.approx(cool_s, rel=1e-4)
    assert after == pytest.approx(heat(MODEL, load, [began + seconds])[0])


def test_work_cut_in_two_takes_as_long_and_rest_cools_between():
    whole, after = work_on(MODEL, 0.0, 400.0)
    first, between = work_on(MODEL, 0.0, 150.0)
    second, end = work_on(MODEL, between, 250.0)
    assert (first + second, end) == (pytest.approx(whole), pytest.approx(after))
    assert rest(MODEL, between, 200) == pytest.approx(between / np.e)
    assert work_on(MODEL, rest(MODEL, between, 200), 250.0)[0] < second


def test_a_device_that_never_slows_down_works_as_fast_however_hot():
    assert work_on(thermal_model(1.0), 0.99, 5000.0)[0] == 5000.0


@pytest.mark.parametrize("intervals", [[(5, 1)], [(0, 10), (5, 20)], [(20, 30), (0, 10)]])
def test_intervals_out_of_order_are_refused(intervals):
    with pytest.raises(ValueError, match="must be in order and apart"):
        heat(MODEL, intervals, [0])


@pytest.mark.parametrize("sustained", SUSTAINED_SLOWDOWNS)
def test_half_an_hour_of_full_load_ends_at_the_published_slowdown(sustained):
    model = thermal_model(sustained)
    assert slowdown(model, [(0, HALF_HOUR)], [0, HALF_HOUR]).tolist() == [1, sustained]
    assert slowdown(model, [(0, HALF_HOUR)], [HALF_HOUR + 10 * TIME_CONSTANT_S]).tolist() == [1]


def test_plateaus_lie_at_the_frequency_steps_above_the_sustained_one():
    model = thermal_model(2.0, [500, 1000, 1600, 2000])
    assert model.slowdowns == (1.25, 2.0)
    assert thermal_model(2.1, [500, 1000, 1600, 2000]).slowdowns == (1.25, 2.0, 2.1)


def test_a_device_that_never_slows_down_is_one_too():
    model = thermal_model(1.0, [500, 1000])
    assert slowdown(model, [(0, HALF_HOUR)], [HALF_HOUR]).tolist() == [1]


def test_devices_end_between_the_published_slowdowns():
    rng = np.random.default_rng(0)
    drawn = np.array([draw_sustained(rng) for _ in range(2000)])
    least, most = SUSTAINED_SLOWDOWNS
    assert least <= drawn.min() < 1.12
    assert 2.2 < drawn.max() <= most
    assert np.median(drawn) == pytest.approx((least * most) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heating_s": 0}, "time constants must be > 0"),
        ({"thresholds": (0.9, 0.5)}, "thresholds must rise"),
        ({"thresholds": (0.5, 1.0)}, "thresholds must rise"),
        ({"slowdowns": (0.9, 2.0)}, "slowdowns must rise"),
        ({"slowdowns": (1.5,)}, "each threshold must have a slowdown"),
    ],
)
def test_an_impossible_thermal_model_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ThermalModel(**{**vars(MODEL), **changes})


def test_a_speed_up_under_load_is_refused():
    with pytest.raises(ValueError, match=r"sustained must be >= 1 and finite, got 0\.9"):
        thermal_model(0.9)


@pytest.mark.parametrize("model", [TYPICAL_TAIL, ROUGH_TAIL])
def test_drawn_runs_have_the_published_quantiles(model):
    drawn = draw_tail(model, np.random.default_rng(3), 400_000)
    for probability, factor in zip(model.probabilities[1:-1], model.factors[1:-1], strict=True):
        assert np.quantile(drawn, probability) == pytest.approx(factor, rel=0.03)
    assert np.median(drawn) == pytest.approx(1, abs=1e-3)
    assert [drawn.min(), drawn.max()] == pytest.approx([model.factors[0], model.factors[-1]])


def test_quantiles_rise_and_stay_beyond_the_published_ones():
    found = tail_quantile(TYPICAL_TAIL, [1e-9, 1e-4, 0.3, 0.5, 0.95, 0.9999, 1 - 1e-12])
    assert (np.diff(found) >= 0).all()
    assert found[[0, 3, -1]] == pytest.approx([0.96, 1, 3.16])
    with pytest.raises(ValueError, match=r"probabilities must be in \(0, 1\)"):
        tail_quantile(TYPICAL_TAIL, [1.0])


@pytest.mark.parametrize(
    ("probabilities", "factors", "message"),
    [
        ((0.5, 0.5), (1, 1), "probabilities must rise"),
        ((0.5, 1.0), (1, 2), "probabilities must rise"),
        ((0.5, 0.9), (1,), "each probability must have a factor"),
        ((0.5, 0.9), (1, 0.9), "none below the one before"),
        ((0.4, 0.9), (1, 2), r"1 at probability 0\.5"),
    ],
)
def test_an_impossible_tail_is_refused(probabilities, factors, message):
    with pytest.raises(ValueError, match=message):
        TailModel(probabilities, factors)


@NEEDS_SHARED
@pytest.mark.parametrize(("model", "rank"), [(TYPICAL_TAIL, 0.5), (ROUGH_TAIL, 0.9)])
def test_the_tails_are_those_of_the_published_runs(model, rank):
    with MLPERF.open(encoding="utf-8") as file:
        rows = [
            row for row in csv.DictReader(file) if row["scenario"] == "SingleStream" and int(row["queries"]) >= 1000
        ]
    phones = [row for row in rows if "SDCX8" not in row["run"] and "SDX_" not in row["run"]]
    assert len(phones) == 76
    for column, factor in zip(("p90", "p95", "p97", "p99", "p999", "max"), model.factors[2:], strict=True):
        ratios = [float(row[f"{column}_ns"]) / float(row["p50_ns"]) for row in phones]
        assert factor == pytest.approx(np.quantile(ratios, rank), rel=0.002)
    fastest = [float(row["min_ns"]) / float(row["p50_ns"]) for row in phones]
    assert model.factors[0] == pytest.approx(np.quantile(fastest, 1 - rank), rel=0.002)
