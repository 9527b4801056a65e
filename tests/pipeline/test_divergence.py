import numpy as np
import pytest

from pipeline.divergence import divergence_in_words


@pytest.mark.parametrize(("value", "told"), [(2e6, "2.0e+06"), (-3e30, "3.0e+30"), (np.inf, "inf"), (np.nan, "nan")])
def test_parameters_that_ran_away_are_told_with_the_largest_and_a_cure(value, told):
    words = divergence_in_words(4, np.array([0.5, value], np.float32))
    assert words.startswith(
        f"the model of trial 4 has no use: training diverged, its largest parameter is {told}: search again with a "
        "lower learning_rate"
    )


@pytest.mark.parametrize("values", [[], [0.0], [-1e3, 20.0]])
def test_other_parameters_are_not(values):
    assert not divergence_in_words(4, np.array(values, np.float32))
