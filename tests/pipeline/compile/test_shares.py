from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # torch's own abbreviation

from pipeline.compile.builder import CompileError, GraphBuilder
from pipeline.compile.rules_elementwise import softmax_grad, unsummed
from pipeline.compile.shares import chosen, each_share, scaled
from pipeline.compile.values import CouplingError, Materialised, Plain


class OfParameters(nn.Module):
    """Linear layers with a function of parameters alone between them: (x [B, 4], the parameters) to [B, 4]."""

    def __init__(self, function, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)
        self.values = nn.ParameterList(torch.rand(shape) + 0.5 for shape in shapes)

    def forward(self, x):
        return self.last(torch.tanh(self.function(self.first(x), *self.values)))


def standardised(x, w):
    w = w - w.mean(1, keepdim=True)
    return F.linear(x, w / (w.std(1, keepdim=True) + 1e-3))


FUNCTIONS = {
    "softmax": (lambda x, w: x * w.softmax(0), (4,)),
    "softmax of rows": (lambda x, w: F.linear(x, w.softmax(-1)), (4, 4)),
    "softmax of columns": (lambda x, w: F.linear(x, w.softmax(0)), (4, 4)),
    "log softmax": (lambda x, w: x * w.log_softmax(0), (4,)),
    "weight standardisation": (standardised, (4, 4)),
    "cosine": (lambda x, w: F.linear(F.normalize(x, dim=1), F.normalize(w, dim=1)), (4, 4)),
    "low rank": (lambda x, w, b, a: F.linear(x, w + 0.5 * (b @ a)), (4, 4), (4, 2), (2, 4)),
    "low rank of a scaled product": (lambda x, s, b, a: F.linear(x, (b @ a) * s), (4, 1), (4, 2), (2, 4)),
    "transposed product": (lambda x, b, a: x @ (b.T @ a.T).T, (2, 4), (4, 2)),
    "quotient": (lambda x, v, w: x * (v / w), (4,), (4,)),
    "quotient by a scalar": (lambda x, v, w: F.linear(x, v / w), (4, 4), (1,)),
    "quotient of a scalar": (lambda x, v, w: F.linear(x, v / w), (1,), (4, 4)),
    "joined with itself": (lambda x, w: F.linear(x, torch.cat([w, w])), (2, 4)),
    "joined with others": (lambda x, v, w: F.linear(x, torch.cat([v, torch.ones(4, 1), w], 1)), (4, 1), (4, 2)),
    "times and plus itself": (lambda x, w: x * (w * w + (w + w)), (4,)),
    "wide product": (lambda x, v, w: F.linear(x, v * w), (4,), (4, 1)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("batch", [1, 3, 4])
def test_a_function_of_parameters_differentiates_as_in_torch(check_step, name, batch):
    function, *shapes = FUNCTIONS[name]
    check_step(OfParameters(function, *shapes), (batch, 4), 3)


def test_weight_norm_differentiates_as_in_torch(check_step):
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    check_step(nn.Sequential(nn.Linear(4, 4), normed, nn.Tanh(), nn.Linear(4, 3)), (3, 4), 3)


def test_a_low_rank_products_shares_stay_products(compile_module, monkeypatch):
    def written_out(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("pipeline.compile.values.Outer.per_example", written_out)
    compile_module(OfParameters(lambda x, b, a: F.linear(x, b @ a), (4, 2), (2, 4)), (3, 4))


def test_a_function_of_parameters_without_a_rule_is_refused_as_what_it_is(make_node, values):
    _, share, *_ = values
    with pytest.raises(CompileError, match="in the gradient of a function of parameters alone") as told:
        unsummed(replace(make_node("Slice"), outputs=("w_grad",)), share)
    assert not isinstance(told.value, CouplingError)
    with pytest.raises(CouplingError, match="mixes the examples"):
        unsummed(make_node("Slice"), share)


@pytest.fixture
def values() -> tuple[GraphBuilder, Materialised, Plain, Plain]:
    """A graph, shares [3, 4], and a value [4] that is shared and one [3, 4] that is not."""
    graph = GraphBuilder()
    share, each = graph.input("share", (3, 4)), graph.input("each", (3, 4))
    shared = graph.input("shared", (4,))
    return graph, Materialised(share), Plain(shared, is_batched=False), Plain(each, is_batched=True)


def test_shares_times_something_of_each_example_are_refused(make_node, values):
    graph, share, shared, each = values
    assert scaled(graph, make_node("Mul"), "Mul", share, [shared]).shape == (4,)
    with pytest.raises(CouplingError, match="something of each example"):
        scaled(graph, make_node("Mul"), "Mul", share, [each])
    with pytest.raises(CouplingError, match="something of each example"):
        each_share(graph, make_node("SoftmaxGrad_13"), softmax_grad, share, each)


def test_shares_are_chosen_beside_zeros_alone(make_node, values):
    graph, share, shared, each = values
    condition = Plain(graph.input("condition", (4,), np.bool_), is_batched=False)
    zero = Plain(graph.constant(np.zeros(4, np.float32)), is_batched=False)
    assert chosen(graph, make_node("Where"), condition, [zero, share]).shape == (4,)
    for chooses, branches in ((condition, [shared, share]), (each, [zero, share])):
        with pytest.raises(CompileError, match="chooses between gradients of functions of parameters"):
            chosen(graph, make_node("Where"), chooses, branches)
