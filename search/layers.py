"""The one description of a network, layer by layer: the torch module, the cost model and weight slicing read it."""

from dataclasses import dataclass
from math import gcd, prod
from typing import Literal

from search.architecture import Architecture, Stage

LayerKind = Literal["conv", "group_norm", "relu", "hard_swish", "add", "global_average", "flatten", "linear"]
INPUT = "input"
GROUP_NORM_GROUPS = 4


@dataclass(frozen=True)
class Layer:
    """One operation.

    Attributes:
        name: Unique; a parameter is called `NAME.weight` or `NAME.bias`.
        inputs: Names of the layers it reads; `input` is the network's input.
        input_shape: Shape of one example's (first) input, channels first, without the batch.
        kernel, stride: Of a convolution, pixels; padding is kernel // 2 on every side.
        groups: Of a convolution or group normalisation.
        has_bias: Whether a convolution or linear layer adds one; a convolution before a normalisation does not.
    """

    name: str
    kind: LayerKind
    inputs: tuple[str, ...]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    has_bias: bool = False

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the layer's parameters by full name, in layout order."""
        out = self.output_shape[0]
        weight: tuple[int, ...]
        if self.kind == "conv":
            weight = (out, self.input_shape[0] // self.groups, self.kernel, self.kernel)
        elif self.kind == "linear":
            weight = (out, self.input_shape[0])
        elif self.kind == "group_norm":
            weight = (out,)
        else:
            return {}
        shapes: dict[str, tuple[int, ...]] = {f"{self.name}.weight": weight}
        if self.has_bias:
            shapes[f"{self.name}.bias"] = (out,)
        return shapes

    def num_parameters(self) -> int:
        """Number of trainable values."""
        return sum(prod(shape) for shape in self.parameter_shapes().values())

    def multiply_accumulates(self) -> int:
        """Multiply-accumulates of one example's forward pass (0 for what has no weights matrix)."""
        if self.kind == "conv":
            return prod(self.output_shape) * self.input_shape[0] // self.groups * self.kernel**2
        return self.input_shape[0] * self.output_shape[0] if self.kind == "linear" else 0


def layers_of(architecture: Architecture) -> tuple[Layer, ...]:
    """Unroll an architecture into layers in execution order; the last one gives the logits."""
    trace = _Trace(architecture)
    stem = architecture.stem
    trace.conv("stem", _Window(stem.width, stem.kernel, stem.stride))
    for i, stage in enumerate(architecture.stages):
        for j in range(stage.depth):
            _block(trace, f"stages.{i}.{j}", stage, stage.stride if j == 0 else 1)
    if architecture.head == "global_average":
        trace.append("pool", "global_average", (trace.shape[0],))
    else:
        trace.append("flatten", "flatten", (prod(trace.shape),))
    trace.append("classifier", "linear", (architecture.num_classes,))
    return tuple(trace.layers)


def num_parameters(architecture: Architecture) -> int:
    """Number of trainable values of a network."""
    return sum(layer.num_parameters() for layer in layers_of(architecture))


def _block(trace: "_Trace", name: str, stage: Stage, stride: int) -> None:
    start, start_shape = trace.last, trace.shape
    inner = start_shape[0] * stage.expansion
    depthwise = _Window(inner, stage.kernel, stride, groups=inner)
    if stage.kind == "depthwise":
        trace.conv(f"{name}.depthwise", depthwise)
        trace.conv(f"{name}.pointwise", _Window(stage.width))
        return
    if stage.expansion > 1:
        trace.conv(f"{name}.expand", _Window(inner))
    trace.conv(f"{name}.depthwise", depthwise)
    trace.conv(f"{name}.project", _Window(stage.width), activate=False)  # MobileNetV2: the bottleneck is linear
    if trace.shape == start_shape:
        trace.append(f"{name}.add", "add", trace.shape, inputs=(start, trace.last))


@dataclass(frozen=True)
class _Window:
    width: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1


class _Trace:
    """The layers so far, the name of the last one, and the shape of its output."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.layers: list[Layer] = []
        self.last = INPUT
        self.shape: tuple[int, ...] = architecture.input_shape

    def append(
        self, name: str, kind: LayerKind, output_shape: tuple[int, ...], *, inputs: tuple[str, ...] = ()
    ) -> None:
        """A layer without a window, on the last one's output unless `inputs` says otherwise."""
        self._add(Layer(name, kind, inputs or (self.last,), self.shape, output_shape, has_bias=kind == "linear"))

    def conv(self, name: str, window: _Window, *, activate: bool = True) -> None:
        """Convolution, then normalisation and activation as the architecture says."""
        is_normalized = self.architecture.normalization == "group"
        side = tuple((size - 1) // window.stride + 1 for size in self.shape[1:])  # kernel // 2 of padding on both sides
        shape = (window.width, *side)
        own = (window.kernel, window.stride, window.groups)
        self._add(Layer(name, "conv", (self.last,), self.shape, shape, *own, has_bias=not is_normalized))
        if is_normalized:
            groups = gcd(window.width, GROUP_NORM_GROUPS)
            norm = f"{name}.norm"
            self._add(Layer(norm, "group_norm", (self.last,), shape, shape, groups=groups, has_bias=True))
        if activate:
            self.append(f"{name}.activation", self.architecture.activation, shape)

    def _add(self, layer: Layer) -> None:
        self.layers.append(layer)
        self.last, self.shape = layer.name, layer.output_shape
