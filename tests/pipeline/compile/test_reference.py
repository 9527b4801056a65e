from math import inf

import numpy as np
import pytest
import torch
from torch import nn

from device_runtime.specs import ExampleSpec, Manifest
from pipeline.compile.reference import Batch, Reference, draw_batch, reference_of

GRADIENTS = np.array([[3.0, 4.0], [0.0, 0.0], [0.3, 0.4]])
REFERENCE = Reference(np.array([1.0, 2.0, 3.0]), GRADIENTS)
EVERYBODY = np.ones(3, np.float32)


def manifest(batch_size: int) -> Manifest:
    spec = ExampleSpec((1, 2, 2), ("a", "b", "c"))
    return Manifest({}, "", spec, "cross_entropy", (), ("weights",), batch_size, 0, (), (), 17, "1.12", "", "", {})


@pytest.mark.parametrize(
    ("max_grad_norm", "mask", "factors"),
    [
        (1.0, [1, 1, 1], [0.2, 1, 1]),
        (0.25, [1, 1, 1], [0.05, 1, 0.5]),
        (inf, [1, 1, 1], [1, 1, 1]),
        (1.0, [0, 1, 0], [0, 1, 0]),
    ],
)
def test_factors_are_those_of_the_design(max_grad_norm, mask, factors):
    np.testing.assert_allclose(REFERENCE.factors(np.array(mask, np.float32), max_grad_norm), factors)


@pytest.mark.parametrize("batch_size", [1, 2, 10])
def test_every_batch_has_masked_examples_and_can_be_unmasked(batch_size):
    batch = draw_batch(manifest(batch_size), np.random.default_rng(0))
    assert batch.x.shape == (batch_size, 1, 2, 2)
    assert 0 < (batch.mask == 0).sum() <= max(1, 0.4 * batch_size)
    assert set(batch.y) <= {0, 1, 2}
    assert (batch.unmasked().mask == 1).all()
    np.testing.assert_array_equal(batch.unmasked().x, batch.x)


def test_the_reference_is_the_closed_form_of_softmax_regression():
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((3, 4)).astype(np.float32), rng.standard_normal(3).astype(np.float32)
    batch = Batch(rng.standard_normal((5, 1, 2, 2)).astype(np.float32), rng.integers(0, 3, 5), np.ones(5, np.float32))
    found = reference_of(module, np.concatenate([weight.ravel(), bias]), batch)
    rows = batch.x.reshape(5, 4).astype(np.float64)
    logits = rows @ weight.T.astype(np.float64) + bias
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    residual = shares - np.eye(3)[batch.y]
    expected = np.concatenate([(residual[:, :, None] * rows[:, None, :]).reshape(5, 12), residual], axis=1)
    np.testing.assert_allclose(found.losses, -np.log(shares[np.arange(5), batch.y]), rtol=1e-12)
    np.testing.assert_allclose(found.gradients, expected, rtol=1e-12, atol=1e-15)
    single = reference_of(module, np.concatenate([weight.ravel(), bias]), batch, np.float32)
    assert 0 < np.abs(single.gradients - expected).max() < 1e-6


def test_a_parameter_that_torch_cuts_off_has_a_zero_gradient():
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.second(self.first(x.flatten(1)).detach())

    module = Detached()
    vector = torch.cat([value.detach().reshape(-1) for value in module.parameters()]).numpy()
    batch = draw_batch(manifest(2), np.random.default_rng(0))
    gradients = reference_of(module, vector, batch).gradients
    assert not gradients[:, :20].any()
    assert gradients[:, 20:].any()
