"""Weights of a smaller network out of a larger one's: which filters stay, and where its values lie in the larger one.

Both networks have the same blocks in the same places; the smaller one may have narrower stems and stages, fewer blocks
in a stage, smaller kernels, of which the middle stays, and in a cell fewer edges and operations, of which architecture
weights stay by name. Who shrinks decides which filters stay: the ones with the largest L2 norm (FedNAS,
arXiv:2002.06352), or the first ones, in which case networks of all sizes share weights (ordered slices: "HeteroFL",
arXiv:2010.01264).
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from search.architecture import Architecture
from search.layers import INPUT, Layer, layers_of

Keep = Literal["strongest", "first"]
Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
_MIXING = frozenset({"conv", "linear", "concat", "choice"})  # others have the channels of what they read


class SlicingError(ValueError):
    """A network is no part of the other; the message names the layer."""


def is_part(large: Architecture, small: Architecture) -> bool:
    """Whether the weights of `small` can be cut out of those of `large`."""
    try:
        return all(_pairs(large, small))
    except SlicingError:
        return False


def inherit(large: Architecture, parameters: Floats, small: Architecture, keep: Keep) -> Floats:
    """Parameters f32[P] of `small` out of those of `large`, in layout order.

    Raises:
        SlicingError: When `small` is no part of `large`.
    """
    return parameters[places(large, small, keep, parameters)]


def places(large: Architecture, small: Architecture, keep: Keep, parameters: Floats | None = None) -> Indices:
    """Where each parameter of `small` lies in the vector of `large`: int64[P of small].

    Args:
        parameters: Of `large`, f32[P]; only `keep = "strongest"` reads them.

    Raises:
        SlicingError: When `small` is no part of `large`.
    """
    slicing = _Slicing(large, small, keep, parameters)
    return np.concatenate([index.ravel() for index in slicing.parameter_places()] or [np.empty(0, np.int64)])


@dataclass
class _Slicing:
    """Walks both networks at once and knows which channels of every layer's output stay."""

    large: Architecture
    small: Architecture
    keep: Keep
    parameters: Floats | None
    kept: dict[str, Indices] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.keep == "strongest" and self.parameters is None:
            raise ValueError("parameters must be given where the strongest filters stay")
        self.pairs = list(_pairs(self.large, self.small))
        self.offsets = _offsets(layers_of(self.large))
        self.kept[INPUT] = np.arange(self.large.input_shape[0])
        self.choices = self._choose()
        for wide, narrow in self.pairs:
            self.kept[narrow.name] = self._channels_out(wide, narrow)

    def parameter_places(self) -> Iterator[Indices]:
        """Of one parameter after the other, an array of its shape."""
        for wide, narrow in self.pairs:
            for name, shape in wide.parameter_shapes().items():
                everything = self.offsets[name] + np.arange(prod(shape)).reshape(shape)
                yield self._part(wide, narrow, everything)

    def _part(self, wide: Layer, narrow: Layer, values: Indices) -> Indices:
        out = self.kept[narrow.name]
        if wide.kind == "linear":
            return values if values.ndim == 1 else values[:, self._features(wide, narrow)]
        if values.ndim == 1:
            return values[out]
        edge = (wide.kernel - narrow.kernel) // 2
        values = values[out][:, :, edge : edge + narrow.kernel, edge : edge + narrow.kernel]
        return values if _follows(wide) else values[:, self.kept[narrow.inputs[0]]]

    def _features(self, wide: Layer, narrow: Layer) -> Indices:
        """Of the linear layer's input: the kept channels, with all their positions where these were flattened."""
        channels = self.kept[narrow.inputs[0]]
        positions = narrow.input_shape[0] // len(channels)
        if positions * len(channels) != narrow.input_shape[0] or wide.input_shape[0] % positions:
            raise SlicingError(f"{narrow.name} reads {narrow.input_shape}, of {wide.input_shape} in the larger network")
        return (channels[:, None] * positions + np.arange(positions)).ravel()

    def _channels_out(self, wide: Layer, narrow: Layer) -> Indices:
        if wide.kind == "linear":
            return np.arange(wide.output_shape[0])
        if wide.kind == "choice":
            return np.array([wide.operations.index(operation) for operation in narrow.operations])
        if wide.kind == "concat":
            return np.concatenate([i * wide.input_shape[0] + self.kept[name] for i, name in enumerate(narrow.inputs)])
        if _follows(wide):
            return self.kept[narrow.inputs[0]]
        return self.choices[narrow.name]

    def _choose(self) -> dict[str, Indices]:
        """Channels that stay, of every convolution that mixes channels; summed ones choose together."""
        ties = _ties([narrow for _, narrow in self.pairs])
        members = defaultdict(list)
        for wide, narrow in self.pairs:
            if wide.kind == "conv" and not _follows(wide):
                members[ties[narrow.name]].append((wide, narrow))
        choices = {}
        for group in members.values():
            wide, narrow = group[0]
            kept = self._strongest([one for one, _ in group], narrow.output_shape[0])
            choices.update({member.name: kept for _, member in group})
        return choices

    def _strongest(self, producers: list[Layer], count: int) -> Indices:
        if self.keep == "first" or self.parameters is None or count == producers[0].output_shape[0]:
            return np.arange(count)
        squares = np.zeros(producers[0].output_shape[0])
        for layer in producers:
            name, shape = next(iter(layer.parameter_shapes().items()))
            weight = self.parameters[self.offsets[name] :][: prod(shape)].astype(np.float64)
            squares += np.square(weight.reshape(shape[0], -1)).sum(axis=1)
        return np.sort(np.argsort(-squares, kind="stable")[:count])


