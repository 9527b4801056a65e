import numpy as np
import torch
from torch import nn

from pipeline.compile.writing import flatten_parameters, one_thread


def test_parameters_are_flattened_in_the_modules_order_without_frozen_ones():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1), nn.Linear(1, 1))
    module[1].requires_grad_(False)
    expected = [*module[0].weight.flatten().tolist(), *module[0].bias.tolist(), *module[2].weight[0].tolist()]
    vector = flatten_parameters(module)
    assert vector.dtype == np.float32
    np.testing.assert_array_equal(vector, np.array([*expected, *module[2].bias.tolist()], np.float32))


def test_a_shared_parameter_is_flattened_once():
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    module[1].weight = module[0].weight
    assert flatten_parameters(module).shape == (9,)


def test_torch_gets_its_threads_back():
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
