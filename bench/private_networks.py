"""The five networks of the private step's bench: plain torch modules of the kinds that phones run."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

NUM_TOKENS = 64
VOCABULARY = 1000
EXPANSION = 6  # of MobileNetV2's inverted residuals


@dataclass(frozen=True)
class BenchNetwork:
    """One network.

    Attributes:
        make: The module.
        shape: Of one example.
        num_tokens: Example values are token numbers below this; 0 where they are real.
        bar: Most that our step may cost, over ORT Training's ordinary one, at batch 32.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    num_classes: int
    bar: float
    num_tokens: int = 0


def lenet5() -> nn.Module:
    """LeNet-5 for 28x28 with ReLU and max pooling ("Gradient-based learning applied to document recognition")."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def ds_cnn() -> nn.Module:
    """DS-CNN for keyword spotting on 49x10 features, the size of MLPerf Tiny (arXiv:1711.07128), GroupNorm."""
    layers: list[nn.Module] = [nn.Conv2d(1, 64, (10, 4), 2, (5, 1), bias=False), *_normed(64, nn.ReLU())]
    for _ in range(4):
        layers += [nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False), *_normed(64, nn.ReLU())]
        layers += [nn.Conv2d(64, 64, 1, bias=False), *_normed(64, nn.ReLU())]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 12))


def resnet8() -> nn.Module:
    """ResNet-8 for 32x32, the size of MLPerf Tiny (arXiv:1512.03385), GroupNorm."""
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), *_normed(16, nn.ReLU()))
    blocks = (_ResidualBlock(16, 16, 1), _ResidualBlock(16, 32, 2), _ResidualBlock(32, 64, 2))
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 (arXiv:1801.04381) for 32x32: ten inverted residuals, GroupNorm, ReLU6."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False), *_normed(16, nn.ReLU6())]
    inputs = 16
    for outputs, count, stride in ((24, 2, 2), (32, 3, 2), (64, 3, 2), (96, 2, 1)):
        for i in range(count):
            layers.append(_InvertedResidual(inputs, outputs, stride if i == 0 else 1))
            inputs = outputs
    layers += [nn.Conv2d(inputs, 256, 1, bias=False), *_normed(256, nn.ReLU6())]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))


def transformer() -> nn.Module:
    """A classifier of 64 tokens: four pre-norm encoder layers of width 96 with 4 heads (arXiv:2002.04745)."""
    return _Transformer(width=96, heads=4, depth=4, num_classes=8)


class _ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), *_normed(outputs, nn.ReLU())),
            *(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), *_normed(outputs)),
        )
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), *_normed(outputs))
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        summed: Tensor = self.activation(self.body(x) + self.skip(x))
        return summed


class _InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = EXPANSION * inputs
        self.body = nn.Sequential(
            *(nn.Conv2d(inputs, wide, 1, bias=False), *_normed(wide, nn.ReLU6())),
            *(nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), *_normed(wide, nn.ReLU6())),
            *(nn.Conv2d(wide, outputs, 1, bias=False), *_normed(outputs)),
        )
        self.has_skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.body(x)
        return x + inner if self.has_skip else inner


class _Transformer(nn.Module):
    def __init__(self, width: int, heads: int, depth: int, num_classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.register_buffer("positions", _sinusoids(NUM_TOKENS, width))
        self.layers = nn.Sequential(*(_EncoderLayer(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.norm(self.layers(self.embedding(tokens) + self.positions))
        logits: Tensor = self.classifier(hidden.mean(1))
        return logits


class _EncoderLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        normal = self.norm(x)
        query, key, value = (self._split(layer(normal)) for layer in (self.query, self.key, self.value))
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        x = x + self.output(attended.transpose(1, 2).flatten(2))
        fed: Tensor = x + self.feed(x)
        return fed

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


def _normed(channels: int, *activation: nn.Module) -> tuple[nn.Module, ...]:
    return nn.GroupNorm(channels // 8, channels), *activation


def _sinusoids(length: int, width: int) -> Tensor:
    """Positional encoding [length, width] of arXiv:1706.03762, section 3.5."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), 2).reshape(length, width)


NETWORKS: dict[str, BenchNetwork] = {
    "lenet5": BenchNetwork(lenet5, (1, 28, 28), 10, bar=1.15),
    "mobilenet_v2": BenchNetwork(mobilenet_v2, (3, 32, 32), 10, bar=1.25),
    "resnet8": BenchNetwork(resnet8, (3, 32, 32), 10, bar=1.25),
    "ds_cnn": BenchNetwork(ds_cnn, (1, 49, 10), 12, bar=1.15),
    "transformer": BenchNetwork(transformer, (NUM_TOKENS,), 8, bar=1.5, num_tokens=VOCABULARY),
}
