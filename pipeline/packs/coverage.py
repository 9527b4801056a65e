"""Which networks a measurement pack holds: some that show most kernels of a search space, many drawn by chance."""

from collections.abc import Collection, Iterable
from itertools import chain

import numpy as np

from profiles.kernel import Kernel
from search.architecture import Architecture
from search.cell_space import CellSpace
from search.cost import kernels_of, training_kernels_of
from search.options import HyperParameterOptions, StageOptions, StemOptions
from search.space import SearchSpace, Space

_DRAWS = 8  # networks drawn for each that is taken
_NUM_TELLING, _NUM_RANDOM = 24, 150  # of a space


def telling_architectures(space: Space, num_networks: int) -> tuple[Architecture, ...]:
    """Networks that show most kernels of a space, the most telling first; the same every time.

    Its smallest and its largest, of cells the supernet, which phones may train, then of many drawn ones that with the
    most kernels that none before has, again and again. A kernel that none of them has is predicted from others.
    """
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
    """Networks drawn as a search draws them, none of `known`; the same every time. Fewer where the space has no more.

    They tell what is usual in the space.
    """
    rng = np.random.default_rng(1)
    drawn = (space.sample(rng).architecture for _ in range(_DRAWS * num_networks))
    found = dict[Architecture, None]()
    while len(found) < num_networks and (network := next(drawn, None)) is not None:
        if network not in known:
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
    """The telling networks of the default pack: of each of its spaces in turns."""
    return _in_turns(telling_architectures(space, _NUM_TELLING) for space in default_spaces())


def default_random() -> tuple[Architecture, ...]:
    """The random networks of the default pack: of each of its spaces in turns."""
    known = set(default_architectures())
    return _in_turns(random_architectures(space, _NUM_RANDOM, known) for space in default_spaces())


def _in_turns(found: Iterable[tuple[Architecture, ...]]) -> tuple[Architecture, ...]:
    return tuple(chain(*zip(*found, strict=True)))


def _own_kernels(network: Architecture) -> frozenset[Kernel]:
    return frozenset((*kernels_of(network), *training_kernels_of(network)))
