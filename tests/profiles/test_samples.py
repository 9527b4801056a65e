import numpy as np
import pytest

from profiles.samples import MAX_SAMPLES, keep_evenly, summarize


def rounds_of(median: float, sigma: float, num_rounds: int = 6, seed: int = 0) -> list[list[float]]:
    rng = np.random.default_rng(seed)
    return [list(median * np.exp(sigma * rng.standard_normal(40))) for _ in range(num_rounds)]


def test_a_summary_takes_the_samples_of_all_rounds_together():
    found = summarize([[1.0, 2.0, 3.0], [4.0, 5.0]])
    assert (found.median_ms, found.min_ms, found.repetitions) == (3.0, 1.0, 5)
    assert found.p90_ms == pytest.approx(4.6)
    assert found.spread == pytest.approx((4.0 - 2.0) / 3.0, abs=1e-4)
    assert found.samples_ms == (1.0, 2.0, 3.0, 4.0, 5.0)


def test_one_outlier_moves_neither_median_nor_spread():
    quiet = rounds_of(1.0, 0.01)
    loud = [*quiet[:-1], [*quiet[-1], 1000.0]]
    assert summarize(loud).median_ms == pytest.approx(summarize(quiet).median_ms, rel=0.01)
    assert summarize(loud).spread == pytest.approx(summarize(quiet).spread, rel=0.1)


def test_what_is_kept_is_of_all_rounds_and_short():
    found = summarize([[float(i)] * 40 for i in range(1, 9)])
    assert len(found.samples_ms) == MAX_SAMPLES
    assert [found.samples_ms.count(float(i)) for i in range(1, 9)] == [8] * 8
    assert summarize([[0.123456789, 12345.678, 1.0]]).samples_ms == (0.1235, 12350.0, 1.0)


def test_less_than_nothing_is_nothing():
    found = summarize([[-1e-4, 0.0, -2e-4]])
    assert (found.median_ms, found.p90_ms, found.min_ms, found.spread) == (0.0, 0.0, 0.0, 0.0)
    assert found.samples_ms == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("most", "kept"), [(9, [0, 1, 2, 3, 4, 5]), (6, [0, 1, 2, 3, 4, 5]), (3, [0, 2, 4]), (0, [])])
def test_samples_are_kept_evenly(most, kept):
    assert list(keep_evenly(range(6), most)) == kept
