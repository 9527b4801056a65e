"""Convolutions in `gradient.onnx`, in the forms that `pipeline.compile` writes them: forward, dX and each example's dW.

The forms, and where each is chosen: `convolution_gradient.py`, `convolution_shares.py` and `banded.py` there.
"""

from collections.abc import Sequence
from math import prod

from search.layers import Layer
from search.liveness import FLOAT_BYTES, Shape, convolution_workspace
from search.tape import Tape

_BANDED = 1024  # inputs times outputs of a channel
_FEW_POSITIONS = 256
_COPIES = 1.5


class Convolutions:
    """Writes to a tape; shares what several convolutions of one value need."""

    def __init__(self, tape: Tape, batch_size: int) -> None:
        self._tape, self._batch = tape, batch_size
        self._columns: dict[tuple[str, int, int], str] = {}
        self._stacks: dict[tuple[str, bool, int, int, int], str] = {}
        self._bands: dict[str, str] = {}
        self.squares: list[str] = []

    def square(self, shape: Shape, share: str) -> None:
        """Squared norms of shares, which wait for those of the other parameters."""
        self.squares.append(self._tape.op((self._batch,), self._tape.op(shape, share, share)))

    def forward(self, layer: Layer, value: str, parameters: Sequence[str], *added: str) -> str:
        """The layer's output, plus what is added in the same operator."""
        shape = (self._batch, *layer.output_shape)
        if _is_banded(layer) and not layer.has_bias:
            return self._by_channel(layer, value, self._band(layer, parameters[0]), layer.output_shape)
        workspace = (0, 0)
        if layer.kernel > 1 or layer.stride > 1:
            positions = prod(layer.output_shape[1:])
            workspace = convolution_workspace(self._batch, _weight_shape(layer), positions, layer.groups)
        place = 1 + len(parameters) if added else None
        return self._tape.op(shape, value, *parameters, *added, workspace=workspace, in_place=place)

    def input_gradient(self, layer: Layer, gradient: str, weight: str) -> str:
        """DX."""
        shape = (self._batch, *layer.input_shape)
        if _is_pointwise(layer):
            return self._tape.op((self._batch, layer.input_shape[0], prod(layer.input_shape[1:])), weight, gradient)
        if _is_banded(layer):
            band = self._band(layer, weight)
            return self._by_channel(layer, gradient, self._tape.op(self._tape.shapes[band], band), layer.input_shape)
        outputs, inputs, *kernel = _weight_shape(layer)
        is_depthwise = inputs == 1 < layer.groups
        positions = prod(layer.input_shape[1:])
        if layer.stride == 1 and (is_depthwise or outputs // layer.groups * _FEW_POSITIONS <= inputs * positions):
            mirrored = (inputs * layer.groups, outputs // layer.groups, *kernel)
            workspace = convolution_workspace(self._batch, mirrored, positions, layer.groups)
            return self._tape.op(shape, gradient, self._tape.op(mirrored, weight), workspace=workspace)
        unfolded = FLOAT_BYTES * inputs * prod(kernel) * prod(layer.output_shape[1:])
        return self._tape.op(shape, gradient, weight, workspace=(unfolded, unfolded))

    def shares(self, layer: Layer, gradient: str, value: str) -> list[tuple[str, int]]:
        """Each example's dW and bias gradient, which wait for the norms, and their numbers of parameters."""
        bias: list[tuple[str, int]] = []
        if layer.has_bias:
            shape = self._batch, layer.output_shape[0]
            bias.append((self._tape.op(shape, gradient), shape[1]))
            self.square(shape, bias[0][0])
        is_depthwise = _weight_shape(layer)[1] == 1
        if layer.groups == 1 and (_is_pointwise(layer) or _has_few_positions(layer)):
            share = self._outer(layer, gradient, value)
        elif is_depthwise and layer.stride > 1:
            share = self._by_convolution(layer, gradient, value)
        elif is_depthwise and layer.groups > 1:
            share = self._depthwise(layer, gradient, value)
        else:
            share = self._dense(layer, gradient, value)
        count = prod(_weight_shape(layer))
        self.square((self._batch, count), share)
        return [(share, count), *bias]

    def _outer(self, layer: Layer, gradient: str, value: str) -> str:
        outputs, *others = _weight_shape(layer)
        seen = value if _is_pointwise(layer) else self._unfolded(layer, value)
        return self._tape.op((self._batch, outputs, prod(others)), gradient, seen)

    def _by_convolution(self, layer: Layer, gradient: str, value: str) -> str:
        rows, size = self._batch * layer.input_shape[0], layer.kernel**2
        workspace = convolution_workspace(1, (rows, 1, *layer.output_shape[1:]), size, rows)
        return self._tape.op((1, rows, layer.kernel, layer.kernel), value, gradient, workspace=workspace)

    def _depthwise(self, layer: Layer, gradient: str, value: str) -> str:
        channels, height, width = layer.output_shape
        shape, padded, sums = (self._batch, channels, height * width), self._padded_rows(layer, gradient), []
        for _ in range(layer.kernel):
            moved = self._tape.op(shape, padded)
            for column in range(layer.kernel):
                product = self._tape.op(shape, moved, self._column(layer, value, column))
                sums.append(self._tape.op((self._batch, channels), product))
        return self._tape.op((self._batch, channels * len(sums)), *sums)

    def _dense(self, layer: Layer, gradient: str, value: str) -> str:
        outputs, inputs, height, width = _weight_shape(layer)
        outputs //= layer.groups
        moves_gradient = height * outputs + width * inputs <= _COPIES * height * width * inputs
        if not (moves_gradient and height > 1 and layer.stride == 1):
            seen = self._unfolded(layer, value)
            return self._tape.op((self._batch, layer.groups, inputs * height * width, outputs), seen, gradient)
        positions = prod(layer.output_shape[1:])
        key = value, False, width, 1, layer.dilation
        if key not in self._stacks:
            columns = [self._column(layer, value, column) for column in range(width)]
            self._stacks[key] = self._tape.op((self._batch, layer.input_shape[0], width, positions), *columns)
        right = self._stacks[key]
        padded = self._padded_rows(layer, gradient)
        shape = (self._batch, layer.output_shape[0], positions)
        rows = [self._tape.op(shape, padded) for _ in range(height)]
        left = self._tape.op((self._batch, layer.output_shape[0], height, positions), *rows)
        return self._tape.op((self._batch, layer.groups, height * outputs, width * inputs), left, right)

    def _unfolded(self, layer: Layer, value: str) -> str:
        """The values that each kernel position multiplies."""
        key = value, True, layer.kernel, layer.stride, layer.dilation
        if key not in self._stacks:
            self._stacks[key] = self._unfold(layer, value)
        return self._stacks[key]

    def _unfold(self, layer: Layer, value: str) -> str:
        channels, *size = layer.input_shape
        if begin := _padding(layer):
            value = self._tape.op((self._batch, channels, *(side + 2 * begin for side in size)), value)
        shape = (self._batch, channels, *layer.output_shape[1:])
        moved = [self._tape.op(shape, value) for _ in range(layer.kernel**2)]
        stacked = (self._batch, channels, len(moved), prod(layer.output_shape[1:]))
        return self._tape.op(stacked, *moved) if len(moved) > 1 else moved[0]

    def _padded_rows(self, layer: Layer, gradient: str) -> str:
        channels, height, width = layer.output_shape
        return self._tape.op((self._batch, channels, height + 2 * _padding(layer), width), gradient)

    def _column(self, layer: Layer, value: str, column: int) -> str:
        """Input moved along its rows; what came from the next row is made zero."""
        begin, start = _padding(layer), column * layer.dilation
        channels, positions = layer.input_shape[0], prod(layer.input_shape[1:])
        if (value, begin, -1) not in self._columns:
            self._columns[value, begin, -1] = self._tape.op((self._batch, channels, positions + 2 * begin), value)
        if (value, begin, start) not in self._columns:
            shape = (self._batch, channels, positions)
            moved = self._tape.op(shape, self._columns[value, begin, -1])
            self._columns[value, begin, start] = moved if start == begin else self._tape.op(shape, moved)
        return self._columns[value, begin, start]

    def _band(self, layer: Layer, weight: str) -> str:
        if layer.name not in self._bands:
            channels, *size = layer.input_shape
            self._bands[layer.name] = self._tape.op((channels, prod(size), prod(layer.output_shape[1:])), weight)
        return self._bands[layer.name]

    def _by_channel(self, layer: Layer, value: str, band: str, after: Shape) -> str:
        channels, positions = layer.input_shape[0], prod(after[1:])
        turned = self._tape.op((channels, self._batch, prod(self._tape.shapes[band]) // channels // positions), value)
        product = self._tape.op((channels, self._batch, positions), turned, band)
        return self._tape.op((self._batch, channels, positions), product)


def _weight_shape(layer: Layer) -> Shape:
    return layer.output_shape[0], layer.input_shape[0] // layer.groups, layer.kernel, layer.kernel


def _padding(layer: Layer) -> int:
    return layer.dilation * (layer.kernel // 2)


def _is_pointwise(layer: Layer) -> bool:
    return layer.groups == layer.kernel == layer.stride == 1


def _is_banded(layer: Layer) -> bool:
    is_depthwise = layer.input_shape[0] == layer.output_shape[0] == layer.groups > 1
    return is_depthwise and prod(layer.input_shape[1:]) * prod(layer.output_shape[1:]) <= _BANDED


def _has_few_positions(layer: Layer) -> bool:
    outputs, *others = _weight_shape(layer)
    positions, columns = prod(layer.output_shape[1:]), prod(others)
    return positions == 1 or positions * (outputs + columns) <= outputs * columns
