from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.compile.extremes import FINITE, LEFT_OUT, check_all_masked, check_clip, check_huge, check_zeros
from pipeline.compile.reference import Batch, Reference
from pipeline.compile.steady_points import CertificateError

BATCH = Batch(np.ones((3, 2), np.float32), np.zeros(3, np.int64), np.array([0, 1, 1], np.float32))


@dataclass(frozen=True)
class Step:
    """Of a graph: norms [B] as a function of x and mask; of a session: the sum of x of the examples that are finite."""

    norms: object
    touches_others: bool = False
    parameters: None = None

    def bare_outputs(self, batch: Batch) -> dict:
        norms = np.asarray(self.norms(batch.x, batch.mask), np.float32)
        return {"gradient_sum": norms.sum()[None], "norms": norms}

    def gradient(self, batch: Batch, _max_grad_norm: float) -> tuple:
        is_kept = np.isfinite(self.norms(batch.x, batch.mask)) & (batch.mask > 0)
        total = batch.x[is_kept].sum(0)
        return (total * 2 if self.touches_others and (batch.x == 0).any() and batch.mask.all() else total), 0.0, None


@dataclass(frozen=True)
class Torch:
    norm: float
    manifest: object = field(default_factory=lambda: SimpleNamespace(num_ids={}))

    def reference(self, _parameters: None, batch: Batch) -> Reference:
        return Reference(np.ones(len(batch.y)), np.ones(len(batch.y)), np.full((len(batch.y), 1), self.norm))


def size(x, mask):
    return np.abs(x).sum(1) * mask


def one_over(x, mask):
    with np.errstate(divide="ignore"):
        return np.where(mask, 1 / np.abs(x).sum(1), 0)


def test_huge_inputs_have_to_be_finite():
    check_huge(Step(size), BATCH)
    with pytest.raises(CertificateError, match=r"step's gradient_sum, norms are not finite on inputs scaled by 10000"):
        check_huge(Step(lambda x, mask: np.where(size(x, mask) > 1e4, np.nan, 1)), BATCH)


@pytest.mark.parametrize("norms", [lambda x, _: size(x, 1), lambda x, _: np.where(size(x, 1) == 0, np.nan, 0)])
def test_masked_examples_have_to_be_exact_zeros_whatever_they_hold(norms):
    check_all_masked(Step(size), BATCH, FINITE)
    with pytest.raises(CertificateError, match="norms are not exactly zero when all examples are masked"):
        check_all_masked(Step(norms), BATCH, FINITE)


def test_masked_zeros_decide_nothing_where_zeros_are_left_out():
    check_all_masked(Step(lambda x, _: np.where(size(x, 1) == 0, np.nan, 0)), BATCH, LEFT_OUT)
    with pytest.raises(CertificateError, match="norms are not exactly zero"):
        check_all_masked(Step(lambda x, _: size(x, 1)), BATCH, LEFT_OUT)


def test_zeros_are_finite_or_left_out_where_torch_is_not_finite_either():
    assert check_zeros(Step(size), Torch(1.0), BATCH) == FINITE
    assert check_zeros(Step(one_over), Torch(1e30), BATCH) == LEFT_OUT
    assert check_zeros(Step(one_over), Torch(np.nan), BATCH) == LEFT_OUT
    with pytest.raises(CertificateError, match=r"not finite on inputs of zeros, where torch in float32 is; .* a root"):
        check_zeros(Step(one_over), Torch(1e18), BATCH)


ROWS = np.dtype([("ids", "int64", (2,)), ("other", "int64", ()), ("numbers", "float32", ())])


@pytest.mark.parametrize(
    ("x", "num_ids", "expected"),
    [
        (np.full((3, 2), 5), {"x": 9}, np.zeros((3, 2))),
        (np.full((3, 2), 5), {}, np.full((3, 2), 5)),  # who knows whether 0 is one
        (np.array([([5, 5], 5, 5.0)] * 3, ROWS), {"x.ids": 9}, np.array([([0, 0], 5, 0.0)] * 3, ROWS)),
    ],
)
def test_ids_are_zero_where_a_table_has_it(x, num_ids, expected):
    seen = []

    def norms(x, _mask):
        seen.append(x)
        return np.zeros(len(x))

    before = x.copy()
    check_zeros(Step(norms), Torch(1.0, SimpleNamespace(num_ids=num_ids)), replace(BATCH, x=x))
    np.testing.assert_array_equal(seen[0], expected)
    np.testing.assert_array_equal(x, before)


def test_an_example_that_is_left_out_must_not_touch_the_others():
    with pytest.raises(CertificateError, match="examples of zeros, which are not finite, change the sum of the others"):
        check_zeros(Step(one_over, touches_others=True), Torch(np.inf), BATCH)


@dataclass(frozen=True)
class Clipping:
    """A private step whose norms are those of x times `share`, less where x is moved than where it is scaled."""

    share: object = None

    def gradient(self, batch: Batch, max_grad_norm: float = np.inf) -> tuple:
        own = batch.x.astype(np.float64)
        norms = np.linalg.norm(own, axis=1) * (1 if self.share is None else self.share(own))
        with np.errstate(divide="ignore"):
            factors = np.minimum(1, max_grad_norm / norms)
        return (factors * batch.mask) @ own, 0.0, norms * batch.mask


@pytest.mark.parametrize(
    "share",
    [
        lambda x: 1 - 2e-4 * np.isclose(x, 101).all(1),  # of ones, moved by 100
        lambda x: 1 - 2e-4 * (np.abs(x).max(1) > 5e3),
        lambda x: 1 - 2e-4 * (np.isclose(x, 162, atol=0.1) & (x != 162)).all(1),  # nearly constant
        lambda x: 1 - 2e-4 * (x == np.float32(162) / np.float32(255)).all(1),  # flat pixels
        lambda x: 1 - (x[:, 0] != x[:, 1]),  # said to have no gradient
        lambda x: np.where(x[:, 0] == 1e4, np.nan, 1),
    ],
)
def test_one_example_alone_has_to_stay_within_its_clip_wherever_it_is(share):
    check_clip(Clipping(), BATCH)
    with pytest.raises(
        CertificateError, match=r"one example alone, far from zero, gives a sum of norm .* at clip norm"
    ):
        check_clip(Clipping(share), BATCH)


def test_ids_are_not_moved():
    ids = Batch(np.arange(6).reshape(3, 2), np.zeros(3, np.int64), np.ones(3, np.float32))
    seen = []

    class Step(Clipping):
        def gradient(self, batch: Batch, max_grad_norm: float = np.inf) -> tuple:
            seen.append(batch.x)
            return super().gradient(batch, max_grad_norm)

    check_clip(Step(), ids)
    assert {tuple(row) for x in seen for row in x} == {tuple(row) for row in ids.x}
