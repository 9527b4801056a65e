from dataclasses import replace

import pytest

from device_runtime.accounting import epsilon_of
from pipeline.privacy_spent import PhaseSpent
from pipeline.report.curves import curves_of
from pipeline.report.page import render_report
from pipeline.report.spending import draw_spending, epsilon_by_step, released_in_words, spent_lines, splits_of
from pipeline.run_result import CurvePoint
from search.candidate import NOT_ASKED
from tests.pipeline.report.test_page import Outline


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


def test_releases_of_a_joint_search_are_told_by_split_in_words(made):
    rows = (
        PhaseSpent("final", "validation", "reward", 6, 0.4, 2.0),
        PhaseSpent("search", "validation", "reward", 8, 0.5, 2.1),
        PhaseSpent("search", "validation", "architecture", 9, 0.6, 2.2),
    )
    (split,) = splits_of(made.privacy(epsilon_by_split={"validation": 4.0}, phases=rows))
    assert [(row.phase, released_in_words(row.kind)) for row in split.rows] == [
        ("search", "update of the architecture weights"),
        ("search", "reward of hyper-parameters"),
        ("final", "reward of hyper-parameters"),
    ]
    assert released_in_words("update") == "update"


def by_round(privacy, num_rounds, own=()):
    return epsilon_by_step(privacy, own, num_rounds)[1]


def test_epsilon_grows_by_a_round_of_final_training_from_what_the_search_spent(made):
    rounds = by_round(made.privacy(), 60)
    assert rounds[0] == pytest.approx(epsilon_of(1.2 + 3.5 / 60, 4, 1e-5))
    assert rounds[-1] == pytest.approx(epsilon_of(1.2 + 3.5, 4, 1e-5))
    assert rounds[29] == pytest.approx((rounds[0] + rounds[-1]) / 2, rel=0.01)


def test_of_a_client_all_that_it_released_before_counts(made):
    privacy = made.privacy()
    client = replace(privacy, unit="client", phases=tuple(replace(row, split="all") for row in privacy.phases))
    assert by_round(client, 1) == (pytest.approx(epsilon_of(1.2 + 0.9 + 3.5, 4, 1e-5)),)


def feathers(made, unit="example", final_rounds=2, **changes):
    """A search whose second phase explores with two configurations, trains two rounds, and names and scores a network.

    The network's own `final_rounds` follow.
    """
    split, read = ("all", "all") if unit == "client" else ("train", "validation")
    rows = (
        PhaseSpent("search", split, "update", 20, 1.2, 4.3),
        PhaseSpent("final", split, "update", 4 + final_rounds, 0.5 * (4 + final_rounds), 6.6),
        PhaseSpent("final", read, "reward", 2, 0.6, 2.0),
        PhaseSpent("final", read, "metrics", 1, 0.1, 1.0),
        PhaseSpent("test", "all" if unit == "client" else "test", "metrics", 1, 0.4, 2.5),
    )
    late = {"phase": "final", "is_shared": True, "failed": NOT_ASKED, "rounds": 1}
    trials = (
        made.trial(0, 0.0, 1.0, rounds=1, is_shared=True, failed=NOT_ASKED),
        *(made.trial(i, 0.0, 1.0, **late, is_kept=False, num_rewarded=40) for i in (1, 2)),
        *(made.trial(i, 0.0, 1.0, **late) for i in (3, 4)),
        made.trial(5, 0.5, 1.0, **(late | {"failed": "", "rounds": 0})),
    )
    points = (
        *(CurvePoint("search", i, 1, 0.1 * (i + 1)) for i in range(5)),
        *(CurvePoint("final", 5, i + 1, 0.6 + 0.1 * i) for i in range(final_rounds)),
    )
    privacy = made.privacy(unit=unit, phases=rows)
    fields = {"trials": trials, "curves": points, "privacy": privacy, "models": (made.model(trial=5),)}
    return made.result(**{**fields, **changes})


