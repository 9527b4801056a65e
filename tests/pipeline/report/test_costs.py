from pipeline.report.costs import costs_of, draw_trials
from pipeline.report.spending import splits_of


def test_phases_come_in_the_order_of_the_run_and_add_up(made):
    costs = costs_of(made.result())
    assert [row.name for row in costs.phases] == ["search", "final", "test"]
    assert [row.client_seconds for row in costs.phases] == [6.0, 30.0, 0.5]
    assert costs.total.client_seconds == 36.5
    assert (costs.total.bytes_up, costs.total.bytes_down) == (5 * 2048, 5 * 4096)
    assert (costs.total.examples, costs.total.num_assignments) == (500, 50)


def test_the_search_is_told_by_trial_with_the_winner_marked(made):
    costs = costs_of(made.result())
    assert [(row.name, row.client_seconds, row.is_winner) for row in costs.trials] == [
        ("0", 1.0, False),
        ("1", 2.0, True),
        ("2", 3.0, False),
    ]
    assert costs.dearest.client_seconds == 3.0


def test_an_unknown_phase_is_told_last(made):
    costs = (made.cost("warming", None, 1.0), made.cost("test", None, 1.0))
    assert [row.name for row in costs_of(made.result(costs=costs)).phases] == ["test", "warming"]


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
