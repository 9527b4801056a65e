"""Prune a network block by block: narrower stems and stages, on the server, without a client.

Widths are multiples of 8, and at last 4 ("NetAdapt", arXiv:1804.03230; FedNAS, arXiv:2002.06352). Stages tied by a skip
are pruned together, since a sum needs equal widths. The output layer is never pruned.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from search.architecture import Architecture
from search.layers import layers_of
from search.space import SearchSpace

WIDTH_STEP, LEAST_WIDTH = 8, 4
_HALVINGS = 20  # of a reduction that no block can give alone
Block = tuple[int, ...]  # places that have one width: 0 is the stem, i + 1 stage i


def blocks_of(network: Architecture) -> tuple[Block, ...]:
    """The prunable blocks, in execution order."""
    blocks: list[Block] = [(0,)]
    tied = _stages_with_skip_from_before(network)
    for stage in range(len(network.stages)):
        place = stage + 1
        if stage in tied:
            blocks[-1] = (*blocks[-1], place)
        else:
            blocks.append((place,))
    return tuple(blocks)


def width_of(network: Architecture, block: Block) -> int:
    """Output channels of a block."""
    return network.stem.width if block[0] == 0 else network.stages[block[0] - 1].width


def with_width(network: Architecture, block: Block, width: int) -> Architecture:
    """The network with a block of another width."""
    stem = replace(network.stem, width=width) if 0 in block else network.stem
    stages = tuple(
        replace(stage, width=width) if place in block else stage for place, stage in enumerate(network.stages, start=1)
    )
    return replace(network, stem=stem, stages=stages)


def narrower(width: int) -> Iterator[int]:
    """All smaller widths, the next one first."""
    below = (width - 1) // WIDTH_STEP * WIDTH_STEP
    yield from range(below, 0, -WIDTH_STEP)
    if width > LEAST_WIDTH:
        yield LEAST_WIDTH


def narrowed(space: SearchSpace) -> SearchSpace:
    """The space with every width that its networks' blocks may be narrowed to."""

    def every(widths: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted({*widths}.union(*map(narrower, widths))))

    stem = replace(space.stem, widths=every(space.stem.widths))
    return replace(space, stem=stem, stages=replace(space.stages, widths=every(space.stages.widths)))


def prune(
    network: Architecture, block: Block, load: Callable[[Architecture], float], target: float
) -> Architecture | None:
    """The network with this block as wide as brings its load to `target` or below.

    Where no width does, the one that needs least, as in NetAdapt's published code; None where none lowers the load.

    Args:
        load: What the whole network needs.
    """
    best, least = None, load(network)
    for width in narrower(width_of(network, block)):
        pruned = with_width(network, block, width)
        # Equal widths would let an inverted block add what it did not add: no part of the network any more.
        if blocks_of(pruned) != blocks_of(network) or (needed := load(pruned)) >= least:
            continue
        best, least = pruned, needed
        if needed <= target:
            break
    return best


def reduce_one_block(
    network: Architecture, load: Callable[[Architecture], float], reduction: float
) -> tuple[Architecture, ...]:
    """One network a block, its load lower by `reduction`, or by as much as that block alone can give.

    Blocks that lower nothing have none.
    """
    target = load(network) - reduction
    pruned = (prune(network, block, load, target) for block in blocks_of(network))
    return tuple(one for one in pruned if one is not None)


def reduce_one_able_block(
    network: Architecture, load: Callable[[Architecture], float], reduction: float
) -> tuple[Architecture, ...]:
    """One network a block that can lower the load by `reduction` alone; by half of it, and so on, where none can.

    Empty where what is left to narrow lowers the load by next to nothing.
    """
    now = load(network)
    for halving in range(_HALVINGS):
        less = reduction / 2**halving
        if able := tuple(one for one in reduce_one_block(network, load, less) if load(one) <= now - less):
            return able
    return ()


def scale_widths(network: Architecture, factor: float) -> Architecture:
    """Every block `factor` times as wide, rounded to the nearest width that there is; the usual way to a smaller net.

    Raises:
        ValueError: When factor is not > 0.
    """
    if not factor > 0:
        raise ValueError(f"factor must be > 0, got {factor}")
    for block in blocks_of(network):
        width = width_of(network, block)
        network = with_width(network, block, min((width, *narrower(width)), key=lambda w: abs(w - factor * width)))
    return network


def _stages_with_skip_from_before(network: Architecture) -> set[int]:
    """Stages whose first block adds its input, so that stage and predecessor have one width."""
    firsts = {f"stages.{stage}.0.add": stage for stage in range(len(network.stages))}
    return {firsts[layer.name] for layer in layers_of(network) if layer.name in firsts}
