import re
from dataclasses import replace

import pytest

from pipeline.report.plots import LINES
from pipeline.report.tuning import draw_tuning, ever_most_probable, ranked_at_the_end, tuning_of
from search.algorithm import TuningHistory
from search.candidate import HyperParameters


def history(*rows, labels=None):
    configurations = tuple(
        HyperParameters(0.01 * (i + 1), local_steps=1, momentum=i / 100, architecture_learning_rate=0.1 * (i + 1))
        for i in range(len(rows[0]))
    )
    return TuningHistory(configurations, rows, labels or (*(f"round {i + 1}" for i in range(len(rows) - 1)), "end"))


def test_a_history_has_a_number_for_each_configuration_at_each_moment():
    with pytest.raises(ValueError, match=r"a row a label \(2\).*a configuration \(3\), got 1 rows of \[3\]"):
        history((0.2, 0.3, 0.5), labels=("round 1", "end"))
    with pytest.raises(ValueError, match=r"got 2 rows of \[1, 2\]"):
        TuningHistory((HyperParameters(0.1),) * 2, ((1.0,), (0.5, 0.5)), ("start", "end"))


def test_the_table_has_the_ten_of_the_end_and_the_plot_the_ten_that_ever_had_most():
    early = (0.5, *[0.0] * 11)
    late = (0.0, *(i / 66 for i in range(11, 0, -1)))
    tuned = history(early, late)
    assert ranked_at_the_end(tuned)[:3] == [1, 2, 3]
    assert ever_most_probable(tuned) == [0, *range(1, 10)]
    assert 0 not in ranked_at_the_end(tuned)[:10]


def test_of_those_that_are_out_who_lasted_longer_is_told_first():
    tuned = history((0.25, 0.25, 0.25, 0.25), (0.1, 0.2, 0.3, 0.4), (0.0, 0.0, 0.0, 1.0))
    assert ranked_at_the_end(tuned) == [3, 2, 1, 0]


def test_a_configuration_is_told_by_what_configurations_differ_in_and_the_models_own_is_marked(made):
    tuned = history((0.5, 0.5), (0.125, 0.875))
    first, won, last = made.result().trials
    own = replace(tuned.configurations[1], architecture_learning_rate=None)  # as a found network has it
    won = replace(won, candidate=replace(won.candidate, hyper_parameters=own))
    told = tuning_of(made.result(tuning=tuned, trials=(first, won, last)))
    assert told.names == ("learning rate", "momentum")  # no supernet was trained
    assert [(row.name, row.probability, row.is_main) for row in told.rows] == [("1", 0.875, True), ("0", 0.125, False)]
    assert told.rows[0].values == ("0.02", "0.01")
    assert (told.measure, told.most, told.num_configurations) == ("probability", 0.875, 2)


def test_merged_weights_have_shares(made):
    first, second, last = made.result().trials
    trials = (first, replace(second, merged=((0, 1.0),)), last)
    told = tuning_of(made.result(tuning=history((0.5, 0.5), (0.0, 1.0)), trials=trials))
    assert told.measure == "share in the mean"
    assert ">share in the mean</text>" in told.plot.svg


def test_without_a_history_nothing_is_told(made):
    assert tuning_of(made.result()) is None


def test_ten_have_a_name_and_a_line_of_their_own_and_the_rest_is_thin():
    rows = [tuple((i + 1 + k) / 200 for i in range(14)) for k in range(3)]
    plot = draw_tuning(history(*rows), "probability")
    names = [int(name) for name in re.findall(r">(\d+)</text>", plot.svg)]
    assert {4, 5, 6, 7, 8, 9, 10, 11, 12, 13} <= set(names)
    assert plot.svg.count("stroke-width: 0.6") == 4
    assert len({(line.colour, line.style) for line in LINES}) == 10
    assert "14 configurations at 3 moments, from round 1 to end; at the end the largest are 13 with 8.0%" in plot.alt


@pytest.mark.parametrize(("num_rounds", "shown"), [(1, ["1", "end"]), (100, ["1", "14", "79", "end"])])
def test_many_rounds_have_few_ticks_that_do_not_meet(num_rounds, shown):
    svg = draw_tuning(history(*[(0.5, 0.5)] * (num_rounds + 1)), "probability").svg
    ticks = re.findall(r">(\d+|end)</text>", svg.partition(">round</text>")[0])
    assert all(tick in ticks for tick in shown)
    assert len(ticks) <= 9
    assert "92" not in ticks  # a tick at 92 of 101 would stand in the way of the last
