import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compile import placement
from pipeline.compile.builder import GraphBuilder
from pipeline.compile.values import CouplingError, Moved, Place, Plain

FIRST = (4, 6, 5)  # examples, positions, width


@pytest.fixture
def graph() -> GraphBuilder:
    return GraphBuilder()


@pytest.fixture
def examples(graph) -> Plain:
    return Plain(graph.input("x", FIRST), is_batched=True)


def as_seen(graph: GraphBuilder, value, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """The value as the lowered graph sees it, from its rows."""
    tensor = placement.structured(graph, value)
    session = onnxruntime.InferenceSession(graph.to_model({"y": tensor}, "test").SerializeToString())
    (rows,) = session.run(None, feeds)
    if isinstance(value, Plain):
        return rows
    place, shape = value.place, value.shape
    before, after = shape[: place.axis], shape[place.axis + 1 :]
    apart = rows.reshape(len(rows), *before, place.outer, place.inner, *after)
    return np.moveaxis(apart, 0, len(before) + 1).reshape(shape)


@settings(max_examples=25, deadline=None)
@given(
    batch=st.sampled_from([1, 2, 3]),
    order=st.permutations([0, 1, 2]),
    merged=st.sampled_from([(0, 1), (1, 2)]),
    back=st.permutations([0, 1]),
)
def test_transposes_and_reshapes_move_the_example_as_numpy_does(make_node, batch, order, merged, back):
    x = np.random.default_rng(0).standard_normal((batch, 3, 2)).astype(np.float32)
    graph = GraphBuilder()
    value = placement.transposed(graph, Plain(graph.input("x", x.shape), is_batched=True), order)
    expected = x.transpose(order)
    sizes = list(expected.shape)
    sizes[merged[0] : merged[1] + 1] = [sizes[merged[0]] * sizes[merged[1]]]
    value = placement.reshaped(graph, make_node("Reshape"), value, sizes)
    value = placement.transposed(graph, value, back)
    expected = expected.reshape(sizes).transpose(back)
    assert value.shape == expected.shape
    np.testing.assert_array_equal(as_seen(graph, value, {"x": x}), expected)


def test_moving_the_examples_and_back_costs_nothing(graph, examples, make_node):
    moved = placement.transposed(graph, examples, (1, 0, 2))
    assert moved == Moved(examples.tensor, (6, 4, 5), Place(1, 1, 1))
    merged = placement.reshaped(graph, make_node("Reshape"), moved, (24, 5))
    assert merged == Moved(examples.tensor, (24, 5), Place(0, 6, 1))
    apart = placement.reshaped(graph, make_node("Reshape"), merged, (6, 4, 5))
    assert placement.transposed(graph, apart, (1, 0, 2)) == examples


def test_an_axis_that_holds_a_part_of_the_examples_is_refused(graph, examples, make_node):
    with pytest.raises(CouplingError, match=r"reshapes \[4, 6, 5\] to \[2, 2, 30\], which cuts the example axis"):
        placement.reshaped(graph, make_node("Reshape"), examples, (2, 2, 30))


@settings(max_examples=25, deadline=None)
@given(batch=st.sampled_from([1, 2, 4]), shape=st.sampled_from([(), (5,), (1, 5), (6, 1, 5), (6, 1, 1), (1, 1, 1)]))
def test_shared_values_broadcast_against_examples_in_the_middle(make_node, batch, shape):
    x = np.random.default_rng(0).standard_normal((batch, 6, 5)).astype(np.float32)
    shared = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    graph = GraphBuilder()
    moved = placement.transposed(graph, Plain(graph.input("x", x.shape), is_batched=True), (1, 0, 2))
    other = Plain(graph.input("s", shape), is_batched=False)
    added = placement.broadcast(graph, make_node("Add"), "Add", [other, moved])
    expected = x.transpose(1, 0, 2) + shared
    assert added.shape == expected.shape
    np.testing.assert_allclose(as_seen(graph, added, {"x": x, "s": shared}), expected, rtol=1e-6)


def test_a_shared_row_for_each_place_in_the_batch_is_found_where_the_examples_are(graph, examples, make_node):
    x = np.random.default_rng(0).standard_normal(FIRST).astype(np.float32)
    row = np.random.default_rng(1).standard_normal((1, 1, 5)).astype(np.float32)
    moved = placement.transposed(graph, examples, (1, 0, 2))
    token = placement.expanded(graph, make_node("Expand"), Plain(graph.input("row", row.shape), False), (1, 4, 5))
    joined = placement.joined(graph, make_node("Concat"), [token, moved], 0)
    expected = np.concatenate([np.broadcast_to(row, (1, 4, 5)), x.transpose(1, 0, 2)])
    np.testing.assert_array_equal(as_seen(graph, joined, {"x": x, "row": row}), expected)


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0)])
def test_examples_beside_another_axis_are_refused(graph, examples, make_node, order):
    square = Plain(graph.input("square", (6, 6, 6)), is_batched=True)
    moved = placement.transposed(graph, square, order)
    with pytest.raises(CouplingError, match="broadcasts examples against each other"):
        placement.broadcast(graph, make_node("Add"), "Add", [square, moved])
    with pytest.raises(CouplingError, match="joins examples with something else"):
        placement.joined(graph, make_node("Concat"), [square, moved], 1)
    with pytest.raises(CouplingError, match="joins examples with something else"):
        placement.joined(graph, make_node("Concat"), [square, square], 0)


def test_one_example_may_be_thought_of_on_any_axis_but_several_may_not(graph, examples):
    one = Plain(graph.input("one", (1, 6, 5)), is_batched=True)
    assert placement.place_of(placement.off_axes(one, [0, 1])) == Place(2, 1, 5)
    assert placement.off_axes(examples, [0]) is examples
