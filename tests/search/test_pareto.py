from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.pareto import pareto_front


def dominates(one, other, directions) -> bool:
    pairs = [(a, b) if way == "min" else (-a, -b) for a, b, way in zip(one, other, directions, strict=True)]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


# Few values, so that ties are common.
values = st.one_of(st.integers(0, 4).map(float), st.sampled_from([-inf, inf]))


@pytest.mark.parametrize("num_objectives", [1, 2, 3, 4])
@given(st.data())
def test_the_front_is_what_brute_force_finds(num_objectives, data):
    directions = data.draw(st.tuples(*[st.sampled_from(["min", "max"])] * num_objectives))
    points = data.draw(st.lists(st.tuples(*[values] * num_objectives), max_size=20))
    front = pareto_front(points, directions)
    expected = {i for i, p in enumerate(points) if not any(dominates(q, p, directions) for q in points)}
    assert set(front) == expected
    assert len(front) == len(expected)


def test_the_front_goes_from_cheap_to_dear_and_from_bad_to_good():
    points = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.5), (2.0, 0.8), (4.0, 0.9)]
    assert pareto_front(points) == (1, 3, 0)


def test_equal_points_stand_and_fall_together():
    assert pareto_front([(1, 1), (1, 1), (2, 1), (2, 1)]) == (0, 1)


def test_the_best_in_the_first_objective_comes_first_when_it_is_a_value():
    assert pareto_front([(1.0, 1.0), (3.0, 3.0), (2.0, 2.0)], ("max", "min")) == (1, 2, 0)


def test_no_points_have_no_front():
    assert pareto_front([]) == ()


def test_many_points_on_one_front_are_all_kept():
    cost = np.random.default_rng(0).permutation(20_000).astype(float)
    assert len(pareto_front([(c, c) for c in cost.tolist()])) == 20_000


@pytest.mark.parametrize(
    ("points", "directions", "message"),
    [
        ([(1.0, nan)], ("min", "max"), r"point 0 must have no NaN, got \(1.0, nan\); leave failed trials out"),
        ([(1.0, 1.0), (1.0,)], ("min", "max"), "point 1 must have 2 objectives, got 1"),
        ([(1.0,)], ("least",), "directions must name 'min' or 'max' for each objective"),
        ([], (), "directions must name"),
    ],
)
def test_points_that_cannot_be_compared_are_refused(points, directions, message):
    with pytest.raises(ValueError, match=message):
        pareto_front(points, directions)
