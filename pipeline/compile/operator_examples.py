"""A small network around one layer, for the operator table and the tests that go with it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

BATCH_SIZE = 3
Layer = Callable[[Tensor], Tensor]
SHAPES: dict[str, tuple[int, ...]] = {"image": (1, 6, 5), "series": (2, 9), "tokens": (5, 3)}


@dataclass(frozen=True)
class Example:
    """A network of one stem with weights, the layer, and a linear layer over all that comes out.

    Attributes:
        make: The layer: a module, or a function of the hidden value.
        kind: What the layer sees: `image` [B, 4, 6, 5], `series` [B, 4, 9] or `tokens` [B, 5, 8].
    """

    make: Callable[[], nn.Module | Layer]
    kind: str = "image"

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Of a batch."""
        return (BATCH_SIZE, *SHAPES[self.kind])

    def network(self) -> nn.Module:
        """The network, with the same parameters every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _Network(self)


class _Network(nn.Module):
    def __init__(self, example: Example) -> None:
        super().__init__()
        stems: dict[str, Callable[[], nn.Module]] = {
            "image": lambda: nn.Conv2d(1, 4, 3, padding=1),
            "series": lambda: nn.Conv1d(2, 4, 3, padding=1),
            "tokens": lambda: nn.Linear(3, 8),
        }
        self.stem = stems[example.kind]()
        made = example.make()
        self.layer = made if isinstance(made, nn.Module) else _Function(made)
        with torch.no_grad():
            size = self.layer(self.stem(torch.randn(example.x_shape))).flatten(1).shape[1]
        self.classifier = nn.Linear(size, 3)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.classifier(self.layer(self.stem(x)).flatten(1)))


class _Function(nn.Module):
    def __init__(self, function: Layer) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class LookUp(nn.Module):
    """An embedding of numbers that are made from the hidden value, which itself is passed on."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(2, 8)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 5, 8] to the same."""
        return cast(Tensor, x + self.table((x.sum(2) > 0).long()))


class SelfAttention(nn.Module):
    """nn.MultiheadAttention of a value with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 5, 8] to the same."""
        return cast(Tensor, self.attention(x, x, x, need_weights=False)[0])


class SqueezeAndExcite(nn.Module):
    """Channels scaled by what their averages say (arXiv:1709.01507)."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 4, 6, 5] to the same."""
        average = nn.functional.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.excite(torch.relu(self.squeeze(average))))


class Recurrent(nn.Module):
    """nn.GRU, all of its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 5, 8] to the same."""
        return cast(Tensor, self.gru(x)[0])
