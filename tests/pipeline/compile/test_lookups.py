import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compile.builder import GraphBuilder
from pipeline.compile.lookups import Lookup, added
from pipeline.compile.values import ExampleSum, Materialised, Outer

BATCH, COLUMNS = 3, 4


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def check(graph: GraphBuilder, value: ExampleSum, feeds: dict[str, np.ndarray], expected: np.ndarray) -> None:
    """Shares, norms and weighted sum of a value whose shares should be `expected`."""
    factors = np.array([1, 0, 0.5], np.float32)
    weights = graph.input("weights", (BATCH,))
    outputs = {
        "shares": value.per_example(graph),
        "squares": value.squared_norms(graph),
        "sum": value.weighted_sum(graph, weights),
    }
    session = onnxruntime.InferenceSession(graph.to_model(outputs, "test").SerializeToString())
    used = {name: array for name, array in feeds.items() if name in {tensor.name for tensor in graph.inputs}}
    shares, squares, total = session.run(list(outputs), {**used, "weights": factors})
    assert value.shape == expected.shape[1:]
    np.testing.assert_allclose(shares, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(squares, (expected**2).sum((1, 2)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(total, np.tensordot(factors, expected, 1).ravel(), rtol=1e-4, atol=1e-5)


def rows_at(ids: np.ndarray, dy: np.ndarray, num_rows: int) -> np.ndarray:
    shares = np.zeros((BATCH, num_rows, dy.shape[2]), np.float32)
    for example, (own_ids, own_dy) in enumerate(zip(np.broadcast_to(ids, dy.shape[:2]), dy, strict=True)):
        np.add.at(shares[example], own_ids, own_dy)
    return shares


@settings(max_examples=15, deadline=None)
@given(positions=st.integers(1, 6), num_rows=st.integers(1, 8), are_shared=st.booleans(), seed=st.integers(0, 99))
def test_a_lookups_shares_are_rows_added_at_their_ids(positions, num_rows, are_shared, seed):
    shape = (positions,) if are_shared else (BATCH, positions)
    ids = np.random.default_rng(seed).integers(0, num_rows, shape)
    dy = draw(BATCH, positions, COLUMNS)
    graph = GraphBuilder()
    known = graph.constant(ids) if are_shared else graph.input("ids", shape, np.int64)
    value = Lookup(known, graph.input("dy", dy.shape), num_rows)
    check(graph, value, {"ids": ids, "dy": dy}, rows_at(ids, dy, num_rows))


@pytest.mark.parametrize("kinds", [["own", "own"], ["shared", "shared"], ["own", "shared"]])
def test_two_lookups_in_one_table_are_one_with_their_cross_terms(kinds):
    graph, feeds, values, expected = GraphBuilder(), {}, [], 0
    for kind in kinds:
        name = f"{kind}{len(values)}"
        ids = np.random.default_rng(len(values)).integers(0, 3, (BATCH, 4) if kind == "own" else (4,))
        dy = draw(BATCH, 4, COLUMNS) + len(values)
        feeds |= {name: ids, f"dy{name}": dy}
        values.append(Lookup(graph.input(name, ids.shape, np.int64), graph.input(f"dy{name}", dy.shape), 3))
        expected = expected + rows_at(ids, dy, 3)
    joined = added(graph, values)
    assert isinstance(joined, Lookup)
    check(graph, joined, feeds, expected)


@pytest.mark.parametrize("positions", [1, 2, 9])
@pytest.mark.parametrize("id_shape", [(BATCH, 5), (5,)])
def test_a_table_that_is_a_layers_weight_too_keeps_the_cross_term(positions, id_shape):
    ids = np.random.default_rng(0).integers(0, 6, id_shape)
    feeds = {"dy": draw(BATCH, 5, COLUMNS), "left": draw(BATCH, positions, 6), "right": draw(BATCH, positions, COLUMNS)}
    graph = GraphBuilder()
    dy, left, right = (graph.input(name, array.shape) for name, array in feeds.items())
    value = added(graph, [Outer(left, right), Lookup(graph.input("ids", ids.shape, np.int64), dy, 6)])
    assert isinstance(value, Materialised)
    product = np.einsum("btr,btc->brc", feeds["left"], feeds["right"])
    check(graph, value, {**feeds, "ids": ids}, rows_at(ids, feeds["dy"], 6) + product)


def test_uses_that_cancel_leave_no_negative_square():
    ids, dy = np.array([2]), draw(BATCH, 1, COLUMNS)
    left = np.zeros((BATCH, 1, 5), np.float32)
    left[:, :, 2] = -1
    graph = GraphBuilder()
    lookup = Lookup(graph.constant(ids), graph.input("dy", dy.shape), 5)
    value = added(graph, [lookup, Outer(graph.input("left", left.shape), graph.inputs[0])])
    check(graph, value, {"dy": dy, "left": left}, np.zeros((BATCH, 5, COLUMNS), np.float32))


def test_products_are_joined_along_their_positions_and_anything_else_is_written_out():
    graph = GraphBuilder()
    products = [Outer(graph.input(f"a{t}", (BATCH, t, 5)), graph.input(f"b{t}", (BATCH, t, 4))) for t in (1, 3)]
    joined = added(graph, products)
    assert isinstance(joined, Outer)
    assert (joined.left.shape, joined.right.shape) == ((BATCH, 4, 5), (BATCH, 4, 4))
    mixed = added(graph, [*products, Materialised(graph.input("shares", (BATCH, 5, 4)))])
    assert isinstance(mixed, Materialised)
    assert added(graph, products[:1]) is products[0]


def norms_and_sums(graph: GraphBuilder, value: ExampleSum, feeds: dict[str, np.ndarray]) -> tuple:
    """Norms [B] as the value has them, and of each example's own sum."""
    outputs = {"squares": value.squared_norms(graph), "sum": value.weighted_sum(graph, graph.input("w", (BATCH,)))}
    session = onnxruntime.InferenceSession(graph.to_model(outputs, "test").SerializeToString())
    found = [session.run(list(outputs), {**feeds, "w": alone}) for alone in np.eye(BATCH, dtype=np.float32)]
    return np.sqrt(found[0][0]), [np.linalg.norm(total.astype(float)) for _, total in found]


@pytest.mark.parametrize(("positions", "num_rows"), [(12, 40), (300, 3)])
@pytest.mark.parametrize("seed", range(5))
def test_rows_that_cancel_have_no_smaller_norm_than_what_is_summed(positions, num_rows, seed):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 3, (BATCH, positions // 2)).repeat(2, axis=1)
    dy = rng.standard_normal((BATCH, positions // 2, 32)).repeat(2, axis=1)
    dy[:, 1::2] *= -1
    dy = (dy * (1 + 1e-7 * rng.standard_normal(dy.shape))).astype(np.float32)
    graph = GraphBuilder()
    value = Lookup(graph.input("ids", ids.shape, np.int64), graph.input("dy", dy.shape), num_rows)
    assert value.form == ("sparse" if positions < num_rows else "materialised")
    norms, sums = norms_and_sums(graph, value, {"ids": ids, "dy": dy})
    assert (sums <= norms * (1 + 1e-4)).all()


def test_what_an_example_adds_does_not_depend_on_what_the_others_add_up_to():
    """Rows that cancel within each example, hundreds of times: a sum over all positions would round by the others'."""
    rng, positions = np.random.default_rng(0), 512
    ids = np.full((BATCH, positions), 7)
    dy = np.tile(rng.standard_normal((1, 2, 2)) * [[1], [-1]], (BATCH, positions // 2, 1))
    dy = (dy * (1 + 1e-6 * rng.standard_normal(dy.shape))).astype(np.float32)
    graph = GraphBuilder()
    value = Lookup(graph.input("ids", ids.shape, np.int64), graph.input("dy", dy.shape), 600)
    total = value.weighted_sum(graph, graph.input("w", (BATCH,)))
    session = onnxruntime.InferenceSession(graph.to_model({"sum": total}, "test").SerializeToString())
    rows = [session.run(None, {"ids": ids, "dy": dy, "w": w})[0].astype(float) for w in np.eye(BATCH, dtype=np.float32)]
    (together,) = session.run(None, {"ids": ids, "dy": dy, "w": np.ones(BATCH, np.float32)})
    largest = max(np.linalg.norm(row) for row in rows)
    assert np.linalg.norm(together - sum(rows)) <= BATCH**2 * 2**-23 * largest


@pytest.mark.parametrize("num_products", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_a_table_whose_uses_cancel_has_no_smaller_norm_than_what_is_summed(num_products, seed):
    rng = np.random.default_rng(seed)
    ids, left = rng.integers(0, 40, (BATCH, num_products)), np.zeros((BATCH, num_products, 40), np.float32)
    right = rng.standard_normal((BATCH, num_products, 32)).astype(np.float32)
    np.put_along_axis(left, ids[:, :, None], -1, axis=2)
    dy = (right * (1 + 1e-7 * rng.standard_normal(right.shape))).astype(np.float32)
    graph = GraphBuilder()
    lookup = Lookup(graph.input("ids", ids.shape, np.int64), graph.input("dy", dy.shape), 40)
    value = added(graph, [lookup, Outer(graph.input("left", left.shape), graph.input("right", right.shape))])
    norms, sums = norms_and_sums(graph, value, {"ids": ids, "dy": dy, "left": left, "right": right})
    assert (sums <= norms * (1 + 1e-4)).all()


@pytest.mark.parametrize(("left", "right", "dy"), [(1e18, 1e-23, 1e-12), (1e-23, 1e18, 1e-12), (1e16, 1e-28, 1e-12)])
@pytest.mark.parametrize("num_products", [1, 3])
def test_a_table_keeps_its_clip_where_the_squares_of_a_use_vanish(num_products, left, right, dy):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 40, (BATCH, num_products))
    feeds = {
        "left": np.zeros((BATCH, num_products, 40)),
        "right": right * rng.standard_normal((BATCH, num_products, 32)),
    }
    np.put_along_axis(feeds["left"], ids[:, :, None], left, axis=2)
    feeds["dy"] = dy * np.sign(feeds["right"])
    feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
    graph = GraphBuilder()
    at, uses = graph.input("ids", ids.shape, np.int64), {n: graph.input(n, array.shape) for n, array in feeds.items()}
    value = added(graph, [Lookup(at, uses["dy"], 40), Outer(uses["left"], uses["right"])])
    norms, sums = norms_and_sums(graph, value, {**feeds, "ids": ids})
    assert np.all(sums * np.minimum(1, 1e-12 / norms.astype(float)) <= 1e-12 * (1 + 1e-4))


@pytest.mark.parametrize("repeating", range(BATCH))
def test_rows_meet_where_any_example_repeats_an_id(repeating):
    ids = np.stack([np.arange(5)] * BATCH)
    ids[repeating, 4] = 0
    dy = draw(BATCH, 5, COLUMNS)
    graph = GraphBuilder()
    check(graph, Lookup(graph.constant(ids), graph.input("dy", dy.shape), 9), {"dy": dy}, rows_at(ids, dy, 9))