def _pairs(large: Architecture, small: Architecture) -> Iterator[tuple[Layer, Layer]]:
    """Each layer of the smaller network with the one of the larger network that it is a part of."""
    wide_layers = {layer.name: layer for layer in layers_of(large)}
    for narrow in layers_of(small):
        wide = wide_layers.get(narrow.name)
        if wide is None and narrow.kind == "add":
            raise SlicingError(f"{narrow.name} adds what the larger network does not add")
        if wide is None or wide.kind != narrow.kind or not _is_part(wide, narrow):
            raise SlicingError(f"{narrow.name} is no part of the larger network: {narrow} of {wide}")
        yield wide, narrow


def _is_part(wide: Layer, narrow: Layer) -> bool:
    if wide.kind == "linear":
        return wide.output_shape == narrow.output_shape and wide.input_shape[0] >= narrow.input_shape[0]
    if wide.kind == "flatten" and wide.input_shape[1:] != narrow.input_shape[1:]:
        return False  # a weight of the classifier belongs to a channel and a position
    if narrow.kind in ("choice", "mix") and not set(wide.operations) >= set(narrow.operations):
        return False
    if narrow.kind == "concat" and len(wide.inputs) != len(narrow.inputs):
        return False
    if narrow.kind == "conv" and _stage_of(wide.inputs[0]) != _stage_of(narrow.inputs[0]):
        return False  # a cell reads other blocks where there are more in a stage
    same = (wide.has_bias, wide.stride, wide.dilation) == (narrow.has_bias, narrow.stride, narrow.dilation)
    return same and wide.kernel >= narrow.kernel and wide.output_shape[0] >= narrow.output_shape[0]


def _stage_of(name: str) -> list[str]:
    """The beginning of a layer's name that names its stage; nothing of one outside."""
    return name.split(".")[:2] if name.startswith("stages.") else []


def _follows(layer: Layer) -> bool:
    """Whether its output has its input's channels; one of a depthwise convolution's may be its only one."""
    return layer.kind not in _MIXING or layer.name.endswith(".depthwise")


def _offsets(layers: tuple[Layer, ...]) -> dict[str, int]:
    offsets, offset = {}, 0
    for layer in layers:
        for name, shape in layer.parameter_shapes().items():
            offsets[name] = offset
            offset += prod(shape)
    return offsets


def _ties(layers: list[Layer]) -> dict[str, str]:
    """For every layer, the first one whose channels are its own: followers have their input's, sums all inputs'."""
    root = {INPUT: INPUT}

    def find(name: str) -> str:
        while root[name] != name:
            name = root[name]
        return name

    for layer in layers:
        root[layer.name] = find(layer.inputs[0]) if _follows(layer) else layer.name
        if layer.kind in ("add", "mix"):
            for other in layer.values_read()[1:]:
                root[find(other)] = find(layer.inputs[0])
    return {layer.name: find(layer.name) for layer in layers}
