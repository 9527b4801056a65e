import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.section import NonNegative, Options, PositiveFloat, PositiveInt, RealOptions, Section


class Table(Section):
    rate: RealOptions[PositiveFloat] = (0.1,)
    decay: RealOptions[NonNegative] = (0.0,)
    epochs: Options[PositiveInt] = (1,)


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
    ("key", "value", "message"),
    [
        ("rate", {"low": 1.0, "high": 0.5}, "have low < high, got low = 1 and high = 0.5; or give one value"),
        ("rate", {"low": 0.5, "high": 0.5}, "have low < high, got low = 0.5 and high = 0.5; or give one value"),
        ("rate", {"low": 0.0, "high": 0.5}, "have a low that is greater than 0, got 0"),
        ("rate", {"low": -0.1, "high": 0.5, "scale": "linear"}, "have a low that is greater than 0, got -0.1"),
        (
            "decay",
            {"low": 0.0, "high": 0.5},
            "have low > 0 on a log scale, got low = 0; give a higher one or scale = 'linear'",
        ),
        ("decay", {"low": -0.5, "high": 0.5}, "have a low that is greater than or equal to 0, got -0.5"),
        ("rate", {"low": 0.1, "hgih": 0.5}, "have no key 'hgih' in its interval; did you mean 'high'?"),
        ("rate", {"low": 0.1, "high": 1, "x": 0.5}, "have no key 'x' in its interval; known: low, high, count, scale"),
        ("rate", {"low": 0.1}, "have high in its interval, e.g. { low = 1e-4, high = 0.1 }"),
        (
            "rate",
            {"low": 0.1, "high": 0.5, "count": 1},
            "have a count that must be greater than or equal to 2, got 1",
        ),
        (
            "rate",
            {"low": 0.1, "high": 0.1 + 2e-17 + 1e-16},
            "have low and high farther apart: 100 options between them are not all different",
        ),
        (
            "epochs",
            {"low": 1, "high": 3},
            "be a value or a list: an interval stands for real numbers, and not for these",
        ),
    ],
)
def test_an_impossible_interval_is_told_what_is_wrong_in_one_line(key, value, message):
    with pytest.raises(ValidationError) as caught:
        Table(**{key: value})
    (error,) = caught.value.errors()
    assert (error["loc"], error["msg"]) == ((key,), message)


def test_an_empty_list_is_no_choice():
    with pytest.raises(ValidationError, match="at least 1 item"):
        Table(rate=[])
