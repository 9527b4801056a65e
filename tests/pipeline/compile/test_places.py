import json

import pytest
import torch

from pipeline.compile.places import current_place, told_of


def caught(function) -> Exception:
    with pytest.raises((ValueError, RuntimeError), match=r"\w") as told:
        function()
    return told.value


@pytest.mark.parametrize(
    "function",
    [lambda: json.loads(""), lambda: torch.zeros(2).reshape(3), lambda: torch.nn.Linear(2, 2)(torch.ones(3))],
)
def test_an_error_inside_a_library_is_told_with_the_line_that_called_it(function):
    line = function.__code__.co_firstlineno
    assert told_of(caught(function)).endswith(f"(at test_places.py:{line})")


def test_an_error_is_told_in_one_line_with_its_class():
    assert told_of(ValueError("first\nsecond")) == "ValueError: first"  # raised nowhere: no place
    assert told_of(KeyError()) == "KeyError"


def test_the_current_place_is_this_line():
    assert current_place().startswith("test_places.py:")
