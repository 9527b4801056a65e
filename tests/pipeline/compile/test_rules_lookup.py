import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import linear

from pipeline.compile.builder import CompileError, GraphBuilder
from pipeline.compile.lookups import Lookup
from pipeline.compile.modules import prepare_module
from pipeline.compile.rules_lookup import RULES
from pipeline.compile.values import CouplingError, Materialised, Plain
from tests.pipeline.compile.nets import Net


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(st.sampled_from([1, 2, 4]), st.integers(1, 7)),
    num_ids=st.integers(1, 12),
    width=st.integers(1, 4),
    padding=st.none() | st.integers(0, 11),
)
def test_embeddings_differentiate_as_in_torch(check_step, shape, num_ids, width, padding):
    padding = None if padding is None else padding % num_ids
    table = nn.Embedding(num_ids, width, padding_idx=padding)
    net = Net(lambda self, x: self.last(self.table(x)).tanh().mean(1), table=table, last=nn.Linear(width, 3))
    check_step(net, shape, 3, num_ids=num_ids)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda self, x: (self.table(x) + self.table((x + 1) % 7).tanh()).mean(1), id="looked up twice"),
        pytest.param(lambda self, x: linear(self.table(x).tanh(), self.table.weight).mean(1), id="tied"),
        pytest.param(lambda self, x: self.table(x).sigmoid().mean(1) @ self.table.weight.t(), id="tied to an average"),
        pytest.param(
            lambda self, x: linear(self.table(x) + self.table(x.flip(1)), self.table.weight).tanh().mean(1), id="both"
        ),
        pytest.param(lambda self, x: (self.table(x) + self.table.weight.mean(0)).tanh().mean(1), id="and averaged"),
        pytest.param(lambda self, x: self.table(x[:, 0]), id="once an example"),
        pytest.param(
            lambda self, x: self.table(x)[:, :, :2].mean(1) + self.table(x[:, [1, 1]]).sum((1, 2))[:, None], id="parts"
        ),
    ],
)
def test_tables_used_several_times_differentiate_as_in_torch(check_step, batch, function):
    check_step(Net(function, table=nn.Embedding(7, 3)), (batch, 5), 2, num_ids=7)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda self, x: self.l(x)[:, -1], id="last"),
        pytest.param(lambda self, x: self.l(x)[:, [0, 2, 2, 5, 2]].tanh().mean(1), id="repeated"),
        pytest.param(lambda self, x: self.l(x)[:, [5, 0]].tanh().mean(1), id="out of order"),
        pytest.param(lambda self, x: self.l(x[..., [2, 1, 0]]).transpose(0, 1)[3], id="batch second"),
        pytest.param(lambda self, x: (self.l(x) + self.p(torch.arange(6))).tanh().mean(1), id="positions"),
        pytest.param(
            lambda self, x: (self.l(x) + self.p(torch.tensor([0, 1, 2, 2, 1, 0]))).tanh().mean(1), id="shared"
        ),
        pytest.param(lambda self, x: (self.l(x) + self.p.weight[:, [2, 0, 2]].mean(0)).tanh().mean(1), id="columns"),
        pytest.param(
            lambda self, x: torch.cat([self.c.expand(x.shape[0], -1, -1), self.l(x)], 1).softmax(1)[:, 0],
            id="class token",
        ),
        pytest.param(
            lambda self, x: torch.cat([self.c.repeat(x.shape[0], 2, 1), self.l(x)], 1).softmax(1)[:, 0],
            id="repeated class token",
        ),
    ],
)
def test_positions_picked_alike_for_all_examples_differentiate_as_in_torch(check_step, batch, function):
    net = Net(function, l=nn.Linear(3, 3), p=nn.Embedding(9, 3), c=torch.randn(1, 1, 3))
    if function.__code__.co_names and "p" not in function.__code__.co_names:
        del net.p
    if "c" not in function.__code__.co_names:
        del net.c
    check_step(net, (batch, 6, 3), 3)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (nn.Embedding(7, 3, sparse=True), "makes sparse gradients, and a step's are dense; set sparse=False"),
        (nn.Embedding(7, 3, scale_grad_by_freq=True), "scales gradients by how often .* set scale_grad_by_freq=False"),
        (nn.EmbeddingBag(7, 3), "has no gradient in ONNX Runtime Training; use nn.Embedding and sum"),
    ],
)
def test_lookups_that_tie_examples_together_are_refused_by_name(compile_module, table, message):
    with pytest.raises(CompileError, match=f"layer 'table' .* {message}"):
        compile_module(Net(lambda self, x: self.table(x).reshape(4, -1), table=table), (4, 5), dtype=torch.int64)


