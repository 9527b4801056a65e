"""What federated training comes to in its limits: centralised SGD, FedAvg, no training at all."""

import numpy as np
import pytest
import torch

from device_runtime.examples import ClientSource, split_ids
from device_runtime.terms import TrainTerms
from pipeline.network import build_module
from search.layers import layers_of

LEARNING_RATE = 0.05


@pytest.fixture
def moved(emulate):
    """How far one phone's round of training moves the parameters, f32[P]."""
    names = iter("abcdef")

    def train(learning_rate=LEARNING_RATE, local_steps=6, **terms):
        run = emulate(next(names), num_phones=1)
        before = run.parameters
        run.train(1, cohort_size=1, train=TrainTerms(learning_rate, local_steps, batch_size=4, **terms))
        return run.parameters - before

    return train


def test_one_client_with_one_step_over_all_its_examples_is_centralised_sgd(emulate, kit):
    run = emulate(num_phones=1)
    module = build_module(layers_of(kit.architecture), 0)
    source = ClientSource(kit.source, kit.source.ids()[:20])
    x, y = source.get(split_ids(source, b"seed")["train"])
    run.train(1, cohort_size=1, train=TrainTerms(LEARNING_RATE, local_steps=1, batch_size=20))

    loss = torch.nn.functional.cross_entropy(module(torch.from_numpy(x)), torch.from_numpy(y))
    loss.backward()
    torch.optim.SGD(module.parameters(), LEARNING_RATE).step()
    expected = np.concatenate([value.detach().numpy().ravel() for value in module.parameters()])
    np.testing.assert_allclose(run.parameters, expected, atol=1e-6)


def test_fedprox_with_hardly_a_pull_is_fedavg_bit_for_bit(moved):
    plain = moved()
    assert plain.any()
    np.testing.assert_array_equal(moved(proximal=0.0), plain)
    np.testing.assert_array_equal(moved(proximal=1e-30), plain)
    assert (moved(proximal=1.0) != plain).any()


def test_the_harder_fedprox_pulls_the_less_a_client_moves_until_nothing_is_left(moved):
    """With learning rate 1 / proximal each step begins where the first one did: one step's length is all."""
    lengths = [np.linalg.norm(moved(1 / pull, 30, proximal=pull)) for pull in (10.0, 1e3, 1e5)]
    free = np.linalg.norm(moved(1e-3, 30))
    assert lengths[0] > lengths[1] > lengths[2]
    assert lengths[1] < 0.1 * free
    assert lengths[2] < 1e-3 * free
