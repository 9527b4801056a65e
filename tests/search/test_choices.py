from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from search.choices import check_choices, combine, count, draw_fields, field_changes, lift, next_options, other_options


@dataclass(frozen=True)
class Pair:
    a: int
    b: float | None = None


CHOICES = {"a": (4, 1, 2), "b": (None,)}


def test_combinations_are_all_listed_once_and_counted():
    combinations = list(combine(CHOICES))
    assert combinations == [{"a": 4, "b": None}, {"a": 1, "b": None}, {"a": 2, "b": None}]
    assert count(CHOICES) == 3


def test_every_option_is_drawn_about_as_often():
    rng = np.random.default_rng(0)
    drawn = Counter(draw_fields(CHOICES, rng)["a"] for _ in range(3000))
    assert drawn.keys() == {1, 2, 4}
    assert min(drawn.values()) > 900


@pytest.mark.parametrize(("value", "beside"), [(1, (2,)), (2, (1, 4)), (4, (2,))])
def test_the_next_options_are_those_beside_the_value_in_order_of_size(value, beside):
    assert next_options(Pair(value), CHOICES) == {"a": beside, "b": ()}


def test_a_field_without_another_option_has_no_change():
    changes = field_changes(Pair(1), other_options(Pair(1), CHOICES))
    rng = np.random.default_rng(0)
    assert len(changes) == 1
    assert {changes[0](rng) for _ in range(50)} == {Pair(2), Pair(4)}


def test_a_change_of_a_part_is_put_in_its_place():
    changes = lift(field_changes(Pair(1), {"a": (2,)}), lambda pair: ("whole", pair))
    assert [change(np.random.default_rng(0)) for change in changes] == [("whole", Pair(2))]


@pytest.mark.parametrize(
    ("options", "message"),
    [((), "a needs at least one option"), ((1, 1), r"a must list each option once, got \[1, 1\]")],
)
def test_a_field_without_options_or_with_one_twice_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        check_choices({"a": options})
