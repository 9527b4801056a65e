import numpy as np
import pytest
import torch
from torch import nn

from device_runtime.specs import ExampleSpec, LayoutEntry, Manifest
from pipeline.compile.comparison import example_errors
from pipeline.compile.reference import torch_step
from pipeline.compile.steady_points import LIMIT, CertificateError, Point, SteadyPoints

BATCH_SIZE = 4


class Kinked(nn.Module):
    """A ReLU of x0 + x1 - weight, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor([1.0]))
        self.head = nn.Linear(1, 2)
        self.head.weight = nn.Parameter(torch.tensor([[0.5], [-0.5]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(x[:, :1] + x[:, 1:] - self.threshold))


def steady_with(sample, seed: int = 0) -> SteadyPoints:
    module = Kinked()
    entries, offset = [], 0
    for name, value in module.named_parameters():
        entries.append(LayoutEntry(name, tuple(value.shape), offset, "weights"))
        offset += value.numel()
    spec = ExampleSpec((2,), ("a", "b"))
    manifest = Manifest(
        {}, "", spec, "cross_entropy", tuple(entries), ("weights",), BATCH_SIZE, offset, (), (), 17, "1.12", "", "", {}
    )
    parameters = np.concatenate([value.detach().numpy().ravel() for value in module.parameters()])
    double, single = (torch_step(module, manifest, dtype) for dtype in (np.float64, np.float32))
    return SteadyPoints(double, single, parameters, sample, np.random.default_rng(seed))


def sampler(*first):
    """Rows [n, 2]: the first coordinate of the first examples as given, the rest far from the kink."""
    ahead = list(first)

    def sample(rng: np.random.Generator, num_examples: int) -> np.ndarray:
        x = rng.uniform(2, 3, (num_examples, 2)).astype(np.float32)
        for i in range(num_examples):
            if ahead:
                x[i] = ahead.pop(0)
        return x

    return sample


LOST = (1.0, 2.0**-25)  # above the kink in float64; in float32 the sum is 1, on it
NEAR = (1.0, 2.0**-23)  # above the kink in both, by one unit in the last place


def test_an_example_that_float32_puts_on_the_other_side_is_set_aside_and_replaced():
    steady = steady_with(sampler((2, 2), LOST, (3, 2)))
    point = steady.draw()
    assert len(point.batch.y) == len(point.float32) == len(point.truth.losses) == BATCH_SIZE
    assert LOST not in {tuple(row) for row in point.batch.x}
    assert (steady.num_unsteady, steady.num_steady, steady.num_failed) == (1, BATCH_SIZE, 0)
    assert point.float32.max() <= LIMIT
    truth = steady.double.reference(steady.parameters, point.batch)  # rows stay with their truth
    assert not example_errors(point.truth, truth).any()
    assert 0 < point.batch.mask.sum() < BATCH_SIZE


def norms_of(point: Point, row: tuple[float, float], error: float) -> np.ndarray:
    """The true norms, but for that of the examples that are the row."""
    is_row = (point.batch.x == np.float32(row)).all(axis=1)
    return (point.truth.norms * np.where(is_row, 1 + error, 1)).astype(np.float32)


@pytest.mark.parametrize("error", [0.0, 0.1])
def test_an_example_next_to_a_kink_is_only_set_aside_after_the_step_failed(error):
    steady = steady_with(sampler((2, 2), NEAR))
    point = steady.draw()
    assert (point.batch.x[1] == NEAR).all()
    redrawn = steady.redraw(point, norms_of(point, NEAR, error))
    assert not (redrawn.batch.x == np.float32(NEAR)).all(axis=1).any()
    assert len(redrawn.batch.y) == BATCH_SIZE
    assert steady.num_failed == 1
    np.testing.assert_array_equal(redrawn.batch.x[:3], point.batch.x[[0, 2, 3]])


def test_a_step_that_fails_far_from_any_kink_has_no_excuse():
    steady = steady_with(sampler())
    point = steady.draw()
    assert steady.redraw(point, point.truth.norms) is None
    assert (steady.num_unsteady, steady.num_failed) == (0, 0)


def test_a_kink_in_one_example_is_no_excuse_for_another():
    steady = steady_with(sampler((2, 2), NEAR))
    point = steady.draw()
    assert steady.redraw(point, norms_of(point, (2, 2), 0.1)) is None
    assert steady.redraw(point, norms_of(point, NEAR, 0.1) + norms_of(point, (2, 2), 0.1)) is None
    assert steady.redraw(point, norms_of(point, NEAR, np.nan)) is not None


def test_a_network_without_a_steady_example_is_refused_by_its_parameter():
    steady = steady_with(lambda _, num_examples: np.tile(np.float32(LOST), (num_examples, 1)))
    with pytest.raises(
        CertificateError,
        match=r"leaves float64 by more than 1e-05 .* on 24 of 24 examples, .* gradient of 'threshold' is the first",
    ):
        steady.draw()


def test_a_step_that_fails_next_to_kinks_time_and_again_is_refused():
    steady = steady_with(lambda _, num_examples: np.tile(np.float32(NEAR), (num_examples, 1)))
    point = steady.draw()

    def fail_on() -> None:
        nonlocal point
        for _ in range(100):
            point = steady.redraw(point, norms_of(point, NEAR, 0.1))

    with pytest.raises(CertificateError, match=r"on 2\d of \d+ examples, so nothing is certified"):
        fail_on()


def test_equal_seeds_choose_equal_examples():
    first, second = (steady_with(sampler(LOST)).draw() for _ in range(2))
    np.testing.assert_array_equal(first.batch.x, second.batch.x)
    np.testing.assert_array_equal(first.batch.mask, second.batch.mask)
