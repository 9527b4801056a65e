from dataclasses import replace

import pytest

from pipeline.report.cost_plots import draw_course, draw_stages, draw_trials
from pipeline.report.costs import (
    CoursePoint,
    costs_of,
    course_of,
    seconds_in_words,
    tells_what_was_thrown_away,
    thrown_away,
    thrown_away_in_words,
)
from search.algorithm import TuningHistory
from search.architecture import Cell, Edge, Stage


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


def test_nobody_knows_how_long_the_clients_of_a_real_private_run_worked(made):
    costs = tuple(replace(cost, device_seconds=0.0) for cost in made.result().costs)
    result = made.private_result(kind="real", costs=costs, emulator_only=None)
    found = costs_of(result)
    assert {row.client_seconds for row in (*found.stages, *found.trials, found.total, found.dearest)} == {None}
    assert "private reports carry no time and lost assignments have no report" in seconds_in_words(result)
    plot = draw_stages(found)
    assert ">client-seconds</text>" not in plot.svg
    assert "of client-rounds: search, training 75.0%, final 25.0%, test 0.0%." in plot.alt
    assert draw_trials(found) is None
    assert course_of(result).points == ()


def test_the_source_of_seconds_is_told_of_every_run(made):
    assert seconds_in_words(made.private_result()) == "predicted from the profiles"
    assert seconds_in_words(made.result(kind="real")) == "as the devices reported, of lost ones none"
    assert costs_of(made.private_result()).total.client_seconds == 36.5


def test_a_picture_by_trial_needs_two(made):
    one = costs_of(made.result(costs=(made.cost("search", 0, 1.0),)))
    assert draw_trials(one) is None
    assert "from 1.00 to 3.00, 6.00 together" in draw_trials(costs_of(made.result())).alt


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


def test_scoring_trials_do_not_make_training_a_pretraining(made):
    trials = (*made.result().trials, made.trial(3, 0.5, 1.0, start_from=2))
    costs = (made.cost("search", 2, 1.0), made.cost("search", 3, 1.0, "evaluate"))
    found = costs_of(made.result(trials=trials, costs=costs)).stages
    assert [(row.name, row.stage) for row in found] == [("search", "training"), ("search", "scoring")]


def with_trials(made, **changes):
    """Trials 0 to 2 with ten client-rounds each, changed by index, and the winner's final training."""
    trials = tuple(replace(trial, rounds=1, **changes.get(f"t{trial.index}", {})) for trial in made.result().trials)
    return made.result(trials=trials)


def test_of_trials_apart_all_but_the_models_is_thrown_away(made):
    assert thrown_away(with_trials(made)) == pytest.approx(2 / 3)  # the final training is not among them


def test_what_a_later_trial_goes_on_from_is_not_thrown_away(made):
    assert thrown_away(with_trials(made, t1={"start_from": 0})) == pytest.approx(1 / 3)
    scored = replace(made.trial(3, 0.5, 1.0), start_from=2)  # of no rounds: it says how good trial 2 is
    result = with_trials(made)
    assert thrown_away(replace(result, trials=(*result.trials, scored))) == pytest.approx(2 / 3)


def test_what_went_into_shared_weights_is_not_thrown_away_but_rounds_of_exploration_are(made):
    shared, explored = {"is_shared": True}, {"is_shared": True, "is_kept": False}
    assert thrown_away(with_trials(made, t0=shared, t2=shared)) == 0
    assert thrown_away(with_trials(made, t0=explored, t2=shared)) == pytest.approx(1 / 3)


def test_a_share_in_a_mean_counts_as_far_as_it_is_below_an_equal_one(made):
    merged = {"is_shared": True, "is_kept": False, "merged": ((0, 0.2), (2, 0.8))}
    assert thrown_away(with_trials(made, t1=merged)) == pytest.approx(0.6 / 3)


def test_trials_after_the_search_count_too(made):
    late = replace(made.trial(2, 0.5, 1.0), phase="final", is_shared=True, is_kept=False, rounds=1)
    result = with_trials(made)
    costs = (made.cost("search", 1, 1.0), made.cost("final", 2, 1.0), made.cost("final", 1, 30.0))
    assert thrown_away(replace(result, trials=(*result.trials[:2], late), costs=costs)) == pytest.approx(1 / 2)
    assert thrown_away(replace(result, costs=())) == 0


