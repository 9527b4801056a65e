"""The one description of a network, layer by layer: the torch module, the cost model and weight slicing read it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, prod
from typing import Literal, NamedTuple

from search.architecture import Architecture, Cell, Edge, Operation, Stage

LayerKind = Literal[
    "conv",
    "group_norm",
    "relu",
    "hard_swish",
    "max_pool",
    "average_pool",
    "identity",
    "choice",
    "mix",
    "add",
    "concat",
    "global_average",
    "flatten",
    "linear",
]
INPUT = "input"
GROUP_NORM_GROUPS = 4


@dataclass(frozen=True)
class Layer:
    """One operation.

    Attributes:
        name: Unique; a parameter is called `NAME.weight` or `NAME.bias`.
        inputs: Names of the layers it reads; `input` is the network's input.
        input_shape: Shape of one example's (first) input, channels first, without the batch.
        kernel, stride, dilation: Of a convolution or pooling, pixels; padding is dilation * (kernel // 2) on all sides.
        groups: Of a convolution or group normalisation.
        has_bias: Whether a convolution or linear layer adds one; a convolution before a normalisation does not.
        operations: Of a `choice`, which reads nothing: what its architecture weights are of; it gives their softmax. Of
            a `mix`: what that choice, its last input, weighs; the others are of these operations, in order, without
            `none`.
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
    dilation: int = 1
    operations: tuple[Operation, ...] = ()

    def values_read(self) -> tuple[str, ...]:
        """Its inputs without the choice that a mix reads."""
        return self.inputs[:-1] if self.kind == "mix" else self.inputs

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the layer's parameters by full name, in layout order."""
        out = self.output_shape[0]
        weight: tuple[int, ...]
        if self.kind == "conv":
            weight = (out, self.input_shape[0] // self.groups, self.kernel, self.kernel)
        elif self.kind == "linear":
            weight = (out, self.input_shape[0])
        elif self.kind in ("group_norm", "choice"):
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
        """Multiply-accumulates of one example's forward pass (0 for what has no weights)."""
        if self.kind == "conv":
            return prod(self.output_shape) * self.input_shape[0] // self.groups * self.kernel**2
        if self.kind == "mix":
            return prod(self.output_shape) * len(self.values_read())
        return self.input_shape[0] * self.output_shape[0] if self.kind == "linear" else 0


def layers_of(architecture: Architecture) -> tuple[Layer, ...]:
    """Unroll an architecture into layers in execution order; the last one gives the logits."""
    trace = _Trace(architecture)
    stem = architecture.stem
    trace.conv("stem", _Window(stem.width, stem.kernel, stem.stride))
    older = newer = _Block(trace.value, 1)  # a first cell reads the stem twice
    for i, stage in enumerate(architecture.stages):
        if stage.cell is not None:
            _choices(trace, f"stages.{i}.choices", stage.cell)
        for j in range(stage.depth):
            name, stride = f"stages.{i}.{j}", stage.stride if j == 0 else 1
            if stage.cell is not None:
                _cell(trace, name, stage.cell, _Window(stage.width, stride=stride), (older, newer))
            else:
                _plain_block(trace, name, stage, stride)
            older, newer = newer, _Block(trace.value, stride)
    if architecture.head == "global_average":
        trace.append("pool", "global_average", trace.value.shape[:1])
    else:
        trace.append("flatten", "flatten", (prod(trace.value.shape),))
    trace.append("classifier", "linear", (architecture.num_classes,))
    return tuple(trace.layers)


def num_parameters(architecture: Architecture) -> int:
    """Number of trainable values of a network."""
    return sum(layer.num_parameters() for layer in layers_of(architecture))


class _Value(NamedTuple):
    """The output of a layer."""

    name: str
    shape: tuple[int, ...]


class _Block(NamedTuple):
    """The output of a block, and the block's stride."""

    value: _Value
    stride: int


@dataclass(frozen=True)
class _Window:
    width: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    dilation: int = 1


def _plain_block(trace: "_Trace", name: str, stage: Stage, stride: int) -> None:
    start = trace.value
    inner = start.shape[0] * stage.expansion
    depthwise = _Window(inner, stage.kernel, stride, groups=inner)
    if stage.kind == "depthwise":
        trace.conv(f"{name}.depthwise", depthwise)
        trace.conv(f"{name}.pointwise", _Window(stage.width))
        return
    if stage.expansion > 1:
        trace.conv(f"{name}.expand", _Window(inner))
    trace.conv(f"{name}.depthwise", depthwise)
    trace.conv(f"{name}.project", _Window(stage.width), activate=False)  # MobileNetV2: the bottleneck is linear
    if trace.value.shape == start.shape:
        trace.join(f"{name}.add", "add", (start, trace.value))


def _choices(trace: "_Trace", name: str, cell: Cell) -> None:
    """One choice for each mixed edge of a stage's cells: all of them read it, so it comes before them."""
    for node, edges in enumerate(cell.nodes):
        for edge in edges:
            if len(edge.operations) > 1:
                shape = (len(edge.operations),)
                trace.add(Layer(f"{name}.{node}-{edge.source}", "choice", (), shape, shape, operations=edge.operations))


def _cell(trace: "_Trace", name: str, cell: Cell, window: _Window, before: tuple[_Block, _Block]) -> None:
    """One cell; `window` has its width and its stride, which edges from `before` take, the older and the newer one."""
    older, newer = before
    values: dict[int, _Value] = {}
    for source, value, stride in ((0, older.value, newer.stride), (1, newer.value, 1)):
        if any(edge.source == source for edges in cell.nodes for edge in edges):
            trace.value = value
            trace.conv(f"{name}.inputs.{source}", _Window(window.width, stride=stride))
            values[source] = trace.value
    for node, edges in enumerate(cell.nodes):
        summands = []
        for edge in edges:
            trace.value = values[edge.source]
            _edge(trace, f"{name}.edges.{node}-{edge.source}", edge, window.stride if edge.source < 2 else 1)
            summands.append(trace.value)
        trace.join(f"{name}.nodes.{node}", "add", summands)
        values[2 + node] = trace.value
    trace.join(f"{name}.concat", "concat", [values[2 + node] for node in range(len(cell.nodes))])


def _edge(trace: "_Trace", name: str, edge: Edge, stride: int) -> None:
    """The edge's one operation, or all of them and their mix."""
    start, outputs = trace.value, []
    for operation in edge.operations:
        if operation != "none":
            trace.value = start
            _operation(trace, f"{name}.{operation}", operation, stride)
            outputs.append(trace.value)
    if len(edge.operations) > 1:
        block, _, place = name.rpartition(".edges.")
        choice = f"{block.rpartition('.')[0]}.choices.{place}"
        names, shape = tuple(value.name for value in outputs), trace.value.shape
        trace.add(Layer(f"{name}.mix", "mix", (*names, choice), shape, shape, operations=edge.operations))


def _operation(trace: "_Trace", name: str, operation: Operation, stride: int) -> None:
    width = trace.value.shape[0]
    match operation:
        case "skip" if stride == 1:
            trace.append(name, "identity", trace.value.shape)
        case "skip":
            trace.conv(name, _Window(width, stride=stride), activate=False)
        case "max_pool" | "average_pool":
            trace.window(name, operation, _Window(width, 3, stride))
        case "dilated_3":
            trace.conv(name, _Window(width, 3, stride, dilation=2))
        case "separable_3" | "separable_5":
            trace.window(f"{name}.depthwise", "conv", _Window(width, int(operation[-1]), stride, groups=width))
            trace.conv(f"{name}.pointwise", _Window(width))
        case _:
            trace.conv(name, _Window(width, int(operation[-1]), stride))


class _Trace:
    """The layers so far, and the value that the next one reads: the last one's, unless somebody sets another."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.layers: list[Layer] = []
        self.value = _Value(INPUT, architecture.input_shape)

    def add(self, layer: Layer) -> None:
        """Any layer."""
        self.layers.append(layer)
        self.value = _Value(layer.name, layer.output_shape)

    def append(self, name: str, kind: LayerKind, output_shape: tuple[int, ...]) -> None:
        """A layer without a window."""
        self.add(Layer(name, kind, (self.value.name,), self.value.shape, output_shape, has_bias=kind == "linear"))

    def join(self, name: str, kind: LayerKind, values: Sequence[_Value]) -> None:
        """The sum of values of one shape, or all their channels; of a single one itself."""
        self.value, shape = values[0], values[0].shape
        if len(values) > 1:
            width = sum(value.shape[0] for value in values) if kind == "concat" else shape[0]
            self.add(Layer(name, kind, tuple(value.name for value in values), shape, (width, *shape[1:])))

    def window(self, name: str, kind: LayerKind, window: _Window, *, has_bias: bool = False) -> None:
        """A layer with a window, padded so that only the stride makes the sides smaller."""
        side = tuple((size - 1) // window.stride + 1 for size in self.value.shape[1:])
        self.add(
            Layer(
                name,
                kind,
                (self.value.name,),
                self.value.shape,
                (window.width, *side),
                kernel=window.kernel,
                stride=window.stride,
                groups=window.groups,
                has_bias=has_bias,
                dilation=window.dilation,
            )
        )

    def conv(self, name: str, window: _Window, *, activate: bool = True) -> None:
        """Convolution, then normalisation and activation as the architecture says."""
        is_normalized = self.architecture.normalization == "group"
        self.window(name, "conv", window, has_bias=not is_normalized)
        shape = self.value.shape
        if is_normalized:
            groups, inputs = gcd(window.width, GROUP_NORM_GROUPS), (self.value.name,)
            self.add(Layer(f"{name}.norm", "group_norm", inputs, shape, shape, groups=groups, has_bias=True))
        if activate:
            self.append(f"{name}.activation", self.architecture.activation, shape)
