from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.privacy_spent import adversary_of
from pipeline.run_result import PhaseCostResult, read_finished_run
from pipeline.ship.card import latency_method, write_card
from search.architecture import Stage


@pytest.fixture
def write(digits, shipped):
    """The card of the finished run with parts of its result changed."""

    def write_changed(**changes) -> str:
        run = read_finished_run(digits.folder)
        sizes = {name: entry.size_bytes for name, entry in shipped.bundle.files.items()}
        result = replace(run.result, **changes)
        return write_card(replace(run, result=result, model=result.main), shipped.parity, sizes)

    return write_changed


def test_a_card_tells_where_the_model_comes_from_and_what_ships(shipped, digits):
    card, result = (Path(shipped.folder) / "MODEL_CARD.md").read_text(), read_finished_run(digits.folder).result
    for text in (
        result.main.artifact_id,
        result.main.parameters_sha256,
        "`digits`",
        "30 emulated clients",
        "0, 1, 2, 3",
    ):
        assert text in card
    for name, entry in shipped.bundle.files.items():
        assert name == "MODEL_CARD.md" or f"| `{name}` | {entry.size_bytes:,} |" in card
    for text in ("| learning_rate | 0.125 |", "| local_steps | 3 |", "width 8, kernel 5, stride 2", "- torch 2.13.0"):
        assert text in card
    assert "max_grad_norm" not in card  # it has none


def test_accuracy_comes_with_its_interval_and_how_it_was_obtained(write, digits):
    accuracy = read_finished_run(digits.folder).result.main.accuracy
    card = write()
    assert f"{100 * accuracy.value:.1f}% on the clients' test splits; 95% interval {100 * accuracy.low:.1f}%" in card
    assert "over 360 examples (the clients' plain sums)" in card
    assert "released with noise" not in card


def test_only_a_model_that_was_trained_after_the_search_is_told_so(write, digits):
    trained = PhaseCostResult("final", read_finished_run(digits.folder).result.main.trial, "train", 1, 1, 1.0, 1, 1)
    assert "; the final training came after that." in write(costs=(trained,))
    untrained = write(costs=(replace(trained, kind="evaluate"),))
    assert "; these are the weights that the search left it." in untrained
    assert "final training" not in untrained


def test_latency_is_told_for_each_phone_with_how_it_was_predicted(write):
    card = write()
    assert "| pixel-4 | high | 0.75 ms | sum of layers" in card
    assert "| my-phone | entry | 3.25 ms | sum of layers |" in card
    assert "this model ran on none of these phones" in card


def test_the_method_of_a_latency_is_the_profiles(digits):
    architecture = read_finished_run(digits.folder).result.winning.candidate.architecture
    assert latency_method("pixel-4", architecture) != "sum of layers"
    assert latency_method("no-such-phone", architecture) == "sum of layers"


def test_a_card_without_privacy_says_so(write):
    card = write()
    assert "**Not differentially private.**" in card
    assert "epsilon" not in card


@pytest.mark.parametrize(
    ("noise_at", "place", "adversary"),
    [
        ("device", "each device, before anything leaves it", "the server included"),
        ("sum", "the sum, by the server", "against it epsilon is infinite"),
    ],
)
def test_a_private_card_names_unit_neighbours_adversary_and_where_the_noise_is_added(
    write, private_result, noise_at, place, adversary
):
    privacy = replace(private_result, epsilon=7.251, noise_at=noise_at, adversary=adversary_of(noise_at))
    card = write(privacy=privacy)
    for text in (
        "epsilon 7.26 at delta 1e-05 for search, training and test together (asked for: at most 8)",
        "| unit | one example |",
        "| neighbours | zero-out |",
        f"| noise is added at | {place} |",
        "at order 12",
        "| epsilon of the validation split | 3.50 |",
        "| final | train | update | 40 | 6.13 |",
    ):
        assert text in card
    assert adversary in card
    assert "Not differentially private" not in card


@pytest.mark.parametrize("is_private", [True, False])
def test_no_card_tells_a_figure_that_only_the_emulator_knows(write, private_result, is_private):
    card = write(privacy=private_result if is_private else None)
    for secret in ("13.579", "13.6%", "0.13579", "24.68", "24.7%", "99.5"):
        assert secret not in card
    assert card == write(privacy=private_result if is_private else None, emulator_only=None)


def test_warnings_come_first_and_names_cannot_break_a_table(write, digits):
    result = read_finished_run(digits.folder).result
    trial = result.winning
    cost = replace(trial.costs[0], profile="a|b\nc")
    model = replace(result.main, platforms=(cost.profile,))
    card = write(trials=(replace(trial, costs=(cost,)),), models=(model,), warnings=("few clients",))
    assert card.index("- few clients") < card.index("## Data")
    assert "| a\\|b c | high |" in card


def test_stages_are_told_one_a_row(write, digits):
    trial = read_finished_run(digits.folder).result.winning
    stages = (Stage("inverted", 6, 2, 3, 2, 4), Stage("depthwise", 9))
    architecture = replace(trial.candidate.architecture, stages=stages)
    card = write(trials=(replace(trial, candidate=replace(trial.candidate, architecture=architecture)),))
    assert (
        "| stage 1 | 2 inverted, width 6, kernel 3, stride 2, expansion 4 |\n| stage 2 | 1 depthwise, width 9" in card
    )


def test_a_real_run_does_not_speak_of_an_emulator(write):
    card = write(kind="real", emulator_only=None)
    assert "on real phones" in card
    assert "held by 30 clients" in card
    assert "emulated" not in card