@pytest.mark.parametrize("seconds", [1.0, 30.0])
def test_the_final_training_of_a_winner_that_had_no_rounds_does_not_count(made, seconds):
    named = replace(made.trial(2, 0.5, 1.0), phase="final", is_shared=True, rounds=0)
    result = with_trials(made, t0={"is_shared": True, "is_kept": False}, t1={"is_shared": True})
    final = [made.cost("final", 2, seconds)] * int(seconds)
    costs = (made.cost("search", 0, 1.0), made.cost("search", 1, 1.0), *final)
    found = replace(result, trials=(*result.trials[:2], named), costs=costs, models=(made.model(trial=2),))
    assert thrown_away(found) == pytest.approx(1 / 2)


def test_what_was_thrown_away_is_told_by_where_final_training_begins(made):
    result = with_trials(made)
    words = thrown_away_in_words(result)
    assert "thrown away: nothing that was learnt in them is in a later trial or in a model. Counted are" in words
    assert "a mean" not in words
    fresh = thrown_away_in_words(replace(result, models=(made.model(is_fresh=True),)))
    assert "thrown away: no later trial of the search began with what was learnt in them. No model has any of" in fresh
    assert "final training began with fresh weights, and what the search trained only chose network and conf" in fresh
    assert "or in a model" not in fresh


def test_merged_weights_that_no_later_network_has_are_told_as_kept(made):
    merged = {"is_shared": True, "is_kept": False, "merged": ((0, 0.2), (2, 0.8))}
    words = thrown_away_in_words(with_trials(made, t1=merged))
    assert "counts by its share there, as far as that is below an equal one, and weights of operations that no" in words


def test_only_searches_that_tune_or_train_a_supernet_tell_what_was_thrown_away(made):
    result = made.result()
    assert not tells_what_was_thrown_away(result)
    history = TuningHistory((result.trials[0].candidate.hyper_parameters,), ((1.0,),), ("end",))
    assert tells_what_was_thrown_away(replace(result, tuning=history))
    mixed = Cell(((Edge(0, ("skip", "conv_3")),),))
    supernet = replace(made.small, stages=(Stage("cell", 4, cell=mixed),))
    trial = replace(result.trials[0], candidate=replace(result.trials[0].candidate, architecture=supernet))
    assert tells_what_was_thrown_away(replace(result, trials=(trial, *result.trials[1:])))


def test_the_course_adds_up_what_trials_cost_and_leaves_the_final_training_out(made):
    course = course_of(made.result())
    assert course.points == (CoursePoint(0, 1.0, 0.5), CoursePoint(1, 3.0, 0.75), CoursePoint(2, 6.0, 0.6))
    assert not course.is_exact
    plot = draw_course(course)
    assert "the best accuracy (validation), goes from 50.0% after 1.00 client-seconds to 75.0% after 6.00" in plot.alt
    assert ">client-seconds of the search so far</text>" in plot.svg


def test_a_trial_without_a_score_costs_and_has_no_point(made):
    first, *others = made.result().trials
    points = course_of(made.result(trials=(replace(first, failed="nobody came"), *others))).points
    assert [(point.trial, point.client_seconds) for point in points] == [(1, 3.0), (2, 6.0)]


def test_where_hardly_any_score_was_asked_for_the_emulator_tells_the_course(made):
    first, second, third = (replace(trial, failed="no score was asked for") for trial in made.result().trials)
    late = replace(third, failed="", phase="final")
    costs = (*made.result().costs, made.cost("final", 2, 4.0))
    result = made.result(trials=(first, second, late), costs=costs)
    course = course_of(result)
    assert course.is_exact
    assert [(point.client_seconds, point.accuracy) for point in course.points] == [
        (1.0, 0.41),
        (3.0, 0.72),
        (7.0, 0.63),
    ]
    assert ">accuracy, emulator only</text>" in draw_course(course).svg
    assert draw_course(course_of(replace(result, emulator_only=None))) is None
