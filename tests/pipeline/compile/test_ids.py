import numpy as np
import pytest
import torch
from torch import nn

from device_runtime.specs import ExampleSpec, InputSpec
from pipeline.compile.export import export_forward
from pipeline.compile.ids import draw_inputs, find_tables, id_limits, table_sizes


class Lookup(nn.Module):
    """Sums what a function of tables and ids looks up, [B, 3]."""

    def __init__(self, function):
        super().__init__()
        self.large, self.small = nn.Embedding(20, 3), nn.Embedding(7, 3)
        self.function = function

    def forward(self, ids):
        return self.function(self, ids).reshape(len(ids), -1, 3).sum(1)


IDS = torch.tensor([2, 4, 3, 5])


@pytest.mark.parametrize(
    ("function", "limits"),
    [
        (lambda self, ids: self.large(ids), (0, 20)),
        (lambda self, ids: self.large(ids) + self.small(ids), (0, 7)),
        (lambda self, ids: self.small(ids.reshape(len(ids), 2, 2).transpose(1, 2)), (0, 7)),
        (lambda self, ids: self.large(torch.cat([ids, ids], 1).unsqueeze(1)), (0, 20)),
        (lambda self, ids: self.large(ids) + self.small(torch.arange(4)), (0, 20)),  # positions are no ids
        (
            lambda self, ids: self.large.weight[0] * ids.float().unsqueeze(-1),
            (2, 6),
        ),  # numbers, as the example has them
    ],
    ids=["table", "smaller of two", "moved", "joined", "beside positions", "no table"],
)
def test_ids_go_up_to_the_smallest_table_that_they_index(function, limits):
    batch = {"x": torch.stack([IDS, IDS])}
    tables = find_tables(export_forward(Lookup(function), batch), batch)
    assert table_sizes(tables) == ({"x": limits[1]} if limits[0] == 0 else {})
    assert id_limits(tables, batch) == {"x": limits}


@pytest.mark.parametrize(
    "function",
    [
        lambda self, ids: self.large(ids[:, :1]) + self.small(ids[:, 1:2]),
        lambda self, ids: self.large(ids[:, 0]) + self.small(ids[:, 1]),
        lambda self, ids: torch.cat([self.large(ids.split(1, 1)[0]), self.small(ids.split(1, 1)[1])], 1),
    ],
    ids=["slices", "columns", "split"],
)
def test_each_column_has_the_limit_of_its_own_table_and_the_input_has_none(function):
    batch = {"x": torch.stack([IDS, IDS])}
    tables = find_tables(export_forward(Lookup(function), batch), batch)
    assert table_sizes(tables) == {}
    low, high = id_limits(tables, batch)["x"]
    assert (low, list(high)) == (0, [20, 7, 6, 6])  # the last two index nothing: as the example has them
    drawn = draw_inputs(ExampleSpec((4,), ("a", "b"), "int64"), {"x": (low, high)}, np.random.default_rng(0), 300)
    assert list(drawn.max(axis=0)) == [19, 6, 5, 5]


def test_numbers_have_no_limits():
    batch = {"x": torch.zeros(2, 4)}
    assert find_tables(export_forward(nn.Linear(4, 3), batch), batch) == {}


def test_drawn_numbers_are_normal_and_drawn_ids_span_their_range():
    rng = np.random.default_rng(0)
    x = draw_inputs(ExampleSpec((4, 5), ("a", "b")), {}, rng, 500)
    assert (x.dtype, x.shape) == (np.float32, (500, 4, 5))
    assert abs(x.mean()) < 0.05
    assert abs(x.std() - 1) < 0.05
    ids = draw_inputs(ExampleSpec((6,), ("a", "b"), "int64"), {"x": (1, 4)}, rng, 50)
    assert (ids.dtype, ids.shape) == (np.int64, (50, 6))
    assert set(ids.ravel()) == {1, 2, 3}


def test_several_inputs_are_drawn_into_rows():
    inputs = (InputSpec("ids", (6,), "int64"), InputSpec("image", (3, 4)), InputSpec("age", ()))
    spec = ExampleSpec((), ("a", "b"), inputs=inputs)
    x = draw_inputs(spec, {"x.ids": (0, 9)}, np.random.default_rng(0), 20)
    assert (x.dtype, x.shape) == (spec.row_dtype(), (20,))
    assert set(x["ids"].ravel()) == set(range(9))
    assert len(set(x["age"])) == 20
