from dataclasses import dataclass, field, replace
from math import inf

import numpy as np
import pytest

from pipeline.compile.isolation import Isolation, half_the_median, isolate, worst_isolation
from pipeline.compile.reference import Batch
from pipeline.compile.steady_points import CertificateError

ROWS = np.dtype([("a", "float32", (2,)), ("ids", "int64", ())])


@dataclass
class Step:
    """A private step in two lines: an example's gradient is its own x; `leak` couples norms, `clip` scales the clip."""

    leak: object = None
    clip: float = 1.0
    seen: list = field(default_factory=list)

    def gradient(self, batch: Batch, max_grad_norm: float = inf) -> tuple:
        self.seen.append(batch.x)
        own = self._gradients(batch)
        norms = np.linalg.norm(own, axis=1) * batch.mask
        factors = np.minimum(1, self.clip * max_grad_norm / np.maximum(norms, 1e-30)) * batch.mask
        return factors @ own, 0.0, norms.astype(np.float32)

    def evaluate(self, batch: Batch) -> tuple:
        own = self._gradients(batch)
        return own.sum(1).astype(np.float32), own.max(1).astype(np.float32)

    def _gradients(self, batch: Batch) -> np.ndarray:
        x = batch.x
        own = x if x.dtype.names is None else np.column_stack([x["a"], x["ids"]])
        own = own.astype(np.float64) + batch.y[:, None]
        return own if self.leak is None else own + self.leak(own)


def drawn(seed: int, size: int = 4) -> Batch:
    rng = np.random.default_rng(seed)
    return Batch(rng.standard_normal((size, 3)).astype(np.float32), rng.integers(0, 3, size), np.ones(size, np.float32))


def test_examples_that_stay_on_their_own_move_the_sum_by_the_clip_norm_at_most():
    found = isolate(Step(), drawn(0), drawn(1))
    assert found.independence == 0
    assert -1 < found.replacement <= 1e-6
    assert -1 < found.removal <= 1e-6


LEAKS = {
    "from the last": lambda own: 1e-2 * own[-1:],
    "from the first": lambda own: 1e-2 * own[:1],
    "to the next": lambda own: 1e-2 * np.concatenate([np.zeros_like(own[:1]), own[:-1]]),
    "to the one before": lambda own: 1e-2 * np.concatenate([own[1:], np.zeros_like(own[:1])]),
    "from the mean": lambda own: -1e-2 * own.mean(0),
}


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS)
def test_a_value_that_reaches_another_example_is_found(leak):
    with pytest.raises(CertificateError, match=r"the compiled step's independence error is .*, above 0\.0001"):
        isolate(Step(leak), drawn(0), drawn(1))


def test_a_clip_that_is_too_loose_is_found_by_removing_an_example():
    with pytest.raises(CertificateError, match="the compiled step's removal error is"):
        isolate(Step(clip=1.01), drawn(0), drawn(1))


def test_a_clip_that_is_too_loose_is_found_by_replacing_an_example_with_its_opposite():
    batch = drawn(0)
    batch.x[:], batch.y[:] = 10, 0
    with pytest.raises(CertificateError, match=r"the compiled step's replacement error is 0\.01"):
        isolate(Step(clip=1.01), batch, replace(batch, x=-batch.x))


def test_a_nan_is_found():
    with pytest.raises(CertificateError, match="error is nan"):
        isolate(Step(lambda own: np.where(np.abs(own) > 5, np.nan, 0)), drawn(0), drawn(1))


def test_each_of_several_inputs_is_replaced_alone_and_with_the_others():
    rng, step = np.random.default_rng(0), Step()
    batches = []
    for start in (0, 100):
        x = np.zeros(3, ROWS)
        x["a"], x["ids"] = rng.standard_normal((3, 2)), np.arange(start, start + 3)
        batches.append(Batch(x, np.array([0, 1, 2]), np.ones(3, np.float32)))
    isolate(step, *batches)
    changed = {tuple(name for name in ROWS.names if not np.array_equal(x[name], batches[0].x[name])) for x in step.seen}
    assert changed == {(), ("a",), ("ids",), ("a", "ids")}
    assert all(x["ids"].max() <= 102 for x in step.seen)  # an id is not scaled


def test_a_batch_of_one_has_no_others():
    assert isolate(Step(), drawn(0, 1), drawn(1, 1)).independence == 0


def test_the_worst_is_taken_one_by_one_and_half_the_median_is_never_zero():
    assert worst_isolation([Isolation(1, 2, 3), Isolation(3, 2, 1)]) == Isolation(3, 2, 3)
    assert half_the_median(np.array([1.0, 4.0, 8.0])) == 2
    assert half_the_median(np.zeros(3)) == 1
