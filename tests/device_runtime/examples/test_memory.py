import numpy as np
import pytest

from device_runtime.examples.memory import ArraySource
from device_runtime.examples.source import SourceError
from device_runtime.specs import ExampleSpec, InputSpec

SPEC = ExampleSpec((2,), ("a", "b"))
X = np.arange(8, dtype=np.float64).reshape(4, 2)
Y = np.array([0, 1, 1, 0], np.uint8)


def test_examples_are_named_by_their_index_and_come_in_the_order_asked():
    source = ArraySource(X, Y, SPEC, ["ann", "bob", "ann", "bob"])
    assert source.ids() == ("0", "1", "2", "3")
    x, y = source.get(["2", "0"])
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(x, X[[2, 0]])
    assert y.tolist() == [1, 0]
    assert source.class_indices().tolist() == [0, 1, 1, 0]
    assert source.clients() == {"0": "ann", "1": "bob", "2": "ann", "3": "bob"}


@pytest.mark.parametrize("bad", ["4", "-1", "cat", ""])
def test_an_unknown_id_is_refused(bad):
    with pytest.raises(SourceError, match=f"there is no example '{bad}'; ids run from 0 to 3"):
        ArraySource(X, Y, SPEC).get([bad])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((X[:, :1], Y), r"x must be \['n', 2\], channels first, got \[4, 1\]"),
        ((X, Y[:3]), r"y must hold one label for each of 4 examples in x, got shape \[3\]"),
        ((X, Y[:, None]), r"got shape \[4, 1\]"),
        ((X, Y, ["ann"]), "client must name an owner for each of 4 examples in x, got 1"),
        ((X[:0], Y[:0]), "x is empty"),
        ((X, Y + 1), "labels must be 0 to 1, got 1 to 2; renumber y from 0"),
    ],
)
def test_arrays_that_do_not_fit_each_other_are_refused(arrays, message):
    with pytest.raises(SourceError, match=message):
        ArraySource(arrays[0], arrays[1], SPEC, *arrays[2:])


def test_means_for_another_number_of_channels_are_refused():
    spec = ExampleSpec((2,), ("a", "b"), mean=(0.0, 0.0, 0.0))
    with pytest.raises(SourceError, match="mean must have 1 value or one for each of 2 channels"):
        ArraySource(X, Y, spec)


def test_rows_of_another_type_than_the_specifications_are_refused():
    spec = ExampleSpec((), ("a", "b"), inputs=(InputSpec("left", (2,)), InputSpec("right", ())))
    x = np.zeros(4, spec.row_dtype())
    assert ArraySource(x, Y, spec).get(["1"])[0].dtype == spec.row_dtype()
    for bad in (X, x[["left"]]):
        with pytest.raises(SourceError, match=r"x must be rows of .*left.*right.*; make it with the specification's"):
            ArraySource(bad, Y, spec)