def test_an_embedding_that_changes_its_weights_is_refused_by_name():
    with pytest.raises(CompileError, match=r"layer '0' .Embedding. changes its weights .* set max_norm=None"):
        prepare_module(nn.Sequential(nn.Embedding(7, 3, max_norm=1.0)))


def test_examples_picked_by_their_place_are_refused(compile_module):
    net = Net(lambda self, x: self.l(x[[1, 0, 2, 3]]), l=nn.Linear(3, 3))
    with pytest.raises(CouplingError, match=r"Gather. picks examples by their place in the batch"):
        compile_module(net, (4, 3))


def test_the_gradient_of_a_table_is_never_written_out(make_node):
    graph = GraphBuilder()
    shape = Plain(graph.constant(np.array([1000, 3])), is_batched=False)
    ids, dy = Plain(graph.input("ids", (4, 5), np.int64), True), Plain(graph.input("dy", (4, 5, 3)), True)
    (found,) = RULES["GatherGrad"](graph, make_node("GatherGrad"), [shape, ids, dy])
    assert isinstance(found, Lookup)
    assert (found.shape, found.form) == ((1000, 3), "sparse")


def test_rows_that_all_examples_look_up_keep_their_shares(make_node):
    graph = GraphBuilder()
    shape, ids = (Plain(graph.constant(np.array(value)), is_batched=False) for value in ([9, 3], [2, 4]))
    (found,) = RULES["GatherGrad"](
        graph, make_node("GatherGrad"), [shape, ids, Materialised(graph.input("dy", (4, 2, 3)))]
    )
    assert isinstance(found, Lookup)
    assert found.ids.shape == (2,)


def test_lookups_in_values_of_each_example_are_refused(make_node):
    graph = GraphBuilder()
    data, ids = Plain(graph.input("x", (4, 5)), True), Plain(graph.input("ids", (4, 5), np.int64), True)
    with pytest.raises(
        CompileError, match=r"layer 'layer' .Gather. looks up in something else than the rows of a table"
    ):
        RULES["Gather"](graph, make_node("Gather"), [data, ids])


@pytest.mark.parametrize("padding", [None, 0])
@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda self, x: self.table(x), id="as they are"),
        pytest.param(lambda self, x: self.table(x + 3), id="moved"),
        pytest.param(lambda self, x: self.table(x // 2), id="halved"),
        pytest.param(lambda self, x: self.table(torch.where(x > 2, x, 0)), id="chosen"),
        pytest.param(lambda self, x: self.table(x.clamp(max=25)), id="clamped"),
        pytest.param(lambda self, x: self.table(x.relu().clamp(1, 30)), id="between"),
        pytest.param(lambda self, x: self.table.weight[x - 4], id="from the end"),
    ],
)
def test_ids_beyond_a_table_stop_no_step(check_step, compile_module, function, padding):
    net = Net(lambda self, x: function(self, x).tanh().mean(1), table=nn.Embedding(9, 3, padding_idx=padding))
    check_step(net, (4, 5), 3, num_ids=6)
    compiled = compile_module(net, (4, 5), dtype=torch.int64)
    ids = np.repeat(np.array([[9], [-10], [2**62], [-(2**63)]]), 5, axis=1)
    for values in (compiled.gradient(ids, np.zeros(4, np.int64)), compiled.evaluate(ids, np.zeros(4, np.int64))):
        assert all(np.isfinite(value).all() for value in values)


def test_ids_that_count_from_the_end_meet_those_that_do_not(compile_module):
    net = Net(lambda self, x: self.table[x[:, 0]] + self.table[x[:, 1]], table=torch.randn(9, 3))
    compiled, y = compile_module(net, (2, 2), dtype=torch.int64), np.array([0, 1])
    norms = [compiled.gradient(np.array(ids), y)[2] for ids in ([[8, 8], [1, 1]], [[8, -1], [-8, 1]])]
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-6)
