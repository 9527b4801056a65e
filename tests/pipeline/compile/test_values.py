import numpy as np
import onnxruntime
import pytest

from pipeline.compile.builder import GraphBuilder
from pipeline.compile.values import ExampleSum, Materialised, Outer, Plain, reshape

LEFT, RIGHT = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
SHARES = LEFT[:, :, None] * RIGHT[:, None, :]
WEIGHTS = np.array([1, 0, 0.5, 2, 0.25], np.float32)


def outer(graph: GraphBuilder) -> Outer:
    return Outer(graph.input("left", (5, 3)), graph.input("right", (5, 3)))


def materialised(graph: GraphBuilder) -> Materialised:
    return Materialised(outer(graph).per_example(graph))


@pytest.mark.parametrize("make", [outer, materialised])
def test_every_kind_of_sum_gives_shares_norms_and_weighted_sum(make):
    graph = GraphBuilder()
    value = make(graph)
    weights = graph.input("weights", (5,))
    outputs = {
        "shares": value.per_example(graph),
        "squares": value.squared_norms(graph),
        "sum": value.weighted_sum(graph, weights),
    }
    session = onnxruntime.InferenceSession(graph.to_model(outputs, "test").SerializeToString())
    shares, squares, total = session.run(list(outputs), {"left": LEFT, "right": RIGHT, "weights": WEIGHTS})
    assert isinstance(value, ExampleSum)
    assert value.shape == (3, 3)
    np.testing.assert_allclose(shares, SHARES, rtol=1e-6)
    np.testing.assert_allclose(squares, (SHARES**2).sum((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(total, np.tensordot(WEIGHTS, SHARES, 1).ravel(), rtol=1e-5, atol=1e-6)


def test_norms_and_sums_of_an_outer_product_never_write_it_out():
    graph = GraphBuilder()
    value = outer(graph)
    made = [value.squared_norms(graph), value.weighted_sum(graph, graph.input("weights", (5,)))]
    model = graph.to_model({f"o{i}": tensor for i, tensor in enumerate(made)}, "test")
    inferred = {node.op_type for node in model.graph.node}
    assert inferred == {"ReduceSumSquare", "Mul", "Reshape", "Gemm", "Identity"}


def test_a_plain_value_is_no_sum_over_examples():
    plain = Plain(GraphBuilder().input("x", (2, 3)), is_batched=True)
    assert not isinstance(plain, ExampleSum)
    assert plain.shape == (2, 3)


def test_a_reshape_to_the_same_shape_is_the_tensor_itself():
    graph = GraphBuilder()
    tensor = graph.input("x", (2, 3))
    assert reshape(graph, tensor, (2, 3)) is tensor
    assert reshape(graph, tensor, (6,)).shape == (6,)
