"""The kernels of any ONNX graph: what `profiles.predict` needs of a network that is none of our own spaces'."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod

import onnx
from onnx import helper, shape_inference

from profiles.kernel import Kernel
from profiles.placement import placed

Shape = tuple[int, ...]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_VIEWS = _names(
    "Cast Constant ConstantOfShape Dropout Expand Flatten Identity Range Reshape Shape Size Squeeze Unsqueeze"
)
_CHEAP = _names("Relu Clip LeakyRelu PRelu Abs Neg Not Sqrt Sign Reciprocal Floor Ceil Round ThresholdedRelu")
_CURVES = _names(
    "HardSwish HardSigmoid Sigmoid Tanh Exp Log Erf Gelu Elu Selu Celu Softplus Softsign Mish Pow Softmax LogSoftmax "
    "Hardmax Sin Cos"
)
_PAIRS = _names("Add Sub Mul Div Sum Max Min Mean Where Equal Greater Less GreaterOrEqual LessOrEqual And Or")
_NORMS = _names("GroupNormalization InstanceNormalization LayerNormalization BatchNormalization LpNormalization")
_MOVES = _names("Concat Slice Split Transpose Pad Gather GatherND Tile DepthToSpace SpaceToDepth Resize")
_MEANS = _names(
    "GlobalAveragePool GlobalMaxPool ReduceMean ReduceSum ReduceMax ReduceMin ReduceL2 ReduceSumSquare ArgMax ArgMin"
)
_FUSED = _names("Relu Clip LeakyRelu Sigmoid Tanh HardSigmoid")  # with a convolution that nobody else reads
_POOLS = {"MaxPool": "max_pool", "AveragePool": "average_pool"}
_IMAGE = 4  # sizes of a batch of images


@dataclass(frozen=True)
class GraphKernels:
    """What a graph is made of.

    Attributes:
        kernels: In order, for one example.
        unknown_operators: Whose kernels have the operator's name as their kind, which no profile knows.
    """

    kernels: tuple[Kernel, ...]
    unknown_operators: tuple[str, ...]


def kernels_of_onnx(model: onnx.ModelProto) -> GraphKernels:
    """Read the kernels off a graph, for a batch of one where its size is free.

    Views of the same values are left out. Of what runtimes fold into a convolution that nobody else reads, a batch
    normalisation is left out and an activation a fused relu. Other activations count as the one of ours that does about
    as much, data that moves as a `concat` of one, a product of matrices with more than one row an example as a 1x1
    convolution.

    Raises:
        ValueError: The file is no valid graph, or a size other than the first is not known.
    """
    _check(model.graph)
    graph = _with_shapes(model).graph
    constants = {one.name: tuple(one.dims) for one in graph.initializer}
    shapes = {value.name: _shape(value) for value in (*graph.input, *graph.value_info, *graph.output)} | constants
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            shapes[node.output[0]] = tuple(node.attribute[0].t.dims)
    varying = {value.name for value in graph.input} - constants.keys()
    num_readers = Counter(name for node in graph.node for name in {*node.input})
    num_readers.update(value.name for value in graph.output)
    found = _Found()
    for node in graph.node:
        if not varying.intersection(node.input):
            continue  # folded when the graph is opened
        varying.update(node.output)
        is_fused = node.input[0] in found.convolved and num_readers[node.input[0]] == 1
        if node.op_type in _VIEWS or (is_fused and node.op_type == "BatchNormalization"):
            found.pass_on(node)
            continue
        read = [name for name in node.input if name in varying]
        kernel = _kernel(node, shapes, read)
        if is_fused and node.op_type in _FUSED and kernel:
            kernel = replace(kernel, kind="fused_relu")
        if kernel is None:
            found.unknown[node.op_type] = None
            kernel = Kernel(node.op_type, _one(shapes.get(read[0])), _one(shapes.get(node.output[0])))
        found.add(node, kernel, is_apart=not _may_be_in_blocks(node, shapes, found.makers))
    return GraphKernels(placed(found.kernels, found.reads, found.apart), tuple(found.unknown))


@dataclass
class _Found:
    """What was read so far.

    Attributes:
        makers: Of values, the places of the kernels that they come from.
        convolved: Values of convolutions, as far as runtimes fold into these what comes next.
        reads, apart: See `profiles.placement.placed`.
    """

    kernels: list[Kernel] = field(default_factory=list)
    reads: list[list[int]] = field(default_factory=list)
    apart: set[int] = field(default_factory=set)
    makers: dict[str, list[int]] = field(default_factory=dict)
    convolved: set[str] = field(default_factory=set)
    unknown: dict[str, None] = field(default_factory=dict)

    def pass_on(self, node: onnx.NodeProto) -> None:
        """Take a node whose values are those it reads."""
        self.makers |= dict.fromkeys(node.output, self._read_by(node))
        if node.input[0] in self.convolved:
            self.convolved.update(node.output)

    def add(self, node: onnx.NodeProto, kernel: Kernel, *, is_apart: bool) -> None:
        """Take a node that is a kernel."""
        place = len(self.kernels)
        self.reads.append(self._read_by(node))
        self.apart.update([place] if is_apart else ())
        self.makers |= {name: [place] for name in node.output}
        if node.op_type == "Conv":
            self.convolved.update(node.output)
        self.kernels.append(kernel)

    def _read_by(self, node: onnx.NodeProto) -> list[int]:
        return [*dict.fromkeys(place for name in node.input for place in self.makers.get(name, ()))]


def _may_be_in_blocks(node: onnx.NodeProto, shapes: dict[str, Shape], makers: Mapping[str, list[int]]) -> bool:
    """Whether ONNX Runtime has this operator in its own layout: images alone, and nothing of the graph's inputs."""
    if node.op_type == "Conv" or node.op_type in _POOLS:
        return len(shapes.get(node.output[0], ())) == _IMAGE
    if not all(makers.get(name) for name in node.input):
        return False
    if node.op_type == "Concat" and _attribute(node, "axis", 1) == 1:
        return len({(*shapes.get(name, ()), 0, 0)[1] for name in node.input}) == 1  # all of as many channels
    return node.op_type in ("Add", "Sum") and len(node.input) == 2


