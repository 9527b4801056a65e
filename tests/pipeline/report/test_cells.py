from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given

from pipeline.report.cells import Box, cells_of, lay_out
from search.architecture import Cell, Edge, Stage
from search.candidate import Candidate

CELL = Cell(
    (
        (Edge(0, ("skip",)), Edge(1, ("separable_5",))),
        (Edge(0, ("average_pool",)), Edge(2, ("dilated_3",))),
    )
)


def of_cells(made, cell=CELL, **settings):
    first, won, last = made.result().trials
    network = replace(made.small, stages=(Stage("cell", 4, cell=CELL), Stage("cell", 8, cell=cell, **settings)))
    return made.result(trials=(first, replace(won, candidate=Candidate(network, won.candidate.hyper_parameters)), last))


def overlap(one: Box, other: Box) -> bool:
    return (
        abs(one.x - other.x) < (one.width + other.width) / 2 and abs(one.y - other.y) < (one.height + other.height) / 2
    )


def crosses(box: Box, points) -> bool:
    (x, y), (end_x, end_y) = points
    return (
        min(x, end_x) < box.x + box.width / 2 - 1e-9
        and max(x, end_x) > box.x - box.width / 2 + 1e-9
        and min(y, end_y) < box.y + box.height / 2 - 1e-9
        and max(y, end_y) > box.y - box.height / 2 + 1e-9
    )


def test_nothing_overlaps_and_every_edge_goes_through_its_own_operation_alone(cell_networks):
    @given(cell_networks)
    def check(network):
        for cell in (stage.cell for stage in network.stages if stage.cell is not None):
            layout = lay_out(cell)
            boxes = (*layout.ends, *layout.operations)
            assert not any(overlap(one, other) for one, other in combinations(boxes, 2))
            assert len(layout.operations) == sum(map(len, cell.nodes))
            for box in boxes:
                assert box.width / 2 <= box.x <= layout.width - box.width / 2
                assert box.height / 2 <= box.y <= layout.height - box.height / 2
            for operation in layout.operations:
                assert sum(crosses(operation, wire.points) for wire in layout.wires) == 1
            assert not any(crosses(box, wire.points) for box in layout.ends for wire in layout.wires)
            nodes = layout.ends[2:-1]
            assert [node.x for node in nodes] == sorted(node.x for node in nodes)
            assert all(layout.ends[0].x < node.x < layout.ends[-1].x for node in nodes)

    check()


def test_an_edge_begins_where_its_source_goes_down_and_ends_at_its_node():
    layout = lay_out(CELL)
    _, _, first, second, output = layout.ends
    goes_down = {x for (x, _), (end_x, _) in (wire.points for wire in layout.wires) if x == end_x}
    begins = [
        next(w.points for w in layout.wires if w.points[0][1] == op.y and crosses(op, w.points))
        for op in layout.operations
    ]
    assert {points[0][0] for points in begins} == goes_down
    assert begins[0][0][0] == begins[2][0][0] < begins[1][0][0]  # both of input 1, and that of input 2
    assert begins[3][0][0] > first.x + first.width / 2
    ends = [points[1][0] for points in begins]
    assert ends == pytest.approx([node.x - node.width / 2 for node in (first, first, second, second)])
    assert sum(wire.points[1][0] == pytest.approx(output.x - output.width / 2) for wire in layout.wires) == 2


def test_each_stage_of_each_model_is_drawn_with_the_names_of_its_operations(made):
    (pictures,) = cells_of(of_cells(made, stride=2, depth=3)).values()
    assert [picture.title.replace("\N{MULTIPLICATION SIGN}", "x") for picture in pictures] == [
        "Stage 1: 4 channels a node",
        "Stage 2: 8 channels a node, stride 2, 3 x",
    ]
    svg = pictures[0].plot.svg.replace("\N{MULTIPLICATION SIGN}", "x")
    for name in (
        "input 1",
        "input 2",
        "node 1",
        "node 2",
        "output",
        "skip",
        "separable 5x5",
        "average pool",
        "dilated 3x3",
    ):
        assert svg.count(f">{name}</text>") == 1
    assert "node 2: average pool of input 1 + dilated 3" in pictures[0].plot.alt
    assert pictures[0].plot.width_in == lay_out(CELL).width


def test_an_input_that_nothing_reads_has_no_line():
    cell = Cell(((Edge(1, ("skip",)),),))
    layout = lay_out(cell)
    first, second, *_ = layout.ends
    starts = [wire.points[0] for wire in layout.wires]
    assert (first.x + first.width / 2, first.y) not in starts
    assert (second.x + second.width / 2, second.y) in starts


def test_other_networks_have_no_cells(made):
    assert cells_of(made.result()) == {}