@pytest.mark.parametrize("unit", ["example", "client"])
def test_what_the_search_itself_trains_in_the_final_phase_is_paid_trial_by_trial(made, unit):
    """Of a client its rewards and its scores count with its updates."""
    result = feathers(made, unit)
    by_trial, rounds = epsilon_by_step(result.privacy, result.trials[1:], 2)
    reward, score = (0.3, 0.1) if unit == "client" else (0.0, 0.0)
    spent = [1.2 + 0.5 + reward, 1.2 + 1.0 + 2 * reward]
    spent += [spent[1] + 0.5, spent[1] + 1.0]
    spent += [spent[-1] + score]
    assert by_trial == pytest.approx([epsilon_of(rdp, 4, 1e-5) for rdp in spent])
    assert rounds == pytest.approx([epsilon_of(spent[-1] + 0.5 * number, 4, 1e-5) for number in (1, 2)])


def test_the_whole_phase_is_what_was_charged(made):
    for num_rounds in (0, 2):
        result = feathers(made, final_rounds=num_rounds)
        steps = [one for part in epsilon_by_step(result.privacy, result.trials[1:], num_rounds) for one in part]
        assert steps[-1] == pytest.approx(epsilon_of(1.2 + 0.5 * (4 + num_rounds), 4, 1e-5))


def test_releases_that_no_trial_tells_of_count_from_the_beginning(made):
    """As where every round of exploration failed."""
    result = feathers(made, "client")
    silent = [replace(trial, num_rewarded=0) for trial in result.trials[1:]]
    assert by_round(result.privacy, 2, silent)[-1] == pytest.approx(by_round(result.privacy, 2, result.trials[1:])[-1])
    assert epsilon_by_step(result.privacy, silent, 2)[0][0] == pytest.approx(epsilon_of(1.2 + 0.6 + 0.5, 4, 1e-5))


def drawn(result):
    return draw_spending(result, curves_of(result))


def test_accuracy_is_drawn_against_epsilon(made):
    plot = drawn(made.private_result())
    first, last = by_round(made.privacy(), 2)
    assert f"In final training: 70.0% at epsilon {first + 0.005:.2f}, 80.0% at {last + 0.005:.2f}." in plot.alt
    assert "by the search" not in plot.alt
    assert "epsilon of training examples, the search included" in plot.svg
    assert "epsilon of a client" in drawn(made.result(privacy=made.privacy(unit="client"))).svg


def test_a_search_that_trains_in_the_final_phase_itself_has_a_line_of_its_own(made):
    """Of its kept rounds: those of exploration cost and are no model."""
    result = feathers(made)
    by_trial, rounds = epsilon_by_step(result.privacy, result.trials[1:], 2)
    own, final = spent_lines(result.privacy, result.trials, curves_of(result))
    assert own.epsilons == by_trial[2:4]
    assert own.accuracies == pytest.approx((0.4, 0.5))
    assert (final.epsilons, final.accuracies) == (rounds, pytest.approx((0.6, 0.7)))
    plot = drawn(result)
    assert ">the search's own</text>" in plot.svg
    assert ">trial 5</text>" in plot.svg
    assert "In training by the search: 40.0% at epsilon" in plot.alt
    assert "In final training: 60.0% at epsilon" in plot.alt


def test_a_search_that_leaves_nothing_to_final_training_has_a_picture_all_the_same(made):
    result = feathers(made, final_rounds=0)
    plot = drawn(result)
    assert "In training by the search: 40.0% at epsilon" in plot.alt
    assert "In final training" not in plot.alt
    page = render_report(made.run(result))
    text = Outline(page).text
    assert page.count(f'aria-label="{plot.alt}"') == 1
    assert "Likewise the rounds that the search itself trained in the final phase, without those of exploration" in text


def test_several_models_are_told_apart(made):
    assert ">trial 2</text>" in drawn(made.two_models(privacy=made.privacy())).svg


def test_without_privacy_or_final_training_there_is_nothing_to_draw(made):
    assert drawn(made.result()) is None
    assert draw_spending(made.private_result(), ()) is None
