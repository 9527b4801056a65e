"""A small supernet of torch: the softmax of two architecture weights mixes two convolutions."""

import numpy as np
import torch
from torch import nn

from device_runtime.arrays import Vector
from device_runtime.loaded import Examples


class Supernet(nn.Module):
    """From 1x4x4 to 3 classes; architecture weights of 0."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.narrow = nn.Conv2d(1, 2, 1)
        self.wide = nn.Conv2d(1, 2, 3, padding=1)
        self.head = nn.Linear(2 * 16, 3)
        self.alpha = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        shares = torch.softmax(self.alpha, 0)
        mixed = shares[0] * self.narrow(x) + shares[1] * self.wide(x)
        return self.head(torch.relu(mixed).flatten(1))

    def flat(self) -> Vector:
        """Its parameters in the layout's order, f32[P]."""
        return np.concatenate([parameter.detach().numpy().ravel() for parameter in self.parameters()])

    def weights(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter is not self.alpha]


def draw_images(num_examples: int, seed: int) -> Examples:
    """Of 1x4x4 and 3 classes."""
    rng = np.random.default_rng(seed)
    return Examples(rng.normal(size=(num_examples, 1, 4, 4)).astype(np.float32), rng.integers(0, 3, num_examples))
