import numpy as np
import pytest

from device_runtime.examples.memory import ArraySource
from device_runtime.examples.source import (
    ClientSource,
    SourceError,
    SpecMismatchError,
    SpecOverrides,
    check_spec,
    given_test_ids,
    normalize,
)
from device_runtime.specs import ExampleSpec

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
