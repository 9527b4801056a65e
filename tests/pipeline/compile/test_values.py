from concurrent.futures import ThreadPoolExecutor
from math import prod

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.compile.builder import CompileError, GraphBuilder, Tensor
from pipeline.compile.values import ExampleSum, Materialised, Outer, Plain, reshape, squared_lengths, turned

WEIGHTS = np.array([1, 0, 0.5, 2, 0.25], np.float32)
WHOLE = np.eye(5, dtype=np.float32)  # weights of one example each
SHAPES = [(1, 3, 4), (2, 6, 5), (7, 3, 2), (3, 1, 4), (5, 12, 9)]  # positions, rows, columns


def run(graph: GraphBuilder, outputs: dict[str, Tensor], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(graph.to_model(outputs, "test").SerializeToString())
    return session.run(list(outputs), feeds)


def outer(graph: GraphBuilder, shape: tuple[int, int, int]) -> Outer:
    num_positions, num_rows, num_columns = shape
    return Outer(
        graph.input("left", (5, num_positions, num_rows)), graph.input("right", (5, num_positions, num_columns))
    )


def materialised(graph: GraphBuilder, shape: tuple[int, int, int]) -> Materialised:
    return Materialised(outer(graph, shape).per_example(graph))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("make", [outer, materialised])
def test_every_kind_of_sum_gives_shares_norms_and_weighted_sum(make, shape):
    rng = np.random.default_rng(0)
    num_positions, num_rows, num_columns = shape
    left = rng.standard_normal((5, num_positions, num_rows)).astype(np.float32)
    right = rng.standard_normal((5, num_positions, num_columns)).astype(np.float32)
    expected = np.einsum("btr,btc->brc", left, right)
    graph = GraphBuilder()
    value = make(graph, shape)
    weights = graph.input("weights", (5,))
    outputs = {
        "shares": value.per_example(graph),
        "squares": value.squared_norms(graph),
        "sum": value.weighted_sum(graph, weights),
    }
    shares, squares, total = run(graph, outputs, {"left": left, "right": right, "weights": WEIGHTS})
    assert isinstance(value, ExampleSum)
    assert value.shape == (num_rows, num_columns)
    np.testing.assert_allclose(shares, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(squares, (expected**2).sum((1, 2)), rtol=1e-4)
    np.testing.assert_allclose(total, np.tensordot(WEIGHTS, expected, 1).ravel(), rtol=1e-4, atol=1e-5)


def test_one_position_is_a_ghost_and_several_are_written_out():
    forms = [outer(GraphBuilder(), shape).form for shape in [(1, 2, 2), (2, 512, 512)]]
    assert forms == ["ghost norm", "materialised"]


def test_norms_and_sums_of_a_ghost_never_write_the_shares_out():
    graph = GraphBuilder()
    value = outer(graph, (1, 6, 5))
    value.squared_norms(graph)
    value.weighted_sum(graph, graph.input("weights", (5,)))
    made = onnx.shape_inference.infer_shapes(
        graph.to_model({"n": value.squared_norms(graph), "s": value.weighted_sum(graph, graph.inputs[-1])}, "test")
    )
    sizes = [prod(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in made.graph.value_info]
    assert 5 * 6 * 5 not in sizes


def test_a_plain_value_is_no_sum_over_examples():
    plain = Plain(GraphBuilder().input("x", (2, 3)), is_batched=True)
    assert not isinstance(plain, ExampleSum)
    assert plain.shape == (2, 3)


def test_a_reshape_to_the_same_shape_is_the_tensor_itself():
    graph = GraphBuilder()
    tensor = graph.input("x", (2, 3))
    assert reshape(graph, tensor, (2, 3)) is tensor
    assert reshape(graph, tensor, (6,)).shape == (6,)


def test_a_reshape_fills_in_the_size_that_is_left_open():
    graph = GraphBuilder()
    tensor = graph.input("x", (2, 3, 4))
    assert reshape(graph, tensor, (-1, 4)).shape == (6, 4)
    assert reshape(graph, tensor, (2, 3, -1)) is tensor


def test_what_has_no_elements_is_not_reshaped():
    graph = GraphBuilder()
    empty = graph.input("empty", (2, 0))
    assert reshape(graph, empty, (2, 0)) is empty
    for shape in ((-1, 0), (0, 3)):
        with pytest.raises(CompileError, match=r"without elements is given the shape .*; leave it out of the network"):
            reshape(graph, empty, shape)


def test_turning_a_column_into_a_row_moves_nothing():
    graph = GraphBuilder()
    turned(graph, graph.input("x", (2, 3, 1)))
    both = {"y": turned(graph, graph.inputs[0]), "z": turned(graph, graph.input("w", (2, 3, 4)))}
    model = graph.to_model(both, "test")
    assert [node.op_type for node in model.graph.node] == ["Reshape", "Transpose", "Identity", "Identity"]


@settings(max_examples=20, deadline=None)
@given(
    shape=st.sampled_from([(2, 8, 8), (8, 64, 64), (8, 16, 300), (32, 128, 96)]),
    offset=st.integers(0, 5),
    spread=st.integers(-8, 0),
    seed=st.integers(0, 99),
)
def test_where_positions_cancel_the_norm_is_no_smaller_than_the_sums(shape, offset, spread, seed):
    rng, (num_positions, num_rows, num_columns) = np.random.default_rng(seed), shape
    left = rng.standard_normal((5, num_positions, num_rows))
    left -= left.mean(1, keepdims=True)
    common = 10.0**offset * rng.standard_normal((5, 1, num_columns))
    right = common * (1 + 10.0**spread * rng.standard_normal((5, num_positions, num_columns)))
    graph = GraphBuilder()
    value = outer(graph, shape)
    outputs = {"squares": value.squared_norms(graph), "sum": value.weighted_sum(graph, graph.input("weights", (5,)))}
    feeds = {"left": left.astype(np.float32), "right": right.astype(np.float32)}
    for alone in WHOLE:
        squares, total = run(graph, outputs, {**feeds, "weights": alone})
        assert np.linalg.norm(total.astype(float)) <= np.sqrt(squares @ alone) * (1 + 1e-6)


@pytest.mark.parametrize("shape", [(2, 64, 768), (16, 192, 768)])
@pytest.mark.parametrize("grey", [1, 117, 230, 254])
def test_flat_patches_whose_products_cancel_have_the_norm_of_what_is_summed(shape, grey):
    rng, (num_positions, num_rows, num_columns) = np.random.default_rng(grey), shape
    left = rng.standard_normal((5, num_positions, num_rows)).astype(np.float32)
    left[:, -1] = -left[:, :-1].sum(1)
    right = np.broadcast_to(grey + np.arange(num_positions)[:, None] % 2, (5, num_positions, num_columns))
    graph = GraphBuilder()
    value = outer(graph, shape)
    outputs = {"squares": value.squared_norms(graph), "sum": value.weighted_sum(graph, graph.input("weights", (5,)))}
    feeds = {"left": left, "right": np.ascontiguousarray(right, np.float32)}
    for alone in WHOLE:
        squares, total = run(graph, outputs, {**feeds, "weights": alone})
        assert np.linalg.norm(total.astype(float)) == pytest.approx(np.sqrt(squares @ alone), rel=1e-5)


def test_the_squares_of_millions_of_values_lose_nothing_in_their_sum():
    graph = GraphBuilder()
    squares = squared_lengths(graph, graph.input("x", (1, 3, 2**20)))
    (found,) = run(graph, {"n": squares}, {"x": np.full((1, 3, 2**20), 0.1, np.float32)})
    assert found[0] == pytest.approx(3 * 2**20 * float(np.float32(0.1)) ** 2, rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.sampled_from([(1, 3, 40), (2, 8, 8), (8, 64, 64), (5, 2, 3)]),
    left_exponent=st.integers(-32, 18),
    right_exponent=st.integers(-32, 18),
    seed=st.integers(0, 99),
)
@example(shape=(1, 3, 40), left_exponent=-23, right_exponent=18, seed=0)
@example(shape=(1, 3, 40), left_exponent=18, right_exponent=-23, seed=0)
@example(shape=(8, 64, 64), left_exponent=9, right_exponent=-20, seed=0)
def test_squares_that_vanish_leave_no_sum_above_its_clip_norm(shape, left_exponent, right_exponent, seed):
    rng, (num_positions, num_rows, num_columns) = np.random.default_rng(seed), shape
    feeds = {
        "left": 10.0**left_exponent * rng.standard_normal((5, 1, num_rows)).repeat(num_positions, 1),
        "right": 10.0**right_exponent * rng.standard_normal((5, 1, num_columns)).repeat(num_positions, 1),
    }
    feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
    graph = GraphBuilder()
    value = outer(graph, shape)
    outputs = {"squares": value.squared_norms(graph), "sum": value.weighted_sum(graph, graph.input("weights", (5,)))}
    # Where the processor makes zeros of numbers below 2^-126, which it is asked for one thread at a time.
    with ThreadPoolExecutor(1, initializer=torch.set_flush_denormal, initargs=(True,)) as flushing:
        found = [flushing.submit(run, graph, outputs, {**feeds, "weights": alone}) for alone in WHOLE[:2]]
    for index, (squares, total) in enumerate(future.result() for future in found):
        norm, length = float(np.sqrt(squares[index])), np.linalg.norm(total.astype(float))
        for clip in (1e-12, 1e-8, 1e-4, 1):  # no private terms ask for less than the first
            assert not np.isfinite(norm) or length * clip / max(norm, clip) <= clip * (1 + 1e-4)
