"""A kernel: one layer for one example, as latency tables know it."""

from dataclasses import dataclass
from math import prod
from typing import Literal

from profiles.records import later

Beside = Literal["", "before", "after", "both", "sum", "before, sum", "sum, after"]
BYTES_PER_VALUE = 4  # float32
CONVOLUTIONS = frozenset({"conv", "first_conv"})
POOLINGS = frozenset({"max_pool", "average_pool"})
JOINING = frozenset({"add", "concat", "mix"})  # read several values of one shape


@dataclass(frozen=True)
class Kernel:
    """One layer for ONE example, without its name: `search.layers` says what the fields mean.

    Attributes:
        kind: A layer's kind; or `first_conv`, a convolution of the examples themselves, whose gradient ends there;
            `fused_relu`, a relu straight behind a convolution, with which runtimes fuse it; `cross_entropy`, what a
            step does after the last layer: loss, norms and clip; `call`, an empty graph.
        kernel, stride, groups: Of a convolution; 1 elsewhere but for the window of a pooling and the groups of a
            normalisation.
        dilation: Of a convolution.
        num_inputs: Values of the input shape that an `add`, a `concat` or a `mix` reads, the shares of a mix apart,
            whose softmax is part of it; without meaning elsewhere.
        has_bias: Of a convolution: without one a normalisation follows, and runtimes and our compiler take other ways.
        beside: In a shipped model, whether runtimes have what it reads ("before"), what it gives ("after") or both in
            a layout of their own, see `profiles.placement`: else values are reordered, which takes up to six times as
            long as the kernel. An `add` that is done while a convolution is computed has "sum", and so has the latter.
    """

    kind: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    dilation: int = later(1)
    num_inputs: int = later(2)
    has_bias: bool = later(True)
    beside: Beside = later("")

    @property
    def family(self) -> str:
        """Kernels that are computed alike: the kind, and for a convolution which of three."""
        if self.kind != "conv":
            return self.kind
        if self.groups == self.input_shape[0] > 1:
            return "depthwise_conv"
        return "pointwise_conv" if self.kernel == 1 else "conv"

    @property
    def placed_family(self) -> str:
        """The family, and beside what: kernels whose times follow from each other's."""
        return f"{self.family}, {self.beside}" if self.beside else self.family

    def multiply_accumulates(self) -> int:
        """Of one example's forward pass; of a pooling the values in its windows; 0 for what has neither."""
        if self.kind in CONVOLUTIONS:
            return prod(self.output_shape) * self.input_shape[0] // self.groups * self.kernel**2
        if self.kind in POOLINGS:
            return prod(self.output_shape) * self.kernel**2
        if self.kind == "mix":
            return prod(self.output_shape) * self.num_inputs
        return prod(self.input_shape) * prod(self.output_shape) if self.kind == "linear" else 0

    def num_parameters(self) -> int:
        """Trainable values of the layer with a bias."""
        outputs = self.output_shape[0] if self.output_shape else 0
        if self.kind in CONVOLUTIONS:
            return outputs * (self.input_shape[0] // self.groups * self.kernel**2 + 1)
        if self.kind == "linear":
            return outputs * (self.input_shape[0] + 1)
        if self.kind == "mix":
            return self.num_inputs
        return 2 * outputs if self.kind == "group_norm" else 0

    def work(self, batch_size: int) -> int:
        """Multiply-accumulates and bytes together, since a byte takes about as long as an operation."""
        return batch_size * self.multiply_accumulates() + self.bytes_moved(batch_size)

    def bytes_moved(self, batch_size: int) -> int:
        """Bytes read and written by a forward pass: inputs, outputs and parameters, each once."""
        num_inputs = self.num_inputs if self.kind in JOINING else 1
        values = batch_size * (num_inputs * prod(self.input_shape) + prod(self.output_shape)) + self.num_parameters()
        return BYTES_PER_VALUE * values
