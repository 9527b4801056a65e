import json
from math import prod

import pytest

from bench import predict_memory
from bench.predict_memory import (
    BATCHES,
    CALIBRATING,
    JUDGING,
    SMALL_MIB,
    SUM_MIB,
    bars_of,
    calibration,
    draw_net,
    rows_of,
    summary,
)
from profiles.records import to_plain
from search.architecture import Architecture, Stem
from search.layers import layers_of


def a_row(ratio=1.0, architecture_ratio=1.0, arena_mib=80.0, measured_mib=100.0):
    predicted = ratio * measured_mib
    return {
        "ratio": ratio,
        "architecture_ratio": architecture_ratio,
        "arena_mib": arena_mib,
        "measured_mib": measured_mib,
        "interval80_mib": [0.98 * predicted, 1.02 * predicted],
        "interval95_mib": [0.95 * predicted, 1.05 * predicted],
    }


def missed(rows):
    return [bar.name for bar in bars_of(rows) if not bar.met]


def test_draws_are_the_same_each_time_and_of_the_size_that_is_asked_for():
    assert draw_net(1, 0) == draw_net(1, 0) != draw_net(2, 0)
    for index in (*range(4), 7):
        architecture, batch_size = draw_net(1, index)
        values = sum(prod(layer.output_shape) for layer in layers_of(architecture))
        assert batch_size in BATCHES
        assert (SMALL_MIB if index % 8 == 7 else SUM_MIB[0]) <= 4 * batch_size * values / 2**20 <= SUM_MIB[1]


def test_good_predictions_of_enough_nets_miss_nothing():
    assert missed([a_row()] * 60) == []
    assert [name for name in missed([a_row()] * 59) if "nets with an arena" in name]


@pytest.mark.parametrize("key", ["ratio", "architecture_ratio"])
def test_a_prediction_that_is_far_under_or_often_far_off_misses_a_bar(key):
    of = "graph" if key == "ratio" else "architecture"
    assert missed([a_row()] * 60 + [a_row(**{key: 0.951})]) == []
    (name,) = missed([a_row()] * 60 + [a_row(**{key: 0.949})])
    assert name.startswith(f"from the {of}: most under")
    assert missed([a_row()] * 95 + [a_row(**{key: 1.11})] * 5) == []
    (name,) = missed([a_row()] * 94 + [a_row(**{key: 1.11})] * 6)
    assert name.startswith(f"from the {of}: share within 10%")


def test_small_arenas_are_judged_by_no_bar():
    assert missed([a_row()] * 60 + [a_row(0.5, 0.5, arena_mib=49.0)] * 60) == []


def test_a_summary_counts_what_the_intervals_cover():
    told = summary("all", [a_row(), a_row(1.03), a_row(1.2)])
    assert (told["nets"], told["covered 80"], told["covered 95"]) == (3, pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert told["graph most over"] == pytest.approx(0.2)


def test_the_calibration_finds_what_was_put_in():
    def row(nodes, constants_mib):
        counted = {"live": 0, "written": 64 * 2**20, "reserved": 128 * 2**20}
        measured = 64 + 4 + 2.0 + 3 * nodes / 1024 + 0.5 * constants_mib
        own = {"num_nodes": nodes, "constants": constants_mib * 2**20, "counted": counted}
        return {**a_row(measured_mib=measured), **own}

    found = calibration([row(nodes, constants) for nodes in (500, 1000, 4000) for constants in (0, 4, 9)])
    terms = (found["session_mib"], found["node_kib"], found["of constants"])
    assert terms == pytest.approx((2.0, 3.0, 0.5))


def test_what_was_measured_before_is_not_measured_again(tmp_path, monkeypatch):
    asked = []
    network = Architecture((1, 8, 8), 2, Stem(3, kernel=1))

    def gradient_graph(architecture, batch_size):
        asked.append(batch_size)
        return b"graph"

    measured = {"opened_mib": 1.0, "runs_mib": [2.0, 2.5, 2.5]}
    monkeypatch.setattr(predict_memory, "draw_net", lambda group, index: (network, 4 + index))
    monkeypatch.setattr(predict_memory, "gradient_graph", gradient_graph)
    monkeypatch.setattr(predict_memory, "measure_resident_mib", lambda path: measured)
    monkeypatch.setattr(predict_memory, "judged", lambda row, graph: {**row, "graph": graph})
    (first,) = rows_of(tmp_path, [(1, 0)])
    again, second = rows_of(tmp_path, [(1, 0), (1, 1)])
    assert (first, asked) == (again, [4, 5])
    assert first == {
        "group": 1,
        "index": 0,
        "architecture": to_plain(network),
        "batch_size": 4,
        **measured,
        "graph": b"graph",
    }
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["index"] for line in lines] == [0, second["index"]]


def test_judges_are_at_least_sixty_and_were_no_use_for_calibration():
    assert JUDGING >= 60
    assert CALIBRATING >= 30
