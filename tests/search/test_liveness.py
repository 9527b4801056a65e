from dataclasses import replace

import pytest

from search.liveness import Program, Step, convolution_workspace, peak_of, plan_memory

SHAPE = (256, 256)
BYTES = 4 * 256 * 256


def program(*steps: Step, outputs=("y",), shapes=None, **fields) -> Program:
    names = [name for step in steps for name in step.writes]
    return Program(steps, {**dict.fromkeys(names, SHAPE), **(shapes or {})}, frozenset(outputs), {}, **fields)


def test_a_chain_holds_what_is_read_and_what_is_written():
    chain = program(*(Step((a,), (b,)) for a, b in ("xa", "ab", "bc", "cy")))
    assert plan_memory(chain) == {"a": "a", "b": "b", "c": "a", "y": "y"}  # c takes what died before b was read
    peak = peak_of(chain)
    assert peak.live == 2 * BYTES
    assert peak.live <= peak.written <= peak.reserved


def test_what_is_read_later_stays():
    kept = program(Step(("x",), ("a",)), Step(("a",), ("b",)), Step(("b",), ("c",)), Step(("a", "c"), ("y",)))
    assert plan_memory(kept)["c"] == "c"
    assert peak_of(kept).live == 3 * BYTES


def test_an_output_takes_nobodys_memory_and_gives_its_own_to_nobody():
    both = program(Step(("x",), ("y",)), Step(("y",), ("a",)), Step(("a",), ("z",), in_place=0), outputs=("y", "z"))
    assert plan_memory(both) == {"y": "y", "a": "a", "z": "z"}


def test_a_view_keeps_the_memory_of_what_it_shows():
    views = program(
        Step(("x",), ("a",)), Step(("a",), ("v",), is_view=True), Step(("v",), ("y",)), shapes={"v": (65536,)}
    )
    assert plan_memory(views) == {"a": "a", "v": "a", "y": "y"}
    assert peak_of(views).live == 2 * BYTES
    of_the_callers = program(Step(("x",), ("v",), is_view=True), Step(("v",), ("y",)))
    assert plan_memory(of_the_callers)["v"] == "x"
    assert peak_of(of_the_callers).live == BYTES


@pytest.mark.parametrize(("last_reader", "shape", "memory"), [("x", SHAPE, "a"), ("a", SHAPE, "b"), ("x", (9,), "b")])
def test_an_operator_works_in_place_on_what_it_reads_last_under_the_same_shape(last_reader, shape, memory):
    steps = (Step(("x",), ("a",)), Step(("a",), ("b",), in_place=0), Step(("b", last_reader), ("y",)))
    assert plan_memory(program(*steps, shapes={"b": shape}))["b"] == memory


def test_a_single_number_takes_no_other_ones_memory():
    steps = tuple(Step((a,), (b,)) for a, b in ("xa", "ab", "bc", "cy"))
    assert plan_memory(program(*steps, shapes=dict.fromkeys("abc", ())))["c"] == "c"


def test_values_of_other_item_sizes_do_not_share():
    steps = tuple(Step((a,), (b,)) for a, b in ("xa", "ab", "bc", "cy"))
    assert plan_memory(replace(program(*steps), item_bytes={"c": 8}))["c"] == "c"


def test_workspaces_temporaries_and_constants_count_while_they_are_there():
    plain = peak_of(program(Step(("x",), ("y",)))).live
    assert plain == BYTES
    assert peak_of(program(Step(("x",), ("y",), workspace=(9 * BYTES, 512)))).live == BYTES + 512
    assert peak_of(program(Step(("x",), ("y",), temporaries=(BYTES,) * 2, num_kept=2))).live == 3 * BYTES
    sums = Step(("x",), ("y",), temporaries=(BYTES,) * 7)  # each takes the place of the one before the last
    assert peak_of(program(sums)).live == 3 * BYTES
    assert peak_of(program(Step(("x",), ("y",)), constants=(BYTES, 8))).live == 2 * BYTES + 8


def test_what_nobody_reads_stays_until_the_run_ends():
    steps = (Step(("x",), ("a", "b")), Step(("a",), ("c",)), Step(("c",), ("y",)))
    unread = program(*steps, shapes={"c": (512, 256), "y": (512, 256)})
    assert peak_of(unread).live == (1 + 2 + 2) * BYTES  # b, c and y


def test_a_later_run_may_write_to_more():
    # The first run needs 2 MiB and then 4 MiB regions; the next finds both, and puts its first value into the smaller.
    grows = program(Step(("x",), ("a",)), Step(("a",), ("y",)), shapes={"a": (300_000,), "y": (600_000,)})
    assert peak_of(grows).written >= 4 * (300_000 + 600_000)


@pytest.mark.parametrize(
    ("batch_size", "weight", "positions", "groups", "values"),
    [
        (1, (8, 3, 3, 3), 1024, 1, (16384, 16384)),  # a segment at a time
        (4, (8, 3, 3, 3), 1024, 1, (27 * 1024, 16384)),  # room for all, for each thread
        (4, (64, 3, 3, 3), 16, 1, (27 * 16, 27 * 16)),  # more outputs than positions: unfolded whole
        (1, (32, 1, 3, 3), 1024, 32, (16384, 9 * 1024)),
    ],
)
def test_a_convolutions_workspace_is_what_mlas_takes(batch_size, weight, positions, groups, values):
    found = convolution_workspace(batch_size, weight, positions, groups)
    assert found == tuple(4 * count for count in values)
