"""Build the torch module of an architecture from `layers_of`, in operators that the compiler differentiates."""

from functools import reduce
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
    """A skip connection, or a node of a cell."""

    def forward(self, *values: Tensor) -> Tensor:
        """Elementwise, of two or more."""
        return reduce(torch.add, values)


class Concatenate(nn.Module):
    """The output of a cell."""

    def forward(self, *values: Tensor) -> Tensor:
        """[batch, channels, height, width] each, to all their channels in order."""
        return torch.cat(values, 1)


class Choice(nn.Module):
    """Architecture weights of an edge, all alike at first ("DARTS", arXiv:1806.09055)."""

    def __init__(self, num_operations: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_operations))

    def forward(self) -> Tensor:
        """The share [operations] of each operation."""
        return torch.softmax(self.weight, 0)


class Mix(nn.Module):
    """The operations of an edge, each times its share (arXiv:1806.09055, equation 2)."""

    def __init__(self, places: tuple[int, ...]) -> None:
        """Make it; `places` are the inputs' in the shares, of which `none` has one and gives nothing."""
        super().__init__()
        self.places = places

    def forward(self, *inputs: Tensor) -> Tensor:
        """Sum of all inputs but the last, which holds the shares."""
        *values, shares = inputs
        return reduce(torch.add, (shares[place] * value for place, value in zip(self.places, values, strict=True)))


def build_module(layers: tuple[Layer, ...], seed: int = 0) -> Network:
    """The module with initial parameters drawn from `seed` (torch's own initialisation of each layer)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(layers)


def _module_of(layer: Layer) -> nn.Module:
    window = layer.kernel, layer.stride, layer.dilation * (layer.kernel // 2)
    if layer.kind == "conv":
        channels = layer.input_shape[0], layer.output_shape[0]
        return nn.Conv2d(*channels, *window, layer.dilation, layer.groups, layer.has_bias)
    if layer.kind == "max_pool":
        return nn.MaxPool2d(*window)
    if layer.kind == "average_pool":
        return nn.AvgPool2d(*window, count_include_pad=False)
    if layer.kind == "group_norm":
        return GroupNorm(layer.groups, layer.output_shape[0])
    if layer.kind == "linear":
        return nn.Linear(layer.input_shape[0], layer.output_shape[0], layer.has_bias)
    if layer.kind == "choice":
        return Choice(len(layer.operations))
    if layer.kind == "mix":
        return Mix(tuple(i for i, operation in enumerate(layer.operations) if operation != "none"))
    plain: dict[str, type[nn.Module]] = {
        "relu": nn.ReLU,
        "hard_swish": nn.Hardswish,
        "identity": nn.Identity,
        "add": Add,
        "concat": Concatenate,
        "global_average": GlobalAverage,
        "flatten": nn.Flatten,
    }
    return plain[layer.kind]()
