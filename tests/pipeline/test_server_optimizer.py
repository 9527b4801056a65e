import numpy as np
import pytest
import torch

from pipeline.server_optimizer import FedAvgM


def test_learning_rate_one_without_momentum_adds_the_mean_update():
    optimizer = FedAvgM()
    _, after = optimizer.step(optimizer.init(3), np.float32([1, 2, 3]), np.float32([0.5, 0, -1]))
    assert after.dtype == np.float32
    assert after.tolist() == [1.5, 2, 2]


def test_momentum_is_torch_sgd_along_the_negative_update():
    rng = np.random.default_rng(0)
    parameters = rng.standard_normal(5).astype(np.float32)
    theirs = torch.nn.Parameter(torch.from_numpy(parameters.copy()))
    sgd = torch.optim.SGD([theirs], lr=0.3, momentum=0.8)
    optimizer = FedAvgM(0.3, 0.8)
    state = optimizer.init(5)
    for _ in range(4):
        update = rng.standard_normal(5).astype(np.float32)
        theirs.grad = torch.from_numpy(-update)
        sgd.step()
        state, parameters = optimizer.step(state, parameters, update)
    np.testing.assert_allclose(parameters, theirs.detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize(("learning_rate", "momentum", "name"), [(0, 0, "learning_rate"), (1, 1, "momentum")])
def test_a_step_that_cannot_work_is_refused(learning_rate, momentum, name):
    with pytest.raises(ValueError, match=name):
        FedAvgM(learning_rate, momentum)
