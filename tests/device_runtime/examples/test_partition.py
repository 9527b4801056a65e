import numpy as np
import pytest

from device_runtime.examples.memory import ArraySource
from device_runtime.examples.partition import DealTerms, PartitionError, deal, deal_by_owner, training_flags
from device_runtime.examples.splits import split_ids
from device_runtime.specs import ExampleSpec

KEY = b"key"
Y = np.random.default_rng(0).integers(0, 10, 1797)
IDS = tuple(map(str, range(1797)))


def make_source() -> ArraySource:
    return ArraySource(np.zeros((1797, 1)), Y, ExampleSpec((1,), tuple("0123456789")))


IS_TRAIN = training_flags(make_source(), KEY)


def deal_all(terms: DealTerms, seed: int = 0, y=Y, is_train=IS_TRAIN):
    return deal(IDS[: len(y)], y, is_train, terms, np.random.default_rng(seed))


def count_classes(share) -> np.ndarray:
    return np.bincount(Y[[int(example_id) for example_id in share]], minlength=10)


def test_training_flags_are_those_of_the_split():
    training = {example_id for example_id, is_train in zip(IDS, IS_TRAIN, strict=True) if is_train}
    assert training == set(split_ids(make_source(), KEY)["train"])


@pytest.mark.parametrize("alpha", [None, 0.5, 100.0])
@pytest.mark.parametrize("seed", range(3))
def test_every_example_goes_to_one_client_and_each_has_enough_to_train_on(alpha, seed):
    shares = deal_all(DealTerms(30, 8, alpha), seed)
    assert sorted(sum(shares, ())) == sorted(IDS)
    for share in shares:
        assert sum(IS_TRAIN[int(example_id)] for example_id in share) >= 8
        assert list(share) == sorted(share, key=int)


def test_examples_without_classes_are_dealt_evenly():
    rng = np.random.default_rng(0)
    assert deal(IDS, None, IS_TRAIN, DealTerms(30), rng) == deal_all(DealTerms(30))
    with pytest.raises(ValueError, match=r"class_indices must be given to deal by class, alpha is 0\.5"):
        deal(IDS, None, IS_TRAIN, DealTerms(30, alpha=0.5), rng)


@pytest.mark.parametrize("alpha", [None, 0.5])
def test_the_same_generator_deals_alike_and_another_otherwise(alpha):
    terms = DealTerms(30, 8, alpha)
    assert deal_all(terms, 1) == deal_all(terms, 1) != deal_all(terms, 2)


def test_a_clients_examples_of_a_class_are_drawn_from_all_of_them():
    first = [int(example_id) for example_id in deal_all(DealTerms(2, 1, 100.0))[0]]
    of_a_class = [example for example in first if Y[example] == 0]
    assert max(of_a_class) > np.flatnonzero(Y == 0)[-10]
    assert min(of_a_class) < np.flatnonzero(Y == 0)[10]


def test_a_small_alpha_gives_few_classes_and_a_large_one_gives_all():
    def mean_top_share(alpha):
        counts = [count_classes(share) for share in deal_all(DealTerms(20, 1, alpha))]
        return np.mean([count.max() / count.sum() for count in counts])

    assert mean_top_share(0.1) > 1.3 * mean_top_share(1.0)
    assert mean_top_share(1.0) > 1.3 * mean_top_share(100.0)
    assert mean_top_share(100.0) < 0.2


def test_an_even_deal_differs_by_at_most_one_in_training_and_in_other_examples():
    shares = deal_all(DealTerms(7))
    trains = [sum(IS_TRAIN[int(example_id)] for example_id in share) for share in shares]
    others = [len(share) - train for share, train in zip(shares, trains, strict=True)]
    assert max(trains) - min(trains) <= 1
    assert max(others) - min(others) <= 1
    assert all((count_classes(share) > 5).all() for share in shares)


def test_owners_that_the_data_names_get_their_own():
    owners = {"0": "bob", "1": "ann", "2": "bob", "3": "cleo"}
    is_train = np.array([True, True, False, True])
    assert deal_by_owner(IDS[:4], owners, is_train) == (("1",), ("0", "2"), ("3",))
    with pytest.raises(
        PartitionError, match="client 'ann' has 1 training examples, min_train_examples is 2: give it more"
    ):
        deal_by_owner(IDS[:4], owners, is_train, min_train_examples=2)
    with pytest.raises(PartitionError, match="client 'bob' has 0 training examples"):
        deal_by_owner(IDS[:4], owners, np.array([False, True, False, True]))
    with pytest.raises(PartitionError, match="the data names no clients: add clients"):
        deal_by_owner(IDS[:4], None, is_train)


def test_more_clients_than_the_data_can_feed_is_refused_at_once():
    message = (
        rf"200 clients with min_train_examples=8 need 1600 training examples, the data has {IS_TRAIN.sum()}: at most"
    )
    with pytest.raises(PartitionError, match=message):
        deal_all(DealTerms(200, 8, 0.5))


def test_an_unlikely_partition_gives_up_and_names_the_cure(monkeypatch):
    monkeypatch.setattr("device_runtime.examples.partition.MAX_DRAWS", 5)
    message = (
        r"in 5 draws at alpha=0\.01; the best left one with 0: raise alpha, lower min_train_examples or take fewer"
    )
    with pytest.raises(PartitionError, match=message):
        deal_all(DealTerms(30, 8, 0.01))


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ((0,), "num_clients must be >= 1, got 0"),
        ((1, 0), "min_train_examples must be >= 1, got 0"),
        ((1, 1, 0.0), "alpha must be > 0, got 0.0; leave it out to deal evenly"),
    ],
)
def test_terms_that_make_no_sense_are_refused(terms, message):
    with pytest.raises(ValueError, match=message):
        DealTerms(*terms)
