import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.compile.builder import CompileError, GraphBuilder
from pipeline.compile.rules_slicing import RULES
from pipeline.compile.values import CouplingError, Plain


class Cut(nn.Module):
    """A weight for each position, a function, and a linear layer."""

    def __init__(self, function, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))
        self.function = function
        self.classifier = nn.Linear(function(torch.zeros(1, *shape)).numel(), 3)

    def forward(self, x):
        return self.classifier(self.function(x * self.weight).flatten(1))


def gated(gate, x):
    return (gate[..., :1] > 0) * x


@settings(max_examples=20)
@given(st.data())
def test_any_slice_is_torchs(check_step, data):
    bound = st.none() | st.integers(-6, 6)
    cuts = [slice(data.draw(bound), data.draw(bound), data.draw(st.none() | st.integers(1, 3))) for _ in range(2)]
    lengths = [len(range(size)[cut]) for size, cut in zip((4, 5), cuts, strict=True)]
    if min(lengths) > 0:
        check_step(Cut(lambda x: x[:, cuts[0], cuts[1]], (4, 5)), (data.draw(st.integers(1, 3)), 4, 5), 3)


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda x: x.flip(1) * x, id="flip"),
        pytest.param(lambda x: x.flip((1, 2)) * x, id="flip twice"),
        pytest.param(lambda x: x.roll(2, 2) * x, id="roll"),
        pytest.param(lambda x: torch.cat(x.split([1, 3], 1)[::-1], 1) * x, id="split"),
        pytest.param(lambda x: x.chunk(2, 1)[1] * x[:, :2], id="one chunk of two"),
        pytest.param(lambda x: torch.stack(x.unbind(1)[::-1], 1) * x, id="unbind"),
        pytest.param(lambda x: x.split(3, 1)[1], id="one part of a split"),
        pytest.param(lambda x: x.unbind(1)[2] * x.unbind(1)[0], id="two of four"),
        pytest.param(lambda x: gated(*x.split([2, 3], 2)), id="no gradient of one"),
        pytest.param(lambda x: nn.functional.pad(x, (1, 2, 0, 1), value=3.0), id="pad"),
        pytest.param(lambda x: nn.functional.pad(x, (-1, 2, 1, -2)), id="pad and crop"),
        pytest.param(lambda x: x.repeat(1, 2, 3), id="repeat"),
        pytest.param(lambda x: x[:, :1].tile((3, 1)), id="tile"),
        pytest.param(lambda x: x.flatten(1).repeat(1, 1, 2).squeeze(0), id="repeat with an axis more"),
        pytest.param(lambda x: x.transpose(0, 1)[1:].transpose(0, 1), id="slice before the batch"),
        pytest.param(
            lambda x: torch.cat(x.transpose(0, 1).chunk(2, 0), 2).transpose(0, 1), id="chunk before the batch"
        ),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_cutting_padding_and_repeating_are_torchs(check_step, function, batch):
    check_step(Cut(function, (4, 5)), (batch, 4, 5), 3)


class Halves(nn.Module):
    """A parameter that is cut, split and padded before it is used."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4))
        self.classifier = nn.Linear(4, 3)

    def forward(self, x):
        scale = self.weight[::2].sum(0) * self.weight.split(4, 0)[1].sum(0)
        return self.classifier(x * scale * nn.functional.pad(self.weight[1, 1:], (1, 0)))


@pytest.mark.parametrize("batch", [1, 3])
def test_a_parameter_may_be_cut(check_step, batch):
    torch.manual_seed(0)
    check_step(Halves(), (batch, 4), 3)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        pytest.param(lambda x: x + x[:1], r"\(Slice\) cuts the batch in pieces", id="slice"),
        pytest.param(lambda x: nn.functional.pad(x, (0, 0, 0, 0, 0, 1))[:-1], r"\(Pad\) pads the batch", id="pad"),
        pytest.param(lambda x: x.repeat(2, 1, 1)[::2], r"\(Repeat\) repeats the batch", id="repeat"),
    ],
)
def test_what_moves_examples_is_refused_by_name(compile_module, function, message):
    with pytest.raises(CouplingError, match=f"layer '.*' {message}"):
        compile_module(Cut(function, (4, 5)), (2, 4, 5))


def test_splitting_the_batch_is_refused(make_node):
    graph = GraphBuilder()
    with pytest.raises(CouplingError, match=r"layer 'layer' \(Split\) splits the batch"):
        RULES["Split"](graph, make_node("Split", axis=0), [Plain(graph.input("x", (2, 3)), is_batched=True)])


def test_padding_by_other_values_is_refused_where_it_comes_past_the_exporter(make_node):
    graph = GraphBuilder()
    inputs = [Plain(graph.input("x", (2, 3)), is_batched=True), Plain(graph.constant([0, 1, 0, 1]), is_batched=False)]
    with pytest.raises(CompileError, match=r"layer 'layer' .Pad. pads by other values than a constant"):
        RULES["Pad"](graph, make_node("Pad", mode=b"reflect"), inputs)
