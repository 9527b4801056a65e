from dataclasses import replace

from pipeline.report.curves import curves_of, draw_final, draw_search, has_course
from pipeline.run_result import CurvePoint


def test_points_become_curves_by_phase_and_trial_in_the_order_of_rounds(made):
    points = (CurvePoint("search", 0, 2, 0.4), CurvePoint("search", 1, 1, 0.3), CurvePoint("search", 0, 1, 0.2))
    curves = curves_of(made.result(curves=points))
    assert [(curve.trial, [point.round for point in curve.points]) for curve in curves] == [(0, [1, 2]), (1, [1])]


def test_the_words_tell_the_winners_course(made):
    curves = curves_of(made.result())
    search, final = draw_search(curves, (1,)), draw_final(curves)
    assert "3 trials" in search.alt
    assert "trial 1, goes from 20.0% after round 1 to 30.0% after 2" in search.alt
    assert "goes from 70.0% after round 1 to 80.0% after 2" in final.alt


def test_the_winner_alone_has_the_colour(made):
    curves = curves_of(made.result())
    assert draw_search(curves, (1,)).svg != draw_search(curves, (2,)).svg
    assert "var(--mark)" not in draw_search(curves, (99,)).svg


def test_the_axis_says_who_alone_knows_the_figures(made):
    curves = curves_of(made.result())
    assert all("accuracy, emulator only" in plot.svg for plot in (draw_search(curves, (1,)), draw_final(curves)))


def test_without_points_there_is_no_picture(made):
    curves = curves_of(replace(made.result(), curves=()))
    assert draw_search(curves, (1,)) is draw_final(curves) is None


def test_a_trial_begins_where_the_one_it_starts_from_ended(made):
    trials = (
        replace(made.trial(0, 0.5, 1.0), rounds=2),
        replace(made.trial(1, 0.5, 1.0), rounds=3, start_from=0),
        replace(made.trial(2, 0.5, 1.0), rounds=1, start_from=1),
    )
    points = (CurvePoint("search", 1, 1, 0.4), CurvePoint("search", 2, 1, 0.5), CurvePoint("final", 2, 1, 0.6))
    curves = curves_of(made.result(trials=trials, curves=points))
    assert [(curve.phase, curve.trial, curve.rounds) for curve in curves] == [
        ("search", 1, [3]),
        ("search", 2, [6]),
        ("final", 2, [7]),
    ]
    fresh = made.result(trials=trials, curves=points, models=(made.model(trial=2, is_fresh=True),))
    assert curves_of(fresh)[-1].rounds == [1]


def test_the_final_training_of_several_models_is_told_apart(made):
    final = draw_final(curves_of(made.two_models()))
    assert "the final training of 2 models: trial 1 goes from 70.0%" in final.alt
    assert "; trial 2 goes from 60.0% after round 1 to 71.0% after 2" in final.alt
    assert ">trial 2</text>" in final.svg


def test_trials_of_one_round_each_have_no_course(made):
    points = made.result().curves
    assert has_course(curves_of(made.result()))
    first = tuple(point for point in points if point.round == 1 or point.phase == "final")
    assert not has_course(curves_of(made.result(curves=first)))
