"""A module for whatever a test wants to differentiate."""

import torch
from torch import nn


class Net(nn.Module):
    """A function of the examples and of layers and parameters by name."""

    def __init__(self, function, **parts) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, torch.Tensor) else part)

    def forward(self, x):
        return self.function(self, x)
