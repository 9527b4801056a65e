from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.server_optimizer import Adam, Momentum, Scale, ServerOptimizer, optimizer_of
from search.candidate import HyperParameters

FEDAVG = HyperParameters(0.1, local_steps=1)
FEDADAM = replace(FEDAVG, server_learning_rate=0.01, server_momentum=0.9, server_beta2=0.99, server_epsilon=1e-3)
NUM_ROUNDS, P = 5, 7


def course(optimizer: ServerOptimizer) -> list[np.ndarray]:
    """Parameters [P] after each of some rounds of the same updates."""
    rng = np.random.default_rng(0)
    parameters, state, course = rng.standard_normal(P).astype(np.float32), optimizer.init(P), []
    for _ in range(NUM_ROUNDS):
        state, parameters = optimizer.step(state, parameters, rng.standard_normal(P).astype(np.float32))
        course.append(parameters)
    return course


def test_plain_fedavg_adds_the_mean_update():
    optimizer = optimizer_of(FEDAVG)
    _, after = optimizer.step(optimizer.init(3), np.float32([1, 2, 3]), np.float32([0.5, 0, -1]))
    assert after.dtype == np.float32
    assert after.tolist() == [1.5, 2, 2]


@pytest.mark.parametrize("hyper", [FEDAVG, replace(FEDAVG, server_momentum=0.9), FEDADAM])
def test_a_step_leaves_its_arguments_alone_and_stays_float32(hyper):
    optimizer = optimizer_of(hyper)
    state, parameters, update = optimizer.init(P), np.ones(P, np.float32), np.full(P, 0.5, np.float32)
    after, moved = optimizer.step(state, parameters, update)
    again = optimizer.step(state, parameters, update)
    assert np.array_equal(moved, again[1])
    assert (parameters == 1).all()
    assert (update == 0.5).all()
    assert {moved.dtype, *(vector.dtype for link in after for vector in link)} == {np.dtype(np.float32)}


def test_without_momentum_fedavg_with_momentum_is_fedavg():
    plain, limit = ServerOptimizer((Scale(0.3),)), ServerOptimizer((Momentum(0.0), Scale(0.3)))
    np.testing.assert_array_equal(course(limit), course(plain))


def test_momentum_is_torch_sgd_along_the_negative_update():
    rng = np.random.default_rng(0)
    theirs = torch.nn.Parameter(torch.from_numpy(rng.standard_normal(P).astype(np.float32)))
    sgd = torch.optim.SGD([theirs], lr=0.3, momentum=0.8)
    for found in course(optimizer_of(replace(FEDAVG, server_learning_rate=0.3, server_momentum=0.8))):
        theirs.grad = torch.from_numpy(-rng.standard_normal(P).astype(np.float32))
        sgd.step()
        np.testing.assert_allclose(found, theirs.detach().numpy(), rtol=1e-5)


def test_fedadam_is_algorithm_2_written_out():
    rng = np.random.default_rng(0)
    x, m, v = rng.standard_normal(P).astype(np.float32).astype(np.float64), np.zeros(P), np.full(P, 1e-6)
    for found in course(optimizer_of(FEDADAM)):
        delta = rng.standard_normal(P).astype(np.float32)
        m = 0.9 * m + 0.1 * delta
        v = 0.99 * v + 0.01 * delta.astype(np.float64) ** 2
        x += 0.01 * m / (np.sqrt(v) + 1e-3)
        np.testing.assert_allclose(found, x, rtol=1e-5)


@pytest.mark.parametrize("hyper", [replace(FEDAVG, server_momentum=0.9), FEDADAM])
def test_what_a_round_is_not_about_stays_and_so_does_what_is_remembered_of_it(hyper):
    """Two halves in turns are two optimisers that each see their own rounds."""
    optimizer, rng = optimizer_of(hyper), np.random.default_rng(1)
    first = np.arange(P) < 3
    state, parameters = optimizer.init(P), np.zeros(P, np.float32)
    apart = {True: (optimizer.init(P), parameters), False: (optimizer.init(P), parameters)}
    for number in range(6):
        is_first = number % 2 == 0
        is_moved = first if is_first else ~first
        update = np.where(is_moved, rng.standard_normal(P), 0).astype(np.float32)
        state, parameters = optimizer.step(state, parameters, update, is_moved)
        apart[is_first] = optimizer.step(*apart[is_first], update)
    np.testing.assert_array_equal(parameters, np.where(first, apart[True][1], apart[False][1]))


def test_states_of_another_optimiser_are_refused():
    zeros = np.zeros(P, np.float32)
    with pytest.raises(ValueError, match=r"carries \[2, 0\] vectors, got \[1, 0\]"):
        optimizer_of(FEDADAM).step(optimizer_of(FEDAVG).init(P), zeros, zeros)


def test_without_memory_and_with_a_large_epsilon_fedadam_is_fedavg():
    limit = ServerOptimizer((Adam(0.0, 0.0, 1e6), Scale(0.3 * 1e6)))
    np.testing.assert_allclose(course(limit), course(ServerOptimizer((Scale(0.3),))), rtol=1e-4)


def test_without_memory_and_with_a_small_epsilon_fedadam_takes_the_signs():
    optimizer = ServerOptimizer((Adam(0.0, 0.0, 1e-12), Scale(0.5)))
    _, after = optimizer.step(optimizer.init(3), np.zeros(3, np.float32), np.float32([1e-3, -7, 0]))
    np.testing.assert_allclose(after, [0.5, -0.5, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scale(0), "learning_rate must be > 0, got 0"),
        (lambda: Momentum(1), r"momentum must be in \[0, 1\), got 1"),
        (lambda: Adam(1, 0, 1), r"momentum must be in \[0, 1\), got 1"),
        (lambda: Adam(0, 1, 1), r"beta2 must be in \[0, 1\), got 1"),
        (lambda: Adam(0, 0, 1e-60), "epsilon must be > 0 as a float32, got 1e-60"),
        (lambda: optimizer_of(replace(FEDAVG, server_epsilon=1e-3)), "FedAdam needs both .* got None and 0.001"),
    ],
)
def test_a_step_that_cannot_work_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