def _check(graph: onnx.GraphProto) -> None:
    """What shape inference would not survive, or say nothing of."""
    known = {"", *(one.name for one in (*graph.input, *graph.initializer))}
    if not graph.input or not graph.node:
        raise ValueError("the graph must have an input and a node, or it does nothing; export the model again")
    for node in graph.node:
        name = f"{node.op_type} {node.name!r}"
        for which in ("kernel_shape", "strides", "dilations"):
            if min(sizes := _attribute(node, which, [1]), default=1) < 1:
                raise ValueError(f"{name} has {which} {[*sizes]}, all must be >= 1; check the file with onnx.checker")
        if node.op_type == "Conv" and (groups := _attribute(node, "group", 1)) < 1:
            raise ValueError(f"{name} has group {groups}, must be >= 1; check the file with onnx.checker")
        if missing := [value for value in node.input if value not in known]:
            raise ValueError(
                f"{name} reads {missing[0]!r}, which nothing before it gives; check the file with onnx.checker"
            )
        known.update(node.output)


def of_one_example(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model with a batch of one where its size is free."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    given = {one.name for one in fixed.graph.initializer}
    for value in (*fixed.graph.input, *fixed.graph.output):
        sizes = value.type.tensor_type.shape.dim
        if value.name not in given and sizes and not sizes[0].dim_value:
            sizes[0].dim_value = 1
    return fixed


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    fixed = of_one_example(model)
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    del fixed.graph.value_info[:]
    try:
        return shape_inference.infer_shapes(fixed, strict_mode=False, data_prop=True)
    except shape_inference.InferenceError as error:
        raise ValueError(f"the graph's shapes cannot be followed: {error}; check it with onnx.checker") from error


def _shape(value: onnx.ValueInfoProto) -> Shape:
    sizes = tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
    if 0 in sizes[1:]:
        raise ValueError(f"all sizes but the first must be known, {value.name!r} has {sizes}; fix them in the file")
    return sizes


def _kernel(node: onnx.NodeProto, shapes: dict[str, Shape], read: list[str]) -> Kernel | None:
    """None for an operator that is not known."""
    given, made = _one(shapes.get(read[0])), _one(shapes.get(node.output[0]))
    if node.op_type == "Conv":
        return _convolution(node, shapes, given, made)
    if node.op_type in ("Gemm", "MatMul"):
        return _product(shapes.get(node.input[0], ()), shapes.get(node.output[0], ()))
    if node.op_type in _POOLS:
        window = _window(node)
        return Kernel(_POOLS[node.op_type], given, made, kernel=window[0], stride=window[1])
    rules: list[tuple[frozenset[str], Callable[[], Kernel]]] = [
        (_PAIRS, lambda: Kernel("add" if len(read) > 1 else "relu", made, made, num_inputs=max(len(read), 2))),
        (_CHEAP, lambda: Kernel("relu", made, made)),
        (_CURVES, lambda: Kernel("hard_swish", made, made)),
        (_NORMS, lambda: Kernel("group_norm", made, made, groups=1)),
        (_MEANS, lambda: Kernel("global_average", given, made)),
        (_MOVES, lambda: Kernel("concat", given, made, num_inputs=max(len(read), 1))),
    ]
    return next((make() for names, make in rules if node.op_type in names), None)


def _convolution(node: onnx.NodeProto, shapes: dict[str, Shape], given: Shape, made: Shape) -> Kernel:
    """Of one or of two dimensions; a window that is no square counts as the square of as many values."""
    side, stride, dilation = _window(node, len(shapes[node.input[1]][2:]), shapes[node.input[1]][2:])
    groups = _attribute(node, "group", 1)
    return Kernel("conv", given, made, side, stride, groups, dilation, has_bias=len(node.input) > 2)


def _window(node: onnx.NodeProto, num_sides: int = 2, default: Shape = ()) -> tuple[int, int, int]:
    sides = _attribute(node, "kernel_shape", list(default) or [1])
    side = max(round(prod(sides) ** 0.5), 1)
    return side, max(_attribute(node, "strides", [1] * num_sides)), max(_attribute(node, "dilations", [1] * num_sides))


def _product(left: Shape, made: Shape) -> Kernel:
    inner, outer = left[-1] if left else 1, made[-1] if made else 1
    rows = prod(made[1:-1])
    return Kernel("linear", (inner,), (outer,)) if rows == 1 else Kernel("conv", (inner, rows, 1), (outer, rows, 1))


def _attribute(node: onnx.NodeProto, name: str, default: int | list[int]):  # type: ignore[no-untyped-def]
    return next((helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)


def _one(shape: Shape | None) -> Shape:
    """Of one example, at least one number."""
    return (shape or ())[1:] or (1,)
