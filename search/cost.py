"""What an architecture costs on a device: latency, time of a training step, peak memory while training, size."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import nan
from types import MappingProxyType

from profiles.kernel import BYTES_PER_VALUE, JOINING, Kernel
from profiles.placement import placed
from profiles.predict import METHODS, Method, Prediction, predict_kernels
from profiles.schema import DeviceProfile, Direction, KernelKey
from search.architecture import Architecture
from search.layers import Layer, layers_of
from search.liveness import peak_of
from search.training_graph import training_program

WITHOUT_WORK = frozenset({"flatten", "identity", "choice"})  # a choice's softmax is part of the mixes that read it
# What lies idle between values varies with the smallest of them, of which some are left out; rather over than under.
IDLE_SHARE = 1.03


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


def cost_of(architecture: Architecture, profile: DeviceProfile, batch_size: int, *, needs_memory: bool = True) -> Cost:
    """Predict an architecture's cost on a device, training in chunks of `batch_size` examples.

    Args:
        needs_memory: False leaves `peak_memory_mib` at NaN; it takes milliseconds, all the rest microseconds.

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
        peak_memory_mib=peak_memory_bytes(architecture, batch_size) / 2**20 if needs_memory else nan,
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
    """The kernels of one inference of the shipped model, in execution order, repeated as often as they run."""
    return placed(_layer_kernels(architecture), _reads(_layers(architecture)))


def _reads(layers: Sequence[Layer]) -> list[list[int]]:
    """Of each kernel the places of those whose values it reads; what has no kernel passes on what it reads."""
    makers: dict[str, list[int]] = {}
    found: list[list[int]] = []
    for layer in layers:
        read = [place for name in layer.inputs for place in makers.get(name, ())]
        if layer.kind in WITHOUT_WORK:
            makers[layer.name] = read
        else:
            makers[layer.name] = [len(found)]
            found.append(read)
    return found


@lru_cache(maxsize=256)
def _layer_kernels(architecture: Architecture) -> tuple[Kernel, ...]:
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
    return (*_layer_kernels(architecture), _loss_kernel(architecture))


@lru_cache(maxsize=256)
def training_kernels_of(architecture: Architecture) -> tuple[Kernel, ...]:
    """The kernels of gradient.onnx: the layers', the first without a gradient of its input, then loss, norms, clip."""
    first, *others = _layer_kernels(architecture)
    return (replace(first, kind="first_conv"), *others, _loss_kernel(architecture))


KERNELS_OF: Mapping[Direction, Callable[[Architecture], tuple[Kernel, ...]]] = MappingProxyType(
    {"forward": kernels_of, "evaluate": evaluation_kernels_of, "gradient": training_kernels_of}
)


def kernel_keys(architecture: Architecture, batch_size: int) -> list[KernelKey]:
    """All that a network does on phones, with repeats: `forward` for one example, the others for `batch_size`."""
    return [
        (kernel, 1 if direction == "forward" else batch_size, direction)
        for direction, kernels in KERNELS_OF.items()
        for kernel in kernels(architecture)
    ]


@lru_cache(maxsize=256)
def peak_memory_bytes(architecture: Architecture, batch_size: int) -> int:
    """Bytes that one run of gradient.onnx over `batch_size` examples takes in ONNX Runtime's arena, simulated.

    That is parameters, values that a backward rule reads, each example's gradients while they wait for the norms, what
    lives only while a layer's gradient is computed, and what lies idle between them; within 10% of the same of the
    compiled graph, in some milliseconds (`bench/predict_memory.py`).

    Leaves out the runtime itself, some 3 KiB an operator, and the examples that wait for their chunk.
    """
    return round(IDLE_SHARE * peak_of(training_program(_layers(architecture), batch_size)).written)


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


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
