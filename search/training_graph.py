"""What `gradient.onnx` of an architecture does with memory, without compiling it: its large values, in their order.

Follows `pipeline.compile.graphs`: forward layer by layer; then, backwards through the layers with parameters, what each
example adds to each gradient. A value's own gradient is computed when it is first needed. Values of a few numbers a
channel are left out, but for those that wait for the norms.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from math import prod

from search.layers import INPUT, Layer
from search.liveness import FLOAT_BYTES, Program, Shape, Step
from search.tape import Tape
from search.training_convolutions import Convolutions

_VIEWS = frozenset({"flatten", "identity"})  # of the same values
_POSITION_BYTES = 8  # of the place of a maximum


def training_program(layers: Sequence[Layer], batch_size: int) -> Program:
    """The steps of one run over `batch_size` examples."""
    return _TrainingGraph(layers, batch_size).program()


class _TrainingGraph:
    """Owns what is known while the steps are written."""

    def __init__(self, layers: Sequence[Layer], batch_size: int) -> None:
        self._batch = batch_size
        self._shown = {INPUT: INPUT}  # the layer whose values a name stands for
        self._readers: dict[str, list[tuple[Layer, int]]] = defaultdict(list)
        for layer in layers:
            self._shown[layer.name] = self._shown[layer.inputs[0]] if layer.kind in _VIEWS else layer.name
            for place, name in enumerate(layer.values_read() if layer.kind not in _VIEWS else ()):
                self._readers[self._shown[name]].append((layer, place))
        self._layers = [layer for layer in layers if layer.kind not in _VIEWS]
        self._by_name = {layer.name: layer for layer in layers}
        self._tape = Tape()
        self._values = {INPUT: INPUT}
        self._inner: dict[str, tuple[str, ...]] = {}  # of a layer, what its gradient reads besides
        self._gradients: dict[str, str] = {}
        self._shares: dict[str, list[tuple[str, int]]] = defaultdict(list)  # of a layer, with numbers of parameters
        sizes = {name: prod(shape) for layer in self._layers for name, shape in layer.parameter_shapes().items()}
        parts = self._tape.split([(size,) for size in sizes.values()], "parameters")
        self._weights = dict(zip(sizes, parts, strict=True))
        for layer in reversed(self._layers):
            if layer.kind == "group_norm":
                shift = self._tape.op((batch_size, layer.output_shape[0]), self._weights[f"{layer.name}.bias"])
                self._inner[f"{layer.name} shift"] = (shift,)
        self._convolutions = Convolutions(self._tape, batch_size)

    def program(self) -> Program:
        for layer in self._layers:
            if layer.name not in self._values and not self._waits_for_sum(layer):
                self._forward(layer)
        for layer in reversed(self._layers):
            self._share(layer)
        tape, total = self._tape, []
        tape.op((self._batch,), *self._convolutions.squares)
        for layer in self._layers:
            total += [tape.op((count,), share) for share, count in self._shares[layer.name]]
        output = tape.op((sum(layer.num_parameters() for layer in self._layers),), *total)
        constants = sorted(tape.constants.values())
        return Program(tape.steps, tape.shapes, frozenset({output}), tape.item_bytes, constants)

    def _shape(self, layer: Layer) -> Shape:
        return (self._batch, *layer.output_shape)

    def _value(self, name: str) -> str:
        return self._values[self._shown[name]]

    def _only_reader(self, layer: Layer, kind: str) -> Layer | None:
        readers = self._readers[layer.name]
        return readers[0][0] if len(readers) == 1 and readers[0][0].kind == kind else None

    def _parameters(self, layer: Layer) -> list[str]:
        return [self._weights[name] for name in layer.parameter_shapes()]

    def _waits_for_sum(self, layer: Layer) -> bool:
        """Whether ONNX Runtime computes a sum in the convolution that comes first into it."""
        total = self._only_reader(layer, "add") if layer.kind == "conv" else None
        if total is None or len(total.inputs) > 2:
            return False
        waiting = (self._by_name[self._shown[name]] for name in total.inputs if self._shown[name] != INPUT)
        first = next((one for one in waiting if one.kind == "conv" and self._only_reader(one, "add")), None)
        return first is not None and first.name == layer.name

    def _forward(self, layer: Layer) -> None:
        forward: Mapping[str, Callable[[Layer], str]] = {
            "conv": self._forward_conv,
            "group_norm": self._forward_norm,
            "hard_swish": self._forward_hard_swish,
            "max_pool": self._forward_max_pool,
            "average_pool": self._forward_average_pool,
            "mix": self._forward_mix,
            "add": self._forward_add,
        }
        if layer.kind == "choice":
            return
        plain = layer.kind not in forward
        in_place = 0 if layer.kind == "relu" else None
        reads = (self._value(name) for name in layer.values_read())
        made = self._tape.op(self._shape(layer), *reads, in_place=in_place) if plain else forward[layer.kind](layer)
        self._values[layer.name] = made

    def _forward_conv(self, layer: Layer) -> str:
        made = self._convolutions.forward(layer, self._value(layer.inputs[0]), self._parameters(layer))
        activation = self._only_reader(layer, "relu")
        if activation is not None:  # computed in one
            self._values[activation.name] = made
        return made

    def _forward_norm(self, layer: Layer) -> str:
        channels, *positions = layer.output_shape
        groups, value = layer.groups, self._value(layer.inputs[0])
        by_group, number = (self._batch, groups, prod(layer.output_shape) // groups), (self._batch, groups, 1)
        centred = self._tape.op(by_group, value, self._tape.op(number, value))
        variance = self._tape.op(number, self._tape.op(by_group, centred, centred))
        inverse = self._tape.op(number, self._tape.op(number, self._tape.op(number, variance)))
        weight, (shift,) = self._weights[f"{layer.name}.weight"], self._inner[f"{layer.name} shift"]
        scale = self._tape.op((self._batch, groups, channels // groups), inverse, weight)
        self._inner[layer.name] = (centred, inverse, scale)
        normal = self._tape.op((1, self._batch * channels, prod(positions)), centred, scale, shift)
        return self._tape.op(self._shape(layer), normal, is_view=True)

    def _forward_hard_swish(self, layer: Layer) -> str:
        value = self._value(layer.inputs[0])
        gate = self._tape.op(self._shape(layer), value, in_place=0)
        self._inner[layer.name] = (gate,)
        return self._tape.op(self._shape(layer), value, gate)

    def _forward_max_pool(self, layer: Layer) -> str:
        made, places = self._tape.value(self._shape(layer)), self._tape.value(self._shape(layer), _POSITION_BYTES)
        self._tape.steps.append(Step((self._value(layer.inputs[0]),), (made, places)))
        self._inner[layer.name] = (places,)
        num_inputs, num_outputs = self._batch * prod(layer.input_shape), self._batch * prod(layer.output_shape)
        self._tape.constants["zeros", num_inputs] = FLOAT_BYTES * num_inputs
        self._tape.constants["places", num_inputs, num_outputs] = _POSITION_BYTES * num_outputs
        return made

    def _forward_average_pool(self, layer: Layer) -> str:
        return self._average(layer, self._value(layer.inputs[0]), layer.input_shape, layer.output_shape)

    def _average(self, _layer: Layer, value: str, before: Shape, after: Shape) -> str:
        """Two matrix products, one an axis."""
        half = self._tape.op((self._batch, after[0], after[1], before[2]), value)
        return self._tape.op((self._batch, *after), half)

    def _forward_mix(self, layer: Layer) -> str:
        parts = [self._tape.op(self._shape(layer), self._value(name)) for name in layer.values_read()]
        return self._sum_up(layer, parts)

    def _forward_add(self, layer: Layer) -> str:
        waiting = [name for name in layer.inputs if self._shown[name] not in self._values]
        others = [self._value(name) for name in layer.inputs if name not in waiting]
        if not waiting:
            return self._sum_up(layer, others)
        convolution = self._by_name[self._shown[waiting[0]]]
        value = self._value(convolution.inputs[0])
        return self._convolutions.forward(convolution, value, self._parameters(convolution), *others)

    def _sum_up(self, layer: Layer, parts: Sequence[str]) -> str:
        total = parts[0]
        for part in parts[1:]:
            total = self._tape.op(self._shape(layer), total, part)
        return total

    def _share(self, layer: Layer) -> None:
        """What each example adds to the gradient of a layer's parameters."""
        shares, count = self._shares[layer.name], layer.num_parameters()
        if layer.kind == "choice":
            self._choice_share(layer)
        elif layer.kind == "linear":
            self._gradient(layer.name)
            value = self._value(layer.inputs[0])
            self._convolutions.square((self._batch, 1, layer.input_shape[0]), value)
            shares.append((value, count))
        elif layer.kind == "group_norm":
            shares += [(sums, count // 2) for sums in self._norm_sums(layer)]
        elif layer.kind == "conv":
            gradient = self._gradient(layer.name)
            shares += self._convolutions.shares(layer, gradient, self._value(layer.inputs[0]))

    def _choice_share(self, choice: Layer) -> None:
        for layer in self._layers:
            if layer.kind == "mix" and layer.inputs[-1] == choice.name:
                for name in layer.values_read():
                    product = self._tape.op(self._shape(layer), self._gradient(layer.name), self._value(name))
                    self._tape.op((self._batch, 1), product)

    def _norm_sums(self, layer: Layer) -> tuple[str, ...]:
        """Gradients of both parameters, from which the input's is computed too."""
        key = f"{layer.name} sums"
        if key not in self._inner:
            channels, *positions = layer.output_shape
            gradient, (centred, inverse, _) = self._gradient(layer.name), self._inner[layer.name]
            each, by_group = (self._batch, channels), (self._batch, layer.groups, channels // layer.groups)
            shift = self._tape.op(each, gradient)
            self._convolutions.square(each, shift)
            product = self._tape.op((*each, prod(positions)), gradient, centred)
            scale = self._tape.op(by_group, self._tape.op(each, product), inverse)
            self._convolutions.square(each, scale)
            self._inner[key] = (scale, shift)
        return self._inner[key]

    def _gradient(self, name: str) -> str:
        if name not in self._gradients:
            readers = self._readers[name]
            parts = [self._gradient_through(layer, place) for layer, place in readers]
            shape = self._shape(self._by_name[name])
            if not parts:  # the logits, of the loss
                parts = [self._tape.op(shape, self._values[name])]
            size = FLOAT_BYTES * prod(shape)
            passing = (size,) * max(0, len(parts) - 2)
            self._gradients[name] = self._tape.op(shape, *parts, temporaries=passing) if len(parts) > 1 else parts[0]
        return self._gradients[name]

    def _gradient_through(self, layer: Layer, place: int) -> str:
        """The part of an input's gradient that comes through one of its readers."""
        if layer.kind == "relu":
            return self._relu_gradient(layer)
        if layer.kind == "hard_swish":
            return self._hard_swish_gradient(layer)
        gradient = self._gradient(layer.name)
        shape = (self._batch, *layer.input_shape)
        match layer.kind:
            case "add":
                return gradient
            case "concat":
                return self._parts_of(layer, gradient)[place]
            case "conv":
                return self._convolutions.input_gradient(layer, gradient, self._weights[f"{layer.name}.weight"])
            case "group_norm":
                return self._norm_gradient(layer, gradient)
            case "max_pool":
                return self._max_pool_gradient(layer, gradient)
            case "average_pool":
                return self._average(layer, gradient, layer.output_shape, layer.input_shape)
            case "linear":
                return self._tape.op(shape, gradient, self._weights[f"{layer.name}.weight"])
            case _:  # global average, and a mix's product with a share
                return self._tape.op(shape, gradient)

    def _parts_of(self, layer: Layer, gradient: str) -> tuple[str, ...]:
        key = f"{layer.name} parts"
        if key not in self._inner:
            shapes = [self._shape(self._by_name[self._shown[name]]) for name in layer.inputs]
            self._inner[key] = self._tape.split(shapes, gradient)
        return self._inner[key]

    def _relu_gradient(self, layer: Layer) -> str:
        mask = self._tape.op(self._shape(layer), self._values[layer.name], in_place=0)
        return self._tape.op(self._shape(layer), self._gradient(layer.name), mask)

    def _hard_swish_gradient(self, layer: Layer) -> str:
        shape, value, (gate,) = self._shape(layer), self._value(layer.inputs[0]), self._inner[layer.name]
        slope = self._tape.op(shape, self._tape.op(shape, value), in_place=0)
        slope = self._tape.op(shape, self._tape.op(shape, value, slope))
        slope = self._tape.op(shape, slope, gate)
        return self._tape.op(shape, self._gradient(layer.name), slope)

    def _norm_gradient(self, layer: Layer, gradient: str) -> str:
        channels, *positions = layer.output_shape
        (centred, inverse, scale), sums = self._inner[layer.name], self._norm_sums(layer)
        number = (self._batch, layer.groups, 1)
        slope, mean = (self._tape.op(number, self._tape.op((self._batch, channels), total), inverse) for total in sums)
        correction = self._tape.op(self._tape.shapes[centred], centred, slope)
        offset = self._tape.op(self._tape.shapes[scale], mean)
        scaled = self._tape.op((1, self._batch * channels, prod(positions)), gradient, scale, offset)
        return self._tape.op((self._batch, channels, prod(positions)), scaled, correction)

    def _max_pool_gradient(self, layer: Layer, gradient: str) -> str:
        shape, (places,) = self._shape(layer), self._inner[layer.name]
        size = _POSITION_BYTES * prod(shape)
        found = self._tape.op(shape, places, item_bytes=1)
        inside = self._tape.op(shape, found, places, item_bytes=_POSITION_BYTES, temporaries=(size, size), num_kept=2)
        return self._tape.op((self._batch * prod(layer.input_shape),), inside, gradient)
