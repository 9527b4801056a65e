from dataclasses import replace
from math import e

import pytest

from pipeline.report.plots import MUTED
from pipeline.report.supernets import lines_of, mixed_edges_of, supernet_of
from search.architecture import Cell, Edge, Stage
from search.candidate import Candidate, HyperParameters

CELL = Cell(
    (
        (Edge(0, ("skip", "conv_3", "none")), Edge(1, ("skip", "conv_3", "none"))),
        (Edge(0, ("max_pool",)), Edge(2, ("skip", "separable_3"))),
    )
)
START = (0.0,) * 16
FIRST = (1.0, *START[1:])
LAST = (*FIRST[:6], 0.0, 2.0, *START[8:])


@pytest.fixture
def trials(made):
    """Of a supernet of two stages, whose architecture weights moved in two steps, of two trials and of one."""
    network = replace(made.small, stages=(Stage("cell", 4, cell=CELL), Stage("cell", 4, stride=2, cell=CELL)))
    candidate = Candidate(network, HyperParameters(0.1, local_steps=1, architecture_learning_rate=0.1))
    plain = made.trial(0, 0.0, 1.0, candidate=candidate, is_shared=True, moves="alternate", rounds=1)
    return (
        replace(plain, architecture_weights=START, is_kept=False),  # a round of exploration
        replace(plain, index=1, architecture_weights=FIRST),
        replace(plain, index=2, architecture_weights=FIRST),
        replace(plain, index=3, architecture_weights=FIRST, moves="weights"),
        replace(plain, index=4, architecture_weights=LAST),
        made.trial(5, 0.5, 1.0, architecture_weights=LAST),  # the network that was found
    )


def test_every_edge_with_a_choice_has_the_softmax_of_its_weights_after_each_step(made, trials):
    edges = mixed_edges_of(made.result(trials=trials))
    assert [(edge.stage, edge.node, edge.source) for edge in edges] == [
        (stage, node, source) for stage in (0, 1) for node, source in ((0, 0), (0, 1), (1, 2))
    ]
    moved = e / (e + 2)
    assert edges[0].probabilities["skip"] == pytest.approx((1 / 3, moved, moved))
    assert edges[0].probabilities["none"] == pytest.approx((1 / 3, 1 / (e + 2), 1 / (e + 2)))
    assert edges[1].probabilities["conv_3"] == pytest.approx((1 / 3,) * 3)
    assert edges[2].probabilities["separable_3"] == pytest.approx((0.5, 0.5, e**2 / (1 + e**2)))
    assert [edge.likeliest for edge in edges] == ["skip", "skip", "separable_3", "skip", "skip", "skip"]


def test_a_stage_is_drawn_edge_by_edge_with_one_key_for_all(made, trials):
    told = supernet_of(made.result(trials=trials))
    assert [name.replace("\N{MULTIPLICATION SIGN}", "x") for name in told.key] == [
        "skip",
        "conv 3x3",
        "none",
        "separable 3x3",
    ]
    assert told.num_steps == 2
    assert list(told.plots) == [1, 2]
    for plot in told.plots.values():
        for place in ("node 1 from input 1", "node 1 from input 2", "node 2 from node 1"):
            assert f">{place}</text>" in plot.svg
        assert ">node 2 from input 1</text>" not in plot.svg  # it has no choice
        for line in told.key.values():
            assert f"var(--{line.variable})" in plot.svg
    assert "node 1 from input 1 skip with 57.6%" in told.plots[1].alt
    assert "node 2 from node 1 separable 3" in told.plots[1].alt


def test_every_operation_has_a_line_of_its_own_and_none_is_pale():
    operations = ["skip", "none", "average_pool", "max_pool", "conv_1", "conv_3", "separable_3", "separable_5"]
    lines = lines_of([*operations, "dilated_3", "skip"])
    assert len(set(lines.values())) == len(lines) == 9
    assert [name for name, line in lines.items() if line.colour == MUTED] == ["none"]


def test_a_search_without_architecture_weights_has_no_panels(made, trials):
    assert supernet_of(made.result()) is None
    assert supernet_of(made.result(trials=(trials[0], trials[3]))) is None
