"""Which kernels a measurement pack must hold for a set of architectures."""

from collections.abc import Iterable

import numpy as np

from pipeline.packs.kernel_graphs import CALL
from profiles.schema import KernelKey
from search.architecture import Architecture, Stage, Stem
from search.cell_space import CellSpace
from search.cost import evaluation_kernels_of, kernels_of, training_kernels_of
from search.space import Space


def kernel_keys(architectures: Iterable[Architecture], batch_size: int) -> tuple[KernelKey, ...]:
    """Distinct kernels of all architectures: forward for one example, evaluate and gradient for B; an empty call."""
    keys: dict[KernelKey, None] = {(CALL, 1, "forward"): None}
    for architecture in architectures:
        keys |= dict.fromkeys((kernel, 1, "forward") for kernel in kernels_of(architecture))
        keys |= dict.fromkeys((kernel, batch_size, "evaluate") for kernel in evaluation_kernels_of(architecture))
        keys |= dict.fromkeys((kernel, batch_size, "gradient") for kernel in training_kernels_of(architecture))
    return tuple(keys)


def drawn_architectures(space: Space, num_draws: int) -> tuple[Architecture, ...]:
    """Networks that show most kernels of a space: its smallest, its largest and some drawn (the same every time).

    And of cells the supernet, which phones may train.

    A kernel that none of them has is predicted from the most alike one.
    """
    rng = np.random.default_rng(0)
    drawn = (space.sample(rng).architecture for _ in range(num_draws))
    supernet = (space.supernet(),) if isinstance(space, CellSpace) else ()
    return tuple(dict.fromkeys((space.smallest(), space.largest(), *supernet, *drawn)))


def default_architectures() -> tuple[Architecture, ...]:
    """The networks behind the default pack: every layer of blocks, for images of 8x8 grey and 32x32 colour pixels.

    What cells add (pooling, sums of more than two, mixes, all channels of several) is predicted from the throughput
    until a pack of a run file with [cells] measures it.
    """
    grey, colour = (1, 8, 8), (3, 32, 32)
    return (
        Architecture(grey, 10, Stem(8), (Stage("depthwise", 16), Stage("inverted", 16, 1, 3, 1, 2))),
        Architecture(grey, 10, Stem(16, 5, 2), (Stage("depthwise", 32, 1, 5),), normalization="group"),
        Architecture(
            colour,
            10,
            Stem(16),
            (Stage("depthwise", 32, 1, 3, 2), Stage("inverted", 32, 1, 3, 1, 3), Stage("inverted", 64, 1, 5, 2, 3)),
            head="global_average",
            normalization="group",
            activation="hard_swish",
        ),
        Architecture(colour, 10, Stem(32, 5, 2), (Stage("depthwise", 64, 1, 3, 2), Stage("depthwise", 128, 1, 3, 2))),
    )
