"""The split into train, validation and test by keyed hash: one example more moves no other."""

import hashlib
import hmac

from device_runtime.examples.source import ExampleSource, SourceError, given_test_ids
from device_runtime.terms import Split

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
NUM_FOLDS = 5


def split_of(key: bytes, example_id: str, rotation: int = 0) -> Split:
    """Which split an example belongs to: 60% train, 20% validation, 20% test.

    Args:
        key: Secret of the data source, drawn once where the data lies; no server sets it.
        rotation: 0 to 4: which fold is for testing, so that over five emulated runs every example is tested once. Real
            clients stay at 0, or an example would be in several splits of one ledger.
    """
    return _split_of_fold(_fold(key, example_id, NUM_FOLDS), NUM_FOLDS, rotation)


def split_ids(source: ExampleSource, key: bytes, rotation: int = 0) -> dict[Split, tuple[str, ...]]:
    """The ids of each split, in the source's order.

    Where the data's author set examples apart for testing these are the test split in every rotation, and a quarter of
    the others is for validation: 60 to 20 as well.

    Raises:
        SourceError: An id comes twice. Its example would move a sum by twice the clip norm, for which no noise is.
    """
    tests, ids = given_test_ids(source), source.ids()
    if len(set(ids)) != len(ids):
        raise SourceError(
            f"ids must be distinct, got {len(ids) - len(set(ids))} more than once; name each example once"
        )
    split: dict[Split, list[str]] = {name: [] for name in SPLITS}
    for example_id in ids:
        split[_split_in(tests, key, example_id, rotation)].append(example_id)
    return {name: tuple(ids) for name, ids in split.items()}


def _split_in(tests: frozenset[str] | None, key: bytes, example_id: str, rotation: int) -> Split:
    if tests is None:
        return split_of(key, example_id, rotation)
    if example_id in tests:
        return "test"
    fold = _fold(key, example_id, NUM_FOLDS - 1)
    return "validation" if fold == rotation % (NUM_FOLDS - 1) else "train"


def _split_of_fold(fold: int, num_folds: int, rotation: int) -> Split:
    if not 0 <= rotation < num_folds:
        raise ValueError(f"rotation must be in [0, {num_folds}), got {rotation}")
    if fold == rotation:
        return "test"
    return "validation" if fold == (rotation + 1) % num_folds else "train"


def _fold(key: bytes, example_id: str, num_folds: int) -> int:
    digest = hmac.digest(key, example_id.encode(), hashlib.sha256)
    return int.from_bytes(digest[:8], "big") % num_folds
