"""Deal a data set out to emulated clients: by Dirichlet draw, evenly, or by the owners that the data names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from device_runtime.arrays import Flags, Labels
from device_runtime.examples.source import ExampleSource, SourceError
from device_runtime.examples.splits import split_ids

MAX_DRAWS = 1000
Shares = tuple[tuple[str, ...], ...]  # one tuple of example ids a client


class PartitionError(SourceError):
    """The data cannot be dealt out so that every client gets enough training examples."""


@dataclass(frozen=True)
class DealTerms:
    """How to deal.

    Attributes:
        num_clients: Shares to make.
        min_train_examples: Each share holds at least this many examples of the training split.
        alpha: Concentration of the Dirichlet distribution: small gives each client few classes; None deals evenly.
    """

    num_clients: int
    min_train_examples: int = 1
    alpha: float | None = None

    def __post_init__(self) -> None:
        if self.num_clients < 1:
            raise ValueError(f"num_clients must be >= 1, got {self.num_clients}")
        if self.min_train_examples < 1:
            raise ValueError(f"min_train_examples must be >= 1, got {self.min_train_examples}")
        if self.alpha is not None and not self.alpha > 0:
            raise ValueError(f"alpha must be > 0, got {self.alpha}; leave it out to deal evenly")


def training_flags(source: ExampleSource, key: bytes, rotation: int = 0) -> Flags:
    """Which of `source.ids()` are in the training split, bool[n]."""
    training = frozenset(split_ids(source, key, rotation)["train"])
    return np.array([example_id in training for example_id in source.ids()], bool)


def deal(
    ids: Sequence[str], class_indices: Labels | None, is_train: Flags, terms: DealTerms, rng: np.random.Generator
) -> Shares:
    """Deal every example to one client; each share keeps the order of `ids`.

    With `alpha`, each class is dealt in proportions drawn from Dirichlet(alpha) ("Federated Learning on Non-IID Data
    Silos: An Experimental Study", arXiv:2102.02079, distribution-based label imbalance), all of it again until every
    client has enough training examples.

    Args:
        class_indices: i64[n] of `ids`; None will do where nothing is dealt by class, without `alpha`.
        is_train: bool[n], from `training_flags`.

    Raises:
        PartitionError: No draw gave every client enough.
    """
    if terms.alpha is not None and class_indices is None:
        raise ValueError(f"class_indices must be given to deal by class, alpha is {terms.alpha}")
    num_train, needed = int(is_train.sum()), terms.num_clients * terms.min_train_examples
    if num_train < needed:
        raise PartitionError(
            f"{terms.num_clients} clients with min_train_examples={terms.min_train_examples} need {needed} training "
            f"examples, the data has {num_train}: at most {num_train // terms.min_train_examples} clients can have them"
        )
    fewest = 0
    for _ in range(1 if terms.alpha is None else MAX_DRAWS):
        owners = _draw_owners(class_indices, is_train, terms, rng)
        least = int(np.bincount(owners[is_train], minlength=terms.num_clients).min())
        if least >= terms.min_train_examples:
            return _shares(ids, owners, terms.num_clients)
        fewest = max(fewest, least)
    raise PartitionError(
        f"no client partition gave every client min_train_examples={terms.min_train_examples} in {MAX_DRAWS} draws at "
        f"alpha={terms.alpha}; the best left one with {fewest}: raise alpha, lower min_train_examples or take fewer "
        f"clients than {terms.num_clients}"
    )


def deal_by_owner(
    ids: Sequence[str], owners: Mapping[str, str] | None, is_train: Flags, min_train_examples: int = 1
) -> Shares:
    """One share an owner that the data names, in the order of the owners' names.

    Raises:
        PartitionError: The data names no owners, or one owns too few training examples.
    """
    if owners is None:
        raise PartitionError("the data names no clients: add clients.csv (file,client) or the npz key client, or deal")
    names = sorted(set(owners.values()))
    index = {name: i for i, name in enumerate(names)}
    numbers = np.array([index[owners[example_id]] for example_id in ids], np.int64)
    counts = np.bincount(numbers[is_train], minlength=len(names))
    poorest = int(counts.argmin())
    if counts[poorest] < min_train_examples:
        raise PartitionError(
            f"client {names[poorest]!r} has {counts[poorest]} training examples, min_train_examples is "
            f"{min_train_examples}: give it more, leave it out of the data, or lower min_train_examples"
        )
    return _shares(ids, numbers, len(names))


def _draw_owners(class_indices: Labels | None, is_train: Flags, terms: DealTerms, rng: np.random.Generator) -> Labels:
    """A client's number for each example, i64[n]."""
    owners = np.zeros(len(is_train), np.int64)
    if terms.alpha is None or class_indices is None:
        # Training and other examples apart, so that both are even to within one.
        for part in (np.flatnonzero(is_train), np.flatnonzero(~is_train)):
            owners[rng.permutation(part)] = np.arange(len(part)) % terms.num_clients
        return owners
    for label in np.unique(class_indices):
        members = rng.permutation(np.flatnonzero(class_indices == label))
        shares = rng.dirichlet(np.full(terms.num_clients, terms.alpha))
        ends = np.round(np.cumsum(shares) * len(members)).astype(np.int64)
        owners[members] = np.minimum(
            np.searchsorted(ends, np.arange(len(members)), side="right"), terms.num_clients - 1
        )
    return owners


def _shares(ids: Sequence[str], owners: Labels, num_clients: int) -> Shares:
    shares: list[list[str]] = [[] for _ in range(num_clients)]
    for example_id, owner in zip(ids, owners, strict=True):
        shares[int(owner)].append(example_id)
    return tuple(tuple(share) for share in shares)
