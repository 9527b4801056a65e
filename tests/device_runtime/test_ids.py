"""Ids beyond a network's tables are refused before a step, whoever holds them and whatever would be drawn."""

from dataclasses import replace

import pytest

from device_runtime.session import check_examples


@pytest.fixture
def manifest(towers_session):
    return replace(towers_session("mse").manifest, num_ids={"x.counts": 5})


@pytest.mark.parametrize("bad", [-1, 5, 2**40])
def test_an_id_outside_the_table_is_refused_with_the_range(manifest, draw_towers, bad):
    x, y = draw_towers(6)
    check_examples(manifest, x, y)
    x["counts"][3, 1] = bad
    with pytest.raises(ValueError, match=rf"x.counts must hold ids in \[0, 5\), got .*{bad}.*another vocabulary"):
        check_examples(manifest, x, y)


def test_no_examples_hold_no_bad_ids(manifest, draw_towers):
    x, y = draw_towers(0)
    check_examples(manifest, x, y)
