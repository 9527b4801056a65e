"""What an architecture costs on a device: latency, time of a training step, peak memory while training, size."""

from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

from profiles.predict import METHODS, Method, Prediction, predict_kernels
from profiles.schema import BYTES_PER_VALUE, JOINING, DeviceProfile, Kernel
from search.architecture import Architecture
from search.layers import INPUT, Layer, layers_of

_VIEWS = frozenset({"flatten", "identity"})  # of the same values
WITHOUT_WORK = _VIEWS | {"choice"}  # whose softmax is part of the mixes that read it
_INPUT_KEPT = frozenset({"conv", "linear", "hard_swish", "mix"})  # a gradient reads what the layer read
_OUTPUT_KEPT = frozenset({"relu"})  # ... or what it gave
_INNER_KEPT = {"group_norm": 2, "hard_swish": 2}  # ... or values in between, in sizes of the input
_POSITION = 2  # values that the place of a maximum takes: it is an int64
_INNER_PASSING = {"group_norm": 4, "hard_swish": 4}  # gradients of values in between, at their fullest


@dataclass(frozen=True)
class Cost:
    """What an architecture costs on one device.

    Attributes:
        latency_ms: Of one inference, batch 1.
        training_step_ms: Of one run of gradient.onnx over a chunk of B examples, forward and backward.
        peak_memory_mib: Of that run, see `peak_memory_bytes`.
        size_kib: Of the parameters as float32.
        macs: Multiply-accumulates of one example's forward pass.
        method: The least sure one among the predicted kernels'.
    """

    latency_ms: float
    training_step_ms: float
    peak_memory_mib: float
    size_kib: float
    macs: int
    parameters: int
    method: Method


def cost_of(architecture: Architecture, profile: DeviceProfile, batch_size: int) -> Cost:
    """Predict an architecture's cost on a device, training in chunks of `batch_size` examples.

    Raises:
        ValueError: When batch_size is not >= 1.
    """
    _check_batch_size(batch_size)
    layers = _layers(architecture)
    latency = predict_latency(architecture, profile)
    training = predict_training_step(architecture, profile, batch_size)
    parameters = sum(layer.num_parameters() for layer in layers)
    return Cost(
        latency_ms=latency.median_ms,
        training_step_ms=training.median_ms,
        peak_memory_mib=peak_memory_bytes(architecture, batch_size) / 2**20,
        size_kib=BYTES_PER_VALUE * parameters / 1024,
        macs=sum(layer.multiply_accumulates() for layer in layers),
        parameters=parameters,
        method=max(latency.method, training.method, key=METHODS.index),
    )


def predict_latency(architecture: Architecture, profile: DeviceProfile) -> Prediction:
    """One inference of the shipped model, batch 1, with its intervals."""
    return predict_kernels(profile, kernels_of(architecture), 1, "forward")


def predict_training_step(architecture: Architecture, profile: DeviceProfile, batch_size: int) -> Prediction:
    """One run of gradient.onnx over a chunk of `batch_size` examples, with its intervals."""
    _check_batch_size(batch_size)
    return predict_kernels(profile, training_kernels_of(architecture), batch_size, "gradient")


def forward_chunk_ms(architecture: Architecture, profile: DeviceProfile, batch_size: int) -> float:
    """Milliseconds of one run of evaluate.onnx over a chunk of `batch_size` examples."""
    _check_batch_size(batch_size)
    return predict_kernels(profile, evaluation_kernels_of(architecture), batch_size, "evaluate").median_ms


def training_chunk_ms(architecture: Architecture, profile: DeviceProfile, batch_size: int) -> float:
    """Milliseconds of one run of gradient.onnx over a chunk of `batch_size` examples."""
    return predict_training_step(architecture, profile, batch_size).median_ms


@lru_cache(maxsize=256)
def kernels_of(architecture: Architecture) -> tuple[Kernel, ...]:
    """The kernels of one inference, in execution order, repeated as often as they run."""
    layers = _layers(architecture)
    convolutions = {layer.name for layer in layers if layer.kind == "conv"}
    return tuple(
        replace(_kernel(layer), kind="fused_relu")
        if layer.kind == "relu" and layer.inputs[0] in convolutions
        else _kernel(layer)
        for layer in layers
        if layer.kind not in WITHOUT_WORK
    )


