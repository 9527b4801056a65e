"""Where a shipped model's values are in ONNX Runtime's own layout, blocks of channels (its NCHWc), and where reordered.

Convolutions and pools give blocks; sums and joins do where all that they read is in blocks. Where somebody else reads
such a value, or a convolution or pool reads another, a node reorders it. An `add` of two is done by a convolution that
gives to it alone. After `nchwc_transformer.cc`; a global average is not among them, since shipped models have it as a
mean over axes.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from profiles.kernel import CONVOLUTIONS, POOLINGS, Beside, Kernel

Places = Sequence[Sequence[int]]
_BLOCK = 16  # channels, of AVX-512: a convolution over all channels reads fewer as they are. AVX2 has 8


def placed(kernels: Sequence[Kernel], reads: Places | None = None, apart: Collection[int] = ()) -> tuple[Kernel, ...]:
    """The kernels of a shipped model, in order and with repeats, each told beside what it stands.

    Args:
        reads: Of each the places of those whose values it reads; left out, each reads the one before it.
        apart: Places of those that neither take blocks nor give them, whatever their kind.
    """
    reads = reads or [(place - 1,) if place else () for place in range(len(kernels))]
    makers = _makers(kernels, reads)
    takes, gives = _in_blocks(kernels, makers, apart)
    readers = _readers(makers)
    keeps = [gives[place] and bool(them) and all(takes[one] for one in them) for place, them in enumerate(readers)]
    sums = _sums(kernels, reads, readers, takes)
    return tuple(
        replace(kernel, beside=_beside(kernel, takes[place], keeps[place], place in sums))
        for place, kernel in enumerate(kernels)
    )


def is_of_old_labels(kernels: Iterable[Kernel]) -> bool:
    """Whether they were labelled by their neighbours' kinds alone, as older versions did."""
    return any(kernel.kind == "global_average" and kernel.beside for kernel in kernels)


def _makers(kernels: Sequence[Kernel], reads: Places) -> list[list[int]]:
    """Of each kernel those that make what it reads. A fused relu makes and reads nothing: it is part of another."""
    made_by: list[int] = []
    found: list[list[int]] = []
    for place, (kernel, read) in enumerate(zip(kernels, reads, strict=True)):
        makers = [made_by[one] for one in read]
        is_fused = kernel.kind == "fused_relu" and bool(makers)
        made_by.append(makers[0] if is_fused else place)
        found.append([] if is_fused else makers)
    return found


def _in_blocks(kernels: Sequence[Kernel], makers: Places, apart: Collection[int]) -> tuple[list[bool], list[bool]]:
    """Whether each kernel takes values in blocks, and gives them."""
    takes: list[bool] = []
    gives: list[bool] = []
    for place, (kernel, them) in enumerate(zip(kernels, makers, strict=True)):
        is_free = place not in apart
        takes.append(is_free and bool(them) and _can_take(kernel) and all(gives[one] for one in them))
        gives.append(is_free and (takes[-1] or _can_begin(kernel)))
    return takes, gives


def _can_take(kernel: Kernel) -> bool:
    if kernel.kind in CONVOLUTIONS and kernel.groups == 1:
        return kernel.input_shape[0] >= _BLOCK
    if kernel.kind == "concat":
        return kernel.input_shape[0] % _BLOCK == 0
    return kernel.kind == "add" or _can_begin(kernel)


def _can_begin(kernel: Kernel) -> bool:
    """Whether it gives blocks whatever it reads."""
    given, made = kernel.input_shape[0], (*kernel.output_shape, 0)[0]
    if kernel.kind in POOLINGS:
        return given % _BLOCK == 0
    is_whole = given % _BLOCK == 0 and made // kernel.groups % _BLOCK == 0
    return kernel.kind in CONVOLUTIONS and ((kernel.groups in (1, given) and made % kernel.groups == 0) or is_whole)


def _readers(makers: Places) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in makers]
    for place, them in enumerate(makers):
        for one in them:
            found[one].append(place)
    return found


def _sums(kernels: Sequence[Kernel], reads: Places, readers: Places, takes: Sequence[bool]) -> set[int]:
    """Adds that a convolution does, and the convolutions: without a relu between, and with no other reader."""
    found: set[int] = set()
    for place, kernel in enumerate(kernels):
        if kernel.kind == "add" and kernel.num_inputs == 2 and takes[place]:
            alone = [one for one in reads[place] if kernels[one].kind in CONVOLUTIONS and len(readers[one]) == 1]
            found.update((alone[0], place) if alone else ())
    return found


def _beside(kernel: Kernel, is_taking: bool, is_keeping: bool, is_sum: bool) -> Beside:
    if is_sum and kernel.kind == "add":
        return "sum, after" if is_keeping else "sum"
    if is_sum:
        return "before, sum" if is_taking else "sum"
    if is_keeping:
        return "both" if is_taking else "after"
    return "before" if is_taking else ""
