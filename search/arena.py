"""ONNX Runtime's memory arena: which pages a sequence of allocations writes to.

Best fit with coalescing, as in `onnxruntime/core/framework/bfc_arena.cc` with the CPU provider's settings: sizes are
rounded up to 256 bytes, the smallest free chunk that is large enough is taken, and it is split only where at least as
much again is left. Regions double. A page that nothing was written to is not resident, however large its region.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass

PAGE = 4096
_UNIT = 256
_FIRST_REGION = 2**20
_MOST_LEFT_OVER = 128 * 2**20
_REGION_SPACING = 2**40  # so that no address is in two regions
_HEAP = 2**20  # the first region is in the heap, below all mappings; each later one lies below the one before


@dataclass(slots=True)
class _Chunk:
    address: int
    size: int
    before: "_Chunk | None" = None
    after: "_Chunk | None" = None
    is_free: bool = True


class Arena:
    """Owns the simulated memory."""

    def __init__(self) -> None:
        self._free: list[tuple[int, int]] = []  # size and address
        self._chunks: dict[int, _Chunk] = {}
        self._pages: list[bytearray] = []  # of each region, 1 where something was written
        self._next_region = _FIRST_REGION

    @property
    def written_bytes(self) -> int:
        """Bytes of all pages that were ever written to."""
        return PAGE * sum(region.count(1) for region in self._pages)

    @property
    def reserved_bytes(self) -> int:
        """Bytes of all regions."""
        return PAGE * sum(len(region) for region in self._pages)

    def allocate(self, num_bytes: int, num_written: int | None = None) -> int:
        """Take memory and write to its first `num_written` bytes, or to all (None); gives its address.

        Args:
            num_bytes: > 0.
        """
        size = -(-num_bytes // _UNIT) * _UNIT
        place = bisect_left(self._free, (size,))
        if place == len(self._free):
            self._extend(size)
            place = bisect_left(self._free, (size,))
        chunk = self._chunks[self._free.pop(place)[1]]
        chunk.is_free = False
        if chunk.size >= 2 * size or chunk.size - size >= _MOST_LEFT_OVER:
            self._split(chunk, size)
        self._write(chunk.address, num_bytes if num_written is None else num_written)
        return chunk.address

    def free(self, address: int) -> None:
        """Give back what `allocate` gave."""
        chunk = self._chunks[address]
        chunk.is_free = True
        if chunk.after is not None and chunk.after.is_free:
            self._take(chunk.after)
            self._merge(chunk, chunk.after)
        if chunk.before is not None and chunk.before.is_free:
            before = chunk.before
            self._take(before)
            self._merge(before, chunk)
            chunk = before
        insort(self._free, (chunk.size, chunk.address))

    def _extend(self, size: int) -> None:
        has_grown = size > self._next_region
        while size > self._next_region:
            self._next_region *= 2
        chunk = _Chunk(-_REGION_SPACING * (len(self._pages) or _HEAP), self._next_region)
        self._pages.append(bytearray(chunk.size // PAGE))
        self._chunks[chunk.address] = chunk
        insort(self._free, (chunk.size, chunk.address))
        if not has_grown:
            self._next_region *= 2

    def _split(self, chunk: _Chunk, size: int) -> None:
        rest = _Chunk(chunk.address + size, chunk.size - size, chunk, chunk.after)
        if chunk.after is not None:
            chunk.after.before = rest
        chunk.after, chunk.size = rest, size
        self._chunks[rest.address] = rest
        insort(self._free, (rest.size, rest.address))

    def _take(self, chunk: _Chunk) -> None:
        del self._free[bisect_left(self._free, (chunk.size, chunk.address))]

    def _merge(self, first: _Chunk, second: _Chunk) -> None:
        first.size += second.size
        first.after = second.after
        if second.after is not None:
            second.after.before = first
        del self._chunks[second.address]

    def _write(self, address: int, num_bytes: int) -> None:
        region = -(address // _REGION_SPACING) % _HEAP
        first, end = address % _REGION_SPACING // PAGE, -(-(address % _REGION_SPACING + num_bytes) // PAGE)
        self._pages[region][first:end] = b"\1" * (end - first)
