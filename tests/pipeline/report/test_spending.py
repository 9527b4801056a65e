from dataclasses import replace

import pytest

from device_runtime.accounting import epsilon_of
from pipeline.privacy_spent import PhaseSpent
from pipeline.report.curves import curves_of
from pipeline.report.spending import draw_spending, epsilon_by_round, released_in_words, splits_of


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


def test_epsilon_grows_by_a_round_of_final_training_from_what_the_search_spent(made):
    rounds = epsilon_by_round(made.privacy(), 60)
    assert rounds[0] == pytest.approx(epsilon_of(1.2 + 3.5 / 60, 4, 1e-5))
    assert rounds[-1] == pytest.approx(epsilon_of(1.2 + 3.5, 4, 1e-5))
    assert rounds[29] == pytest.approx((rounds[0] + rounds[-1]) / 2, rel=0.01)


def test_of_a_client_all_that_it_released_before_counts(made):
    privacy = made.privacy()
    client = replace(privacy, unit="client", phases=tuple(replace(row, split="all") for row in privacy.phases))
    assert epsilon_by_round(client, 1) == [pytest.approx(epsilon_of(1.2 + 0.9 + 3.5, 4, 1e-5))]


@pytest.mark.parametrize(("unit", "split"), [("example", "train"), ("client", "all")])
def test_of_what_the_final_phase_did_before_final_training_all_counts(made, unit, split):
    """As of FEATHERS, whose second phase trains, explores and scores before [final]: 4 of 10 updates are its rounds."""
    rows = (
        PhaseSpent("search", split, "update", 20, 1.2, 4.3),
        PhaseSpent("final", split, "update", 10, 3.5, 6.6),
        PhaseSpent("final", "all" if unit == "client" else "validation", "reward", 6, 0.7, 2.0),
        PhaseSpent("final", "all" if unit == "client" else "validation", "metrics", 1, 0.1, 1.0),
        PhaseSpent("test", "all" if unit == "client" else "test", "metrics", 1, 0.4, 2.5),
    )
    found = epsilon_by_round(made.privacy(unit=unit, phases=rows), 4)
    before = 1.2 + 3.5 * 6 / 10 + (0.8 if unit == "client" else 0)
    assert found == pytest.approx([epsilon_of(before + 0.35 * number, 4, 1e-5) for number in range(1, 5)])
    fewer = epsilon_by_round(made.privacy(unit=unit, phases=rows), 14)  # nobody took part in all of its rounds
    assert fewer[-1] == pytest.approx(epsilon_of(before - 2.1 + 3.5, 4, 1e-5))


def test_accuracy_is_drawn_against_epsilon(made):
    curves = curves_of(made.private_result())
    plot = draw_spending(made.privacy(), curves)
    first, last = epsilon_by_round(made.privacy(), 2)
    assert f"70.0% at epsilon {first + 0.005:.2f}, 80.0% at {last + 0.005:.2f}" in plot.alt
    assert "epsilon of training examples, the search included" in plot.svg
    assert "epsilon of a client" in draw_spending(made.privacy(unit="client"), curves).svg


def test_several_models_are_told_apart(made):
    result = made.two_models(privacy=made.privacy())
    assert ">trial 2</text>" in draw_spending(result.privacy, curves_of(result)).svg


def test_without_privacy_or_final_training_there_is_nothing_to_draw(made):
    assert draw_spending(None, curves_of(made.result())) is None
    assert draw_spending(made.privacy(), ()) is None
