import re
from pathlib import Path

import pytest
import torch

from pipeline.compile.builder import CompileError
from pipeline.compile.modules import prepare_module
from pipeline.compile.operators import REFUSED, TABLE, Row, to_markdown

PAGE = Path(__file__).parents[3] / "docs" / "operators.md"


def rows(*, are_refused: bool) -> list:
    return [pytest.param(row, id=row.name) for row in TABLE if (row.status == REFUSED) == are_refused]


@pytest.mark.parametrize("row", rows(are_refused=False))
def test_what_the_table_calls_supported_is_compiled_and_agrees_with_torch(check_step, row: Row):
    check_step(prepare_module(row.example.network()), row.example.x_shape, 3)


@pytest.mark.parametrize("row", rows(are_refused=True))
def test_what_the_table_calls_refused_is_refused_with_its_text_and_the_layers_name(compile_module, row: Row):
    with pytest.raises(CompileError) as caught:
        compile_module(prepare_module(row.example.network()), row.example.x_shape)
    reason, cure = row.note.split("; ", 1)
    assert re.match(r"layer 'layer(\.\w+)*'", str(caught.value))
    assert reason in str(caught.value)
    assert cure in str(caught.value)


def test_the_page_is_what_the_table_says():
    assert PAGE.read_text(encoding="utf-8") == to_markdown(), (
        "run python -m pipeline.compile.operators > docs/operators.md"
    )


def test_names_are_unique_and_an_examples_parameters_are_the_same_every_time():
    assert len({row.name for row in TABLE}) == len(TABLE)
    one, other = (TABLE[0].example.network().state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
