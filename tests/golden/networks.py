"""The golden cases: small networks that together use every kind of layer, each with its loss and its inputs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from pipeline.compile.losses import Loss

BATCH = 4
SEGMENTS = {"head": "head.*"}  # patterns by name; all other parameters are the segment `weights`


@dataclass(frozen=True)
class Case:
    """One network.

    Attributes:
        inputs: Shape of one example by name (`x`, or `x.NAME` of several); of an integer input with the vocabulary.
        num_outputs: Classes, or values where the loss takes values.
        seed: Draws weights and examples; one that puts no activation on a kink.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: dict[str, tuple[tuple[int, ...], int | None]]
    num_outputs: int
    loss: Loss
    seed: int = 0

    def module(self) -> nn.Module:
        """The network, its weights drawn by numpy: torch's own initialisation may change with torch."""
        module = self.make().train()
        rng = np.random.default_rng(self.seed)
        for name, value in module.named_parameters():
            drawn = rng.standard_normal(tuple(value.shape))
            if value.ndim > 1:
                drawn *= (value.shape[0] / value.numel()) ** 0.5
            else:
                drawn = (0.0 if "bias" in name else 1.0) + 0.2 * drawn
            value.data = torch.tensor(drawn, dtype=torch.float32)
        return module

    def draw_examples(self) -> dict[str, np.ndarray]:
        """The inputs [B, ...] by name, and y."""
        rng = np.random.default_rng((self.seed, 1))
        drawn = {}
        for name, (shape, vocabulary) in self.inputs.items():
            size = (BATCH, *shape)
            drawn[name] = (
                rng.standard_normal(size).astype(np.float32)
                if vocabulary is None
                else rng.integers(0, vocabulary, size)
            )
        if self.loss.takes_classes:
            return {**drawn, "y": rng.integers(0, self.num_outputs, BATCH)}
        values = rng.uniform(0, 1, (BATCH, self.num_outputs)).astype(np.float32)
        return {**drawn, "y": values.round() if self.loss.name == "bce_with_logits" else values}

    @staticmethod
    def layout(module: nn.Module) -> dict[str, tuple[int, ...]]:
        """Shapes of what is trained, in the order of the flat vector."""
        return {name: tuple(value.shape) for name, value in module.named_parameters() if value.requires_grad}


class Chain(nn.Module):
    """A body and a linear head."""

    def __init__(self, *body: nn.Module, features: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)
        self.head = nn.Linear(features, outputs)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


class SqueezeExcite(nn.Module):
    """Scale each channel by what all channels' means say."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.down = nn.Conv2d(channels, squeezed, 1)
        self.up = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x):
        return x * nn.functional.hardsigmoid(self.up(torch.relu(self.down(self.pool(x)))))


class Residual(nn.Module):
    """What goes in plus what the layers make of it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.layers(x)


class Transformer(nn.Module):
    """Embedding, positions, one pre-norm block and a mean over positions."""

    def __init__(self, vocabulary: int, length: int, width: int, outputs: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.zeros(length, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, outputs)

    def forward(self, tokens):
        hidden = self.tokens(tokens) + self.positions
        normed = self.norm1(hidden)
        hidden = hidden + self.attention(normed, normed, normed, need_weights=False)[0]
        hidden = hidden + self.down(nn.functional.gelu(self.up(self.norm2(hidden))))
        return self.head(hidden.mean(1))


class Frozen(nn.Module):
    """A backbone that is not trained: its large weight is an input of the graphs, its small bias a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(64, 72).requires_grad_(requires_grad=False)
        self.adapter = nn.Linear(72, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(torch.sigmoid(self.adapter(torch.relu(self.backbone(x)))))


class TwoInputs(nn.Module):
    """An image and a text, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Conv2d(1, 3, 3, stride=2)
        self.text = nn.Embedding(9, 4)
        self.head = nn.Linear(16, 3)

    def forward(self, image, text):
        seen = torch.tanh(self.image(image)).flatten(1)
        return self.head(torch.cat([seen, self.text(text).mean(1)], dim=1))


class Shared(nn.Module):
    """One layer used twice, a weight tied to another layer's transpose, and a parameter that reaches no loss."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(6, 6)
        self.out = nn.Linear(6, 8)
        self.unused = nn.Parameter(torch.zeros(5))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        hidden = torch.relu(self.twice(torch.relu(self.twice(x[:, 2:]))))
        gates = torch.softmax(self.out(hidden), dim=-1)
        return self.head(nn.functional.linear(gates, self.out.weight.t()))


def _convolution() -> nn.Module:
    body = (nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Hardswish(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3))
    return Chain(*body, nn.ReLU(), features=24, outputs=5)


def _depthwise() -> nn.Module:
    stem = (nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False), nn.GroupNorm(3, 6), nn.ReLU6())
    depthwise = (nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6), nn.LeakyReLU(), nn.Conv2d(6, 6, 1))
    strided = (nn.Conv2d(6, 6, 3, stride=2, groups=3), SqueezeExcite(6, 2), nn.AdaptiveAvgPool2d(1))
    return Chain(*stem, Residual(*depthwise), *strided, features=6, outputs=4)


def _signal() -> nn.Module:
    first = (nn.Conv1d(2, 4, 5, padding=4, dilation=2), nn.InstanceNorm1d(4, affine=True), nn.SiLU(), nn.AvgPool1d(2))
    return Chain(*first, nn.Conv1d(4, 4, 3, stride=2, groups=2), nn.Tanh(), nn.RMSNorm(4), features=16, outputs=2)


CASES = (
    Case("convolution", _convolution, {"x": ((1, 8, 9), None)}, 5, Loss("cross_entropy", 0.1)),
    Case("depthwise", _depthwise, {"x": ((3, 9, 9), None)}, 4, Loss()),
    Case("signal", _signal, {"x": ((2, 19), None)}, 2, Loss("mse")),
    Case("transformer", lambda: Transformer(11, 5, 8, 3), {"x": ((5,), 11)}, 3, Loss()),
    Case("frozen", Frozen, {"x": ((64,), None)}, 4, Loss()),
    Case("two_inputs", TwoInputs, {"x.image": ((1, 5, 5), None), "x.text": ((6,), 9)}, 3, Loss("bce_with_logits")),
    Case("shared", Shared, {"x": ((8,), None)}, 3, Loss()),
)
