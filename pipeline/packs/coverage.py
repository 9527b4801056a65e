"""Which networks a measurement pack holds: those that show most kernels of a search space."""

from collections.abc import Collection, Iterable
from itertools import chain

import numpy as np

from pipeline.packs.networks import CALL
from profiles.kernel import Kernel
from profiles.schema import KernelKey
from search.architecture import Architecture
from search.cell_space import CellSpace
from search.cost import evaluation_kernels_of, kernels_of, training_kernels_of
from search.options import HyperParameterOptions, StageOptions, StemOptions
from search.space import SearchSpace, Space

_DRAWS = 8  # networks drawn for each that is taken
_TELLING = 24
_DEFAULT_NETWORKS, _DEFAULT_SHIPPED = 64, 110  # of each default space


def kernel_keys(architectures: Iterable[Architecture], batch_size: int) -> tuple[KernelKey, ...]:
    """Distinct kernels of all architectures: forward for one example, evaluate and gradient for B; an empty call."""
    keys: dict[KernelKey, None] = {(CALL, 1, "forward"): None}
    for architecture in architectures:
        keys |= dict.fromkeys((kernel, 1, "forward") for kernel in kernels_of(architecture))
        keys |= dict.fromkeys((kernel, batch_size, "evaluate") for kernel in evaluation_kernels_of(architecture))
        keys |= dict.fromkeys((kernel, batch_size, "gradient") for kernel in training_kernels_of(architecture))
    return tuple(keys)


def drawn_architectures(space: Space, num_networks: int) -> tuple[Architecture, ...]:
    """Networks of a space, the most telling first; the same every time.

    The first 24 show most of its kernels: its smallest and its largest, of cells the supernet, which phones may train,
    then of many drawn ones that with the most kernels that none before has, again and again. A kernel that none of them
    has is predicted from others. The rest are drawn as a search draws them: they tell what is usual in the space.
    """
    telling = _telling_architectures(space, min(num_networks, _TELLING))
    return (*telling, *random_architectures(space, num_networks - len(telling), telling))


def _telling_architectures(space: Space, num_networks: int) -> tuple[Architecture, ...]:
    rng = np.random.default_rng(0)
    supernet = (space.supernet(),) if isinstance(space, CellSpace) else ()
    ends = tuple(dict.fromkeys((space.smallest(), space.largest(), *supernet)))
    drawn = dict.fromkeys(space.sample(rng).architecture for _ in range(_DRAWS * num_networks))
    pool = {network: _own_kernels(network) for network in drawn if network not in ends}
    shown = set().union(*map(_own_kernels, ends))
    found = list(ends)
    while pool and len(found) < num_networks:
        best = max(pool, key=lambda network: len(pool[network] - shown))
        shown |= pool.pop(best)
        found.append(best)
    return tuple(found)


def random_architectures(space: Space, num_networks: int, known: Collection[Architecture]) -> tuple[Architecture, ...]:
    """Networks of a space by chance, none of `known`; the same every time. Fewer where it has no more."""
    rng, found = np.random.default_rng(1), dict[Architecture, None]()
    for _ in range(_DRAWS * num_networks):
        network = space.sample(rng).architecture
        if network not in known and len(found) < num_networks:
            found[network] = None
    return tuple(found)


def default_spaces() -> tuple[SearchSpace, ...]:
    """What the default pack is drawn from: blocks over images of 8x8 grey and 32x32 colour pixels, ten classes.

    What cells add (pooling, sums of more than two, mixes, all channels of several) is predicted from the throughput
    until a pack of a run file with [cells] measures it.
    """
    return tuple(
        SearchSpace(
            input_shape=shape,
            num_classes=10,
            stem=StemOptions((8, 16, 32), (3, 5), (1, 2)),
            stages=StageOptions(("depthwise", "inverted"), (8, 16, 32), (1, 2), (3, 5), (1, 2), (2, 3)),
            hyper_parameters=HyperParameterOptions((0.1,), local_steps=(1,)),
            max_stages=3,
            heads=("global_average", "flatten"),
            normalizations=("none", "group"),
            activations=("relu", "hard_swish"),
        )
        for shape in ((1, 8, 8), (3, 32, 32))
    )


def default_architectures() -> tuple[Architecture, ...]:
    """The networks of the default pack: of each of its spaces in turns."""
    return tuple(
        chain(*zip(*(drawn_architectures(space, _DEFAULT_NETWORKS) for space in default_spaces()), strict=True))
    )


def default_shipped() -> tuple[Architecture, ...]:
    """The networks of which the default pack has the shipped model alone."""
    known = set(default_architectures())
    return tuple(
        chain(*zip(*(random_architectures(space, _DEFAULT_SHIPPED, known) for space in default_spaces()), strict=True))
    )


def _own_kernels(network: Architecture) -> frozenset[Kernel]:
    return frozenset((*kernels_of(network), *training_kernels_of(network)))
