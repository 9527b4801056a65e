import hashlib
import hmac
from collections import Counter

import numpy as np
import pytest

from device_runtime.examples.memory import ArraySource
from device_runtime.examples.source import ClientSource, SourceError
from device_runtime.examples.splits import split_ids, split_of
from device_runtime.specs import ExampleSpec

KEY = b"key of one phone"


def make_source(num_examples: int) -> ArraySource:
    y = np.arange(num_examples) % 2
    return ArraySource(np.zeros((num_examples, 1)), y, ExampleSpec((1,), ("a", "b")))


def test_the_fold_is_the_first_eight_bytes_of_the_hash_modulo_five():
    names = {0: "test", 1: "validation", 2: "train", 3: "train", 4: "train"}
    for example_id in ("0", "cat/1.png", "größe/ü.jpg"):
        digest = hmac.new(KEY, example_id.encode("utf-8"), hashlib.sha256).digest()
        assert split_of(KEY, example_id) == names[int.from_bytes(digest[:8], "big") % 5]


def test_shares_are_sixty_twenty_twenty():
    counts = Counter(split_of(KEY, str(i)) for i in range(5000))
    assert counts["train"] == pytest.approx(3000, abs=150)
    assert counts["validation"] == pytest.approx(1000, abs=120)
    assert counts["test"] == pytest.approx(1000, abs=120)


def test_one_example_more_moves_no_other_and_every_example_is_in_one_split():
    before, after = split_ids(make_source(99), KEY), split_ids(make_source(100), KEY)
    for name, ids in before.items():
        assert set(ids) <= set(after[name])
    assert sorted(sum(after.values(), ())) == sorted(map(str, range(100)))
    assert list(after["train"]) == sorted(after["train"], key=int)


def test_five_rotations_test_and_validate_every_example_once():
    rotations = [split_ids(make_source(200), KEY, rotation) for rotation in range(5)]
    for name, times in (("test", 1), ("validation", 1), ("train", 3)):
        counts = Counter(example_id for split in rotations for example_id in split[name])
        assert set(counts.values()) == {times}
        assert len(counts) == 200


def test_an_example_that_would_count_twice_is_refused():
    class Repeating(ArraySource):
        def ids(self):
            return (*super().ids(), "3")

    source = Repeating(np.zeros((9, 1)), np.arange(9) % 2, ExampleSpec((1,), ("a", "b")))
    with pytest.raises(SourceError, match="ids must be distinct, got 1 more than once"):
        split_ids(source, KEY)


def test_another_key_splits_otherwise():
    assert split_ids(make_source(100), KEY) != split_ids(make_source(100), b"another")


def test_a_share_is_split_like_the_whole():
    whole = split_ids(make_source(100), KEY)
    share = split_ids(ClientSource(make_source(100), map(str, range(40))), KEY)
    for name, ids in share.items():
        assert ids == tuple(example_id for example_id in whole[name] if int(example_id) < 40)


def test_examples_set_apart_for_testing_are_the_test_split_in_every_rotation():
    class Presplit(ArraySource):
        def test_ids(self):
            return frozenset(map(str, range(50)))

    y = np.arange(450) % 2
    source = Presplit(np.zeros((450, 1)), y, ExampleSpec((1,), ("a", "b")))
    validated = [split_ids(source, KEY, rotation)["validation"] for rotation in range(4)]
    assert len(set(sum(validated, ()))) == 400
    for rotation in range(5):
        split = split_ids(source, KEY, rotation)
        assert set(split["test"]) == set(map(str, range(50)))
        assert len(split["validation"]) == pytest.approx(100, abs=30)
        assert len(split["train"]) + len(split["validation"]) == 400


@pytest.mark.parametrize("rotation", [-1, 5])
def test_a_rotation_that_does_not_exist_is_refused(rotation):
    with pytest.raises(ValueError, match=rf"rotation must be in \[0, 5\), got {rotation}"):
        split_of(KEY, "0", rotation)
