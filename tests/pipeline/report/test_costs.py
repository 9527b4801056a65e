from dataclasses import replace

from pipeline.report.cost_plots import draw_stages, draw_trials
from pipeline.report.costs import costs_of
from pipeline.report.spending import splits_of


def test_phases_come_in_the_order_of_the_run_and_add_up(made):
    costs = costs_of(made.result())
    assert [row.name for row in costs.stages] == ["search", "final", "test"]
    assert [row.client_seconds for row in costs.stages] == [6.0, 30.0, 0.5]
    assert costs.total.client_seconds == 36.5
    assert (costs.total.bytes_up, costs.total.bytes_down) == (5 * 2048, 5 * 4096)
    assert (costs.total.examples, costs.total.client_rounds, costs.total.evaluations) == (500, 40, 10)


def test_the_search_is_told_by_trial_with_the_winner_marked(made):
    costs = costs_of(made.result())
    assert [(row.name, row.client_seconds, row.is_winner) for row in costs.trials] == [
        ("0", 1.0, False),
        ("1", 2.0, True),
        ("2", 3.0, False),
    ]
    assert costs.dearest.client_seconds == 3.0


def test_an_unknown_phase_is_told_last(made):
    costs = (made.cost("warming", None, 1.0), made.cost("test", None, 1.0, "evaluate"))
    assert [row.name for row in costs_of(made.result(costs=costs)).stages] == ["test", "warming"]


def test_a_picture_by_trial_needs_two(made):
    one = costs_of(made.result(costs=(made.cost("search", 0, 1.0),)))
    assert draw_trials(one) is None
    assert "from 1.00 to 3.00, 6.00 together" in draw_trials(costs_of(made.result())).alt


def test_the_split_that_spent_most_comes_first_and_is_the_total(made):
    splits = splits_of(made.privacy())
    assert [(split.split, split.is_total) for split in splits] == [
        ("train", True),
        ("validation", False),
        ("test", False),
    ]
    assert [row.phase for row in splits[0].rows] == ["search", "final"]
    assert splits[0].epsilon == made.privacy().epsilon


def test_what_is_left_of_the_target_is_never_negative(made):
    splits = splits_of(made.privacy(epsilon_by_split={"train": 8.0001, "test": 6.0}))
    assert [split.left for split in splits] == [0.0, 2.0]
    assert [split.share for split in splits] == [1.0, 0.75]


def test_a_search_that_goes_on_from_trials_tells_first_rounds_further_ones_and_scoring_apart(made):
    first, second, third = made.result().trials
    trials = (
        first,
        replace(second, start_from=0),  # of another network
        replace(third, candidate=second.candidate, start_from=1),
    )
    costs = (
        made.cost("search", 0, 1.0, "evaluate"),
        *(made.cost("search", i, 2.0 * i) for i in (1, 2)),
        made.cost("final", 2, 5.0),
    )
    found = costs_of(made.result(trials=trials, costs=costs)).stages
    assert [(row.name, row.stage, row.client_rounds, row.evaluations, row.client_seconds) for row in found] == [
        ("search", "pretraining", 10, 0, 2.0),
        ("search", "continued", 10, 0, 4.0),
        ("search", "scoring", 0, 10, 1.0),
        ("final", "", 10, 0, 5.0),
    ]


def test_the_picture_by_phase_shares_out_every_measure_that_was_counted(made):
    plot = draw_stages(costs_of(made.result()))
    assert "of client-seconds: search, training 16.4%, final 82.2%, test 1.4%." in plot.alt
    for name in ("client-rounds", "evaluations", "client-seconds", "bytes up", "bytes down"):
        assert f">{name}</text>" in plot.svg
    without = draw_stages(costs_of(made.result(costs=(made.cost("search", 0, 1.0),))))
    assert ">evaluations</text>" not in without.svg
    assert draw_stages(costs_of(made.result(costs=()))) is None
