import pytest

from pipeline.report.fronts import draw_front, fronts_of
from search.pareto import pareto_front


def test_the_classes_come_from_the_smallest_device_to_the_largest(made):
    assert [front.device_class for front in fronts_of(made.result())] == ["entry", "mid"]


def test_a_candidate_counts_with_the_slowest_phone_of_the_class(made):
    entry, mid = fronts_of(made.result())
    assert entry.profiles == ("cheap",)
    assert mid.profiles == ("dear", "middling")
    assert entry.latency_ms == {0: 2.0, 1: 4.0, 2: 8.0}
    assert mid.latency_ms == {0: 1.0, 1: 2.0, 2: 4.0}


def test_the_front_is_what_nothing_beats_by_trial_number(made):
    trials = (made.trial(5, 0.4, 3.0), made.trial(8, 0.9, 2.0), made.trial(9, 0.2, 1.0), made.trial(3, 0.1, 1.5))
    (front, _) = fronts_of(made.result(trials=trials, models=(made.model(trial=8),)))
    assert front.trials == (9, 8)
    points = list(zip(front.latency_ms.values(), front.accuracy.values(), strict=True))
    assert [trials[i].index for i in pareto_front(points)] == [9, 8]


@pytest.mark.parametrize(
    ("budgets", "limits"),
    [
        ({}, [None, None]),
        ({"default": {"latency_ms": 5.0}}, [5.0, 5.0]),
        ({"default": {"latency_ms": 5.0}, "mid": {"latency_ms": 2.0}}, [5.0, 2.0]),
        # A class with a table of its own has no other limits: that is how the search keeps them.
        ({"default": {"latency_ms": 5.0}, "mid": {"latency_ms": None, "size_kib": 9.0}}, [5.0, None]),
    ],
)
def test_the_limit_is_the_classs_own_or_the_default(made, budgets, limits):
    assert [front.limit_ms for front in fronts_of(made.result(budgets=budgets))] == limits


def test_a_run_without_profiles_has_no_front(made):
    trials = tuple(made.trial(i, 0.5, 1.0, costs=()) for i in range(2))
    assert fronts_of(made.result(trials=trials)) == ()


def test_the_picture_says_in_words_what_it_shows(made):
    plot = draw_front(fronts_of(made.result())[0], "front0")
    assert "3 candidates on devices of class entry; 2 on the Pareto front" in plot.alt
    assert "trial 1, has 75.0% at 4.00 ms. The limit is 6 ms." in plot.alt


def test_a_near_limit_is_a_line_and_a_far_one_an_arrow(made):
    entry, mid = fronts_of(made.result())
    near, far = draw_front(entry, "front0").svg, draw_front(mid, "front1").svg
    assert "var(--limit)" in near
    assert "to the right" not in near
    assert "limit 900 ms, to the right" in far


def test_scores_that_noise_moved_out_of_range_are_drawn(made):
    trials = (made.trial(0, -0.1, 1.0), made.trial(1, 1.2, 2.0))
    assert "120%</text>" in draw_front(fronts_of(made.result(trials=trials))[0], "front0").svg


def test_trials_without_a_score_are_on_no_front_and_each_class_has_its_own_winners(made):
    entry, mid = fronts_of(made.two_models())
    assert set(entry.accuracy) == set(mid.accuracy) == {1, 2}
    assert (entry.winners, mid.winners) == ((2,), (1,))
    failed = tuple(made.trial(i, 0.0, 1.0, failed="nobody came") for i in range(3))
    assert fronts_of(made.result(trials=failed)) == ()


def test_several_winners_of_a_class_are_told_one_by_one(made):
    models = (made.model(platforms=("cheap", "middling")), made.model(trial=2, platforms=("dear",)))
    _, mid = fronts_of(made.result(models=models))
    assert (
        "The model of trial 1 has 75.0% at 2.00 ms. The model of trial 2 has 60.0% at 4.00 ms."
        in draw_front(mid, "front0").alt
    )
