"""A simulated device: what kernels and networks take is known, and disturbed as measurements are. No real one."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from profiles.kernel import Kernel
from profiles.schema import DeviceProfile, Direction, KernelTime, NetworkTime
from search.architecture import Architecture
from search.cost import kernels_of, training_kernels_of
from search.options import HyperParameterOptions, StageOptions, StemOptions
from search.space import SearchSpace

SPACE = SearchSpace(
    input_shape=(3, 16, 16),
    num_classes=10,
    stem=StemOptions((8, 16, 24), (3, 5)),
    stages=StageOptions(("depthwise", "inverted"), (8, 16, 24, 32), (1, 2), (3, 5), (1, 2), (1, 3)),
    hyper_parameters=HyperParameterOptions(learning_rate=(0.1,), local_steps=(1,), batch_size=(16,)),
    max_stages=3,
    heads=("flatten", "global_average"),
    normalizations=("none", "group"),
)
WATCHING_MS = 0.0015  # what the profiler adds to each kernel
CALL_MS = 0.002
NOISE = 0.02  # of the log of a median
BATCH_SIZE = 16


def draw_architectures(num: int, seed: int) -> list[Architecture]:
    """Different networks of `SPACE`."""
    rng = np.random.default_rng(seed)
    found: dict[Architecture, None] = {}
    while len(found) < num:
        found[SPACE.sample(rng).architecture] = None
    return [*found]


def kernel_ms(kernel: Kernel, batch_size: int, direction: Direction) -> float:
    """What a kernel truly takes: work, with a jump where channels are no multiple of 16, and a part for its bytes."""
    rate = {"conv": 4e6, "first_conv": 3e6, "linear": 1e6}.get(kernel.kind, 2e6)
    slow = 1.3 if kernel.output_shape[0] % 16 else 1.0
    factor = 3.0 if direction == "gradient" else 1.0
    work = batch_size * kernel.multiply_accumulates() / rate * slow
    moved = kernel.bytes_moved(batch_size) / 8e6
    return factor * (0.001 + work + moved + 1e-5 * prod(kernel.input_shape))


def network_ms(kernels: Sequence[Kernel], batch_size: int, direction: Direction) -> float:
    """A whole network: activations after convolutions are free, caches save a tenth."""
    kept = [kernel for kernel in kernels if kernel.kind != "relu"]
    return CALL_MS + 0.9 * sum(kernel_ms(kernel, batch_size, direction) for kernel in kept)


def kernels_by_way(architecture: Architecture) -> list[tuple[tuple[Kernel, ...], int, Direction]]:
    """A network as it is measured, forward for one example and gradient for a batch."""
    return [(kernels_of(architecture), 1, "forward"), (training_kernels_of(architecture), BATCH_SIZE, "gradient")]


def measure(profile: DeviceProfile, architectures: Sequence[Architecture], seed: int = 0) -> DeviceProfile:
    """The profile with the kernels and networks that a session over these architectures would write."""
    rng = np.random.default_rng(seed)
    networks = [way for architecture in architectures for way in kernels_by_way(architecture)]
    keys = dict.fromkeys((kernel, size, way) for kernels, size, way in networks for kernel in kernels)
    kernels = tuple(KernelTime(*key, *_summary(kernel_ms(*key) + WATCHING_MS, rng)) for key in keys)
    measured = tuple(NetworkTime(*network, *_summary(network_ms(*network), rng)) for network in networks)
    return replace(profile, kernels=kernels, networks=measured)


def _summary(ms: float, rng: np.random.Generator) -> tuple[float, float, float, float, int]:
    median = ms * float(np.exp(NOISE * rng.standard_normal()))
    return median, 1.05 * median, 0.95 * median, 0.05, 30
