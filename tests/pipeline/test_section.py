import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.section import Options, PositiveFloat, Section


class Table(Section):
    rate: Options[PositiveFloat]


def test_an_interval_stands_for_options_evenly_spread_over_it():
    rates = Table(rate={"low": 1e-4, "high": 0.1, "count": 31}).rate
    assert len(rates) == 31
    assert (rates[0], rates[-1]) == (pytest.approx(1e-4), pytest.approx(0.1))
    assert np.diff(np.log(rates)) == pytest.approx(np.log(1000) / 30)
    assert Table(rate={"low": 1.0, "high": 2.0, "count": 3, "scale": "linear"}).rate == (1.0, 1.5, 2.0)
    assert len(Table(rate={"low": 1.0, "high": 2.0}).rate) == 100


def test_a_value_alone_and_a_list_are_options_as_they_stand():
    assert Table(rate=0.5).rate == (0.5,)
    assert Table(rate=[0.5, 0.25]).rate == (0.5, 0.25)


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        ({"low": 1.0, "high": 0.5}, "low must be < high = 0.5, got 1.0"),
        ({"low": 0.0, "high": 0.5}, "low must be > 0 on a log scale, got 0.0; set scale = 'linear'"),
        ({"low": 0.0, "high": 0.5, "scale": "linear"}, "greater than 0"),  # of the options themselves
        ({"low": 0.1, "hgih": 0.5}, "high: Field required; hgih: Extra inputs are not permitted"),
        ({"low": 0.1, "high": 0.5, "count": 1}, "count: Input should be greater than or equal to 2"),
        ([], "at least 1 item"),
    ],
)
def test_an_impossible_interval_is_told_what_is_wrong(rate, message):
    with pytest.raises(ValidationError, match=message):
        Table(rate=rate)