@lru_cache(maxsize=256)
def evaluation_kernels_of(architecture: Architecture) -> tuple[Kernel, ...]:
    """The kernels of evaluate.onnx: the layers', then the loss."""
    return (*kernels_of(architecture), _loss_kernel(architecture))


@lru_cache(maxsize=256)
def training_kernels_of(architecture: Architecture) -> tuple[Kernel, ...]:
    """The kernels of gradient.onnx: the layers', the first without a gradient of its input, then loss, norms, clip."""
    first, *others = kernels_of(architecture)
    return (replace(first, kind="first_conv"), *others, _loss_kernel(architecture))


def peak_memory_bytes(architecture: Architecture, batch_size: int) -> int:
    """Bytes that one run of gradient.onnx over `batch_size` examples holds at its fullest, by bookkeeping.

    Counts the parameters twice (the vector and its parts) and their summed gradient twice (likewise); every value that
    a backward rule reads; each example's gradient of every convolution and normalisation, which wait for the norms (a
    linear layer's stays an outer product); and, of the layer where it is most, what lives only while that layer's
    gradient is computed: gradients of its input and output, and of a convolution the unfolded input.

    Leaves out the runtime itself, what its allocator holds in reserve, and the examples that wait for their chunk.
    """
    layers = _layers(architecture)
    shared = 4 * sum(layer.num_parameters() for layer in layers)
    waiting = sum(layer.num_parameters() for layer in layers if layer.kind != "linear")
    passing = max(_passing_values(layer) for layer in layers)
    return BYTES_PER_VALUE * (shared + batch_size * (_kept_values(layers) + waiting + passing))


@lru_cache(maxsize=256)
def _layers(architecture: Architecture) -> tuple[Layer, ...]:
    return layers_of(architecture)


def _loss_kernel(architecture: Architecture) -> Kernel:
    return Kernel("cross_entropy", (architecture.num_classes,), (1,))


def _kernel(layer: Layer) -> Kernel:
    shapes, window = (layer.input_shape, layer.output_shape), (layer.kernel, layer.stride, layer.groups, layer.dilation)
    if layer.kind in JOINING:
        return Kernel(layer.kind, *shapes, num_inputs=len(layer.values_read()))
    return Kernel(layer.kind, *shapes, *window, has_bias=layer.has_bias or layer.kind != "conv")


def _kept_values(layers: tuple[Layer, ...]) -> int:
    """Values an example that live from the forward to the backward pass; what two layers read is there once."""
    shown = {INPUT: INPUT}  # the layer whose values a name stands for
    for layer in layers:
        shown[layer.name] = shown[layer.inputs[0]] if layer.kind in _VIEWS else layer.name
    readers = [layer for layer in layers if layer.kind in _INPUT_KEPT]
    named = {shown[name]: prod(layer.input_shape) for layer in readers for name in layer.values_read()}
    named |= {layer.name: prod(layer.output_shape) for layer in layers if layer.kind in _OUTPUT_KEPT}
    inner = sum(_INNER_KEPT.get(layer.kind, 0) * prod(layer.input_shape) for layer in layers)
    positions = _POSITION * sum(prod(layer.output_shape) for layer in layers if layer.kind == "max_pool")
    return sum(named.values()) + inner + positions


def _passing_values(layer: Layer) -> int:
    """Values an example that live only while a layer's gradient is computed."""
    num_inputs = len(layer.values_read()) if layer.kind in ("mix", "concat") else 1  # a sum has one gradient for all
    gradients = num_inputs * prod(layer.input_shape) + prod(layer.output_shape)
    if layer.kind == "max_pool":
        return gradients + _POSITION * prod(layer.output_shape)  # a copy of them
    if layer.kind != "conv":
        return gradients + _INNER_PASSING.get(layer.kind, 0) * prod(layer.input_shape)
    if layer.groups == layer.input_shape[0] or layer.kernel == 1:
        return gradients  # computed as a convolution or a product, without unfolding
    columns = layer.input_shape[0] // layer.groups * layer.kernel**2
    unfolded = columns * layer.groups * prod(layer.output_shape[1:])
    return gradients + 2 * unfolded  # and its transposed copy


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
