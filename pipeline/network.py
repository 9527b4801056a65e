"""Build the torch module of an architecture from `layers_of`, in operators that the compiler differentiates."""

from typing import cast

import torch
from torch import Tensor, nn

from search.layers import INPUT, Layer


class Network(nn.Module):
    """A network of `layers_of`; parameters are called `LAYER.weight` and `LAYER.bias`, in layout order."""

    def __init__(self, layers: tuple[Layer, ...]) -> None:
        super().__init__()
        self.layers = layers
        for layer in layers:
            self._place(layer.name, _module_of(layer))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, classes] of examples [batch, channels, height, width]."""
        values = {INPUT: x}
        for layer in self.layers:
            values[layer.name] = self.get_submodule(layer.name)(*(values[name] for name in layer.inputs))
        return values[self.layers[-1].name]

    def _place(self, name: str, module: nn.Module) -> None:
        parent: nn.Module = self
        *path, last = name.split(".")
        for part in path:
            if part not in dict(parent.named_children()):
                parent.add_module(part, nn.Module())
            parent = cast(nn.Module, getattr(parent, part))
        parent.add_module(last, module)


class GroupNorm(nn.GroupNorm):
    """torch's, but for a single value a group too, whose output is the bias (arXiv:1803.08494)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [batch, channels, height, width] within each example's groups of channels."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class GlobalAverage(nn.Module):
    """Mean over positions."""

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] to [batch, channels]."""
        return x.mean((2, 3))


class Add(nn.Module):
    """A skip connection."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Elementwise."""
        return x + y


def build_module(layers: tuple[Layer, ...], seed: int = 0) -> Network:
    """The module with initial parameters drawn from `seed` (torch's own initialisation of each layer)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(layers)


def _module_of(layer: Layer) -> nn.Module:
    if layer.kind == "conv":
        return nn.Conv2d(
            layer.input_shape[0],
            layer.output_shape[0],
            layer.kernel,
            layer.stride,
            layer.kernel // 2,
            groups=layer.groups,
            bias=layer.has_bias,
        )
    if layer.kind == "group_norm":
        return GroupNorm(layer.groups, layer.output_shape[0])
    if layer.kind == "linear":
        return nn.Linear(layer.input_shape[0], layer.output_shape[0], layer.has_bias)
    plain: dict[str, type[nn.Module]] = {
        "relu": nn.ReLU,
        "hard_swish": nn.Hardswish,
        "add": Add,
        "global_average": GlobalAverage,
        "flatten": nn.Flatten,
    }
    return plain[layer.kind]()
