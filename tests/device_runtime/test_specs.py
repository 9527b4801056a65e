from dataclasses import replace

import numpy as np
import pytest

from device_runtime.specs import ExampleSpec, FrozenTensors, InputSpec
from profiles.records import decode_record, encode_record

PLAIN = ExampleSpec((2, 3), ("a", "b"))
IDS = InputSpec("ids", (5,), "int64")
SEVERAL = ExampleSpec((), ("a", "b"), inputs=(IDS, InputSpec("weight", ())))


def test_one_array_holds_the_examples_whatever_the_inputs():
    assert np.zeros(4, PLAIN.row_dtype()).shape == (4, 2, 3)
    assert np.zeros(4, replace(PLAIN, dtype="int64").row_dtype()).dtype == np.int64
    rows = np.zeros(4, SEVERAL.row_dtype())
    assert (rows.shape, rows["ids"].shape, rows["weight"].shape) == ((4,), (4, 5), (4,))
    assert (rows["ids"].dtype, rows["weight"].dtype) == (np.int64, np.float32)
    rows["ids"] = 7
    rows[[1, 3]] = 0
    assert rows["ids"].any(axis=1).tolist() == [True, False, True, False]


@pytest.mark.parametrize("spec", [PLAIN, SEVERAL, ExampleSpec((1,), ("price",), target="values")])
def test_it_survives_the_round_trip(spec):
    assert decode_record(ExampleSpec, encode_record(spec)) == spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": ()}, r"shape must have sizes >= 1, got \(\)"),
        ({"shape": (3, 0)}, "shape must have sizes >= 1"),
        ({"inputs": SEVERAL.inputs}, r"shape must be \(\) beside several inputs"),
        (
            {"shape": (), "inputs": (IDS,)},
            "inputs must be two or more of distinct names, got .*; a single one is shape",
        ),
        ({"shape": (), "inputs": (IDS, IDS)}, "two or more of distinct names"),
        ({"shape": (), "inputs": SEVERAL.inputs, "scale": 0.5}, "scale must be left out beside several inputs"),
        ({"shape": (), "inputs": SEVERAL.inputs, "colour": "rgb"}, "colour must be left out beside several inputs"),
        ({"shape": (), "inputs": SEVERAL.inputs, "dtype": "int64"}, "dtype must be left out beside several inputs"),
        ({"dtype": "int64", "mean": (1.0,)}, "mean must be left out with dtype int64: whole numbers are taken as they"),
        ({"labels": ("a",)}, "at least 2 classes"),
        ({"labels": (), "target": "values"}, "at least 1 value"),
        ({"labels": ("a", "a"), "target": "values"}, "labels must be distinct"),
        ({"deviation": (0.0,)}, "deviation must be > 0"),
    ],
)
def test_a_specification_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(PLAIN, **changes)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("", (1,), "an input's name must be of letters, digits and _, no digit first, got ''"),
        ("a.b", (1,), "got 'a.b'"),
        ("1st", (1,), "got '1st'"),
        ("a", (0,), "shape of input 'a' must have sizes >= 1"),
    ],
)
def test_an_input_is_named_and_has_elements(name, shape, message):
    with pytest.raises(ValueError, match=message):
        InputSpec(name, shape)


@pytest.mark.parametrize(
    ("sha256", "shapes", "message"),
    [
        ("0" * 63, {"w": (1,)}, "sha256 must be 64 hexadecimal digits"),
        ("0" * 64, {}, "at least one tensor"),
        ("0" * 64, {"w": (2, 0)}, r"must have a name and sizes >= 1, got 'w' \(2, 0\)"),
    ],
)
def test_frozen_tensors_have_a_hash_and_elements(sha256, shapes, message):
    with pytest.raises(ValueError, match=message):
        FrozenTensors(sha256, shapes)
