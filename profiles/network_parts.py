"""Kernels where they stand in a network, and what makes two of them alike for the process over networks' times."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profiles.kernel import CONVOLUTIONS, Kernel
from profiles.kernel_times import features_of

Floats = NDArray[np.float64]
Item = tuple[Kernel, str, str]  # a kernel and the placed families of those before and after it
_LENGTH = 2.0  # of the smooth corrections, in logarithms of sizes
_KERNEL, _FAMILY, _BEFORE, _AFTER = range(4)


@dataclass(frozen=True)
class Parts:
    """n kernels where they stand.

    Attributes:
        ms: f64[n], alone.
        is_product: bool[n], whether most of the work is a product of matrices. The others may be fused into them.
        names: i64[n, 4]: numbers of the kernel, its family, the family with what is before, and with what is after.
        sizes: f64[n, features], logarithms.
    """

    ms: Floats
    is_product: NDArray[np.bool_]
    names: NDArray[np.int64]
    sizes: Floats


@dataclass(frozen=True)
class Deviations:
    """Standard deviations of the corrections, as `relations` gives them.

    Attributes:
        shares: Of those in shares of a kernel's time.
        whole: In shares of a network's time, by what it moves: what lies in a small network's caches is read fast.
        units: Of those that are alike for small and large kernels, in units of a kernel's usual time; last of the call.
    """

    shares: tuple[float, ...]
    whole: float
    units: tuple[float, ...]

    def deviations(self, unit_ms: float) -> list[float]:
        """All, in shares and in milliseconds."""
        *units, call = (unit * unit_ms for unit in self.units)
        return [*self.shares, *units, self.whole, call]


# Products by family, before, after; others by family, before, after (fused, they take nothing); by size; by kernel.
START = Deviations((0.2, 0.1, 0.1, 0.5, 0.5, 0.3, 0.2, 0.05), 0.05, (0.4, 0.2, 0.2, 0.4))
MOST = Deviations((0.4, 0.3, 0.3, 1.0, 1.0, 1.0, 0.5, 0.2), 1.0, (2.0, 1.0, 1.0, 2.0))


def items_of(kernels: Sequence[Kernel]) -> list[Item]:
    """Each kernel with the families of those before and after it in the list; empty at the ends."""
    families = ["", *(kernel.placed_family for kernel in kernels), ""]
    return list(zip(kernels, families[:-2], families[2:], strict=True))


def parts_of(items: Sequence[Item], ms: Floats, names: dict[object, int]) -> Parts:
    """Describe items; `names` grows by those that it lacks."""
    rows = [
        (kernel, family := kernel.placed_family, (family, before, ""), (family, "", after))
        for kernel, before, after in items
    ]
    return Parts(
        ms=ms,
        is_product=np.array([kernel.kind in CONVOLUTIONS or kernel.kind == "linear" for kernel, _, _ in items]),
        names=np.array([[names.setdefault(name, len(names)) for name in row] for row in rows]),
        sizes=np.log([features_of(kernel) for kernel, _, _ in items]),
    )


def relations(parts: Parts, others: Parts) -> Iterator[Floats]:
    """Covariances f64[n, m] of the corrections at deviations of 1, one after the other."""
    same = [parts.names[:, i, None] == others.names[:, i] for i in range(4)]
    products = parts.is_product[:, None] & others.is_product
    ms = np.outer(parts.ms, others.ms)
    smooth = same[_FAMILY] * alike(parts.sizes, others.sizes)
    for which in (products, ~products):
        yield from (ms * (same[name] & which) for name in (_FAMILY, _BEFORE, _AFTER))
    yield ms * smooth
    yield ms * same[_KERNEL]
    yield np.ones_like(ms)
    yield same[_FAMILY].astype(np.float64)
    yield smooth


def network_sizes(bytes_moved: Sequence[int]) -> Floats:
    """f64[n, 1]: logarithms of the bytes that networks move for one example."""
    return np.log([[moved + 1.0] for moved in bytes_moved])


def alike(sizes: Floats, others: Floats) -> Floats:
    """f64[n, m], 1 for the same sizes: Matern 3/2 (eq. 4.17) over logarithms f64[n, d] and f64[m, d]."""
    squares = (sizes**2).sum(1)[:, None] + (others**2).sum(1) - 2 * sizes @ others.T
    scaled = np.sqrt(3 * np.maximum(squares, 0)) / _LENGTH
    return np.asarray((1 + scaled) * np.exp(-scaled), np.float64)
