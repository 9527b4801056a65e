import pytest

from search.arena import PAGE, Arena

MIB = 2**20


def test_regions_double_and_only_written_pages_count():
    arena = Arena()
    arena.allocate(16)
    assert (arena.written_bytes, arena.reserved_bytes) == (PAGE, MIB)
    for _ in range(3):  # as ONNX Runtime logs it: 2 MiB for the first, 4 MiB for the next two
        arena.allocate(3 * MIB // 2)
    assert arena.reserved_bytes == (1 + 2 + 4) * MIB
    arena.allocate(20 * MIB, num_written=PAGE)
    assert arena.reserved_bytes == (1 + 2 + 4 + 32) * MIB
    assert arena.written_bytes == PAGE + 3 * (3 * MIB // 2) + PAGE


def test_a_chunk_is_split_where_as_much_again_is_left_and_joined_when_both_are_free():
    arena = Arena()
    first, second, third = (arena.allocate(256 * 1024) for _ in range(3))
    assert (second - first, third - second) == (256 * 1024,) * 2
    arena.free(second)
    assert arena.allocate(100) == second  # the smallest that is large enough: the quarter, not what is behind the third
    arena.free(second)
    arena.free(first)
    arena.free(third)
    assert arena.allocate(MIB) == first
    assert arena.reserved_bytes == MIB


def test_what_is_too_small_to_split_is_taken_whole():
    arena = Arena()
    first = arena.allocate(512 * 1024)
    arena.allocate(512 * 1024)
    arena.free(first)
    assert arena.allocate(300 * 1024) == first
    arena.allocate(200 * 1024)  # would have fitted beside it
    assert arena.reserved_bytes == 3 * MIB


@pytest.mark.parametrize("size", [1, 255, 256, 257])
def test_sizes_are_rounded_to_256_bytes(size):
    arena = Arena()
    first = arena.allocate(size)
    assert arena.allocate(1) - first == (256 if size <= 256 else 512)


def test_pages_that_are_written_again_count_once():
    arena = Arena()
    for _ in range(3):
        arena.free(arena.allocate(10 * PAGE))
    assert arena.written_bytes == 10 * PAGE
