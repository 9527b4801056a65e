import numpy as np
import pytest

from device_runtime.examples.memory import ArraySource
from device_runtime.examples.source import (
    ClientSource,
    SourceError,
    SpecMismatchError,
    SpecOverrides,
    check_spec,
    get_or_null,
    given_test_ids,
    normalize,
)
from device_runtime.specs import ExampleSpec, InputSpec

SPEC = ExampleSpec((2, 1, 1), ("a", "b"), colour="none", scale=0.5, mean=(1.0, 2.0), deviation=(0.5, 4.0))


def make_source() -> ArraySource:
    return ArraySource(np.arange(12, dtype=np.uint8).reshape(6, 2, 1, 1), np.array([0, 1] * 3), SPEC)


def test_raw_values_are_scaled_then_centred_then_divided_per_channel():
    x = normalize(np.array([[[[4]], [[20]]]], np.uint8), SPEC)
    assert x.dtype == np.float32
    assert x.reshape(-1).tolist() == [(4 * 0.5 - 1) / 0.5, (20 * 0.5 - 2) / 4]


def test_whole_numbers_stay_as_they_are():
    spec = ExampleSpec((3,), ("a", "b"), dtype="int64")
    assert normalize(np.array([[7, 8, 9]], np.int32), spec).dtype == np.int64


def test_overrides_replace_what_was_said_and_nothing_else():
    spec = SpecOverrides(scale=2.0, colour="grey", resize=(4, 4)).apply(SPEC)
    assert (spec.scale, spec.colour, spec.resize) == (2.0, "grey", (4, 4))
    assert (spec.mean, spec.labels, spec.shape) == (SPEC.mean, SPEC.labels, SPEC.shape)


SEVERAL = (InputSpec("ids", (2,), "int64"), InputSpec("scale", ()))


@pytest.mark.parametrize(
    "spec",
    [
        ExampleSpec((2,), ("a", "b")),
        ExampleSpec((2,), ("a", "b"), dtype="int64"),
        ExampleSpec((), ("u", "v", "w"), inputs=SEVERAL, target="values"),
    ],
    ids=["numbers", "ids", "several inputs and values"],
)
@pytest.mark.parametrize("bad", ["raises", "has another shape", "is of another type"])
def test_what_cannot_be_read_is_a_row_that_no_network_takes_beside_the_others(spec, bad):
    y = np.ones(4, np.int64) if spec.target == "class" else np.ones((4, 3), np.float32)
    whole = ArraySource(np.ones(4, spec.row_dtype()), y, spec)

    class Damaged:
        def __init__(self):
            self.spec, self.ids = spec, whole.ids

        def get(self, ids):
            x, y = whole.get(ids)
            if "2" not in ids:
                return x, y
            if bad == "raises" or len(ids) > 1:
                raise OverflowError("of a decoder, no error of ours")
            return (x[:, None], y) if bad == "has another shape" else (x, y.astype(np.int32))

    x, y = get_or_null(Damaged(), ["3", "2", "0"])
    expected_x, expected_y = whole.get(["3", "0"])
    np.testing.assert_array_equal(x[[0, 2]], expected_x)
    np.testing.assert_array_equal(y[[0, 2]], expected_y)
    assert (x.dtype, y.dtype, len(x)) == (expected_x.dtype, expected_y.dtype, 3)
    assert y[1] == -1 if spec.target == "class" else np.isnan(y[1]).all()
    np.testing.assert_array_equal(get_or_null(whole, ["1"])[0], whole.get(["1"])[0])


def test_a_clients_share_is_a_source_of_its_own_in_the_sources_order():
    client = ClientSource(make_source(), ["4", "1"])
    assert client.ids() == ("1", "4")
    assert client.spec == SPEC
    x, y = client.get(["4", "1", "4"])
    np.testing.assert_array_equal(x, make_source().get(["4", "1", "4"])[0])
    assert y.tolist() == [0, 1, 0]
    assert client.get([])[0].shape == (0, 2, 1, 1)


def test_a_share_gives_nobody_elses_examples():
    client = ClientSource(make_source(), ["1"])
    with pytest.raises(SourceError, match="example '2' belongs to another client"):
        client.get(["1", "2"])
    with pytest.raises(SourceError, match=r"the source has no example '9' \(1 unknown ids\)"):
        ClientSource(make_source(), ["1", "9"])


def test_a_share_hands_on_which_examples_its_author_set_apart():
    class Presplit(ArraySource):
        def test_ids(self):
            return frozenset({"0", "1"})

    source = Presplit(np.zeros((3, 2, 1, 1)), np.array([0, 1, 0]), SPEC)
    assert given_test_ids(ClientSource(source, ["1", "2"])) == {"1"}
    assert given_test_ids(ClientSource(make_source(), ["1", "2"])) is None


def test_a_source_for_another_network_is_refused_field_by_field():
    check_spec(SPEC, SPEC)
    other = SpecOverrides(scale=1.0, mean=(0.0,)).apply(SPEC)
    message = (
        r"scale is 0\.5, the network wants 1\.0; mean is \(1\.0, 2\.0\), the network wants \(0\.0,\): open the source"
    )
    with pytest.raises(SpecMismatchError, match=message):
        check_spec(SPEC, other)
