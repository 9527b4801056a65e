import re
from dataclasses import replace

from pipeline.report.formats import shape
from pipeline.report.page import render_report
from pipeline.run_result import CurvePoint
from profiles.records import decode_record, encode_record
from search.algorithm import TuningHistory
from search.architecture import Cell, Edge, Stage
from search.candidate import Candidate, HyperParameters
from tests.pipeline.report.outline import Outline


def joint_search(made, **changes):
    """Of a supernet: two configurations, a step of two trials, then the found network is named and scored."""
    options = ("skip", "conv_3", "none")
    mixed = Cell(((Edge(0, options), Edge(1, options)),))
    found = Cell(((Edge(0, ("conv_3",)), Edge(1, ("skip",))),))
    supernet, network = (replace(made.small, stages=(Stage("cell", 4, cell=cell),)) for cell in (mixed, found))
    tried = tuple(HyperParameters(rate, local_steps=1, architecture_learning_rate=0.1) for rate in (0.1, 0.2))
    trained = made.trial(0, 0.0, 1.0, is_shared=True, rounds=1, moves="alternate", failed="no score was asked for")
    trained = replace(trained, architecture_weights=(0.0, 1.0, 0.0, 1.0, 0.0, 0.0))
    trials = (
        *(replace(trained, index=i, candidate=Candidate(supernet, tried[i])) for i in (0, 1)),
        made.trial(2, 0.7, 1.0, is_shared=True, candidate=Candidate(network, tried[1])),
    )
    points = (CurvePoint("search", 0, 1, 0.4), CurvePoint("search", 1, 1, 0.5))
    fields = {
        "trials": trials,
        "models": (made.model(trial=2),),
        "tuning": TuningHistory(tried, ((0.5, 0.5), (0.25, 0.75)), ("round 1", "end")),
        "curves": (*points, CurvePoint("final", 2, 1, 0.6)),
        "algorithm": "fedex",
    }
    return made.result(**{**fields, **changes})


def test_a_joint_search_is_told_with_its_configurations_operations_cell_and_waste(made):
    page = render_report(made.run(joint_search(made)))
    outline = Outline(page)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert ("href", "#decisions") in outline.attributes
    pictures = re.findall(r'role="img" aria-label="([^"]*)"', page)
    assert page.count("<figure") == len(pictures)
    for begin in ("Probability of each of 2 conf", "Probability of each op", "The cell of stage 1", "Cost against acc"):
        assert sum(words.startswith(begin) for words in pictures) == 1
    for part in (
        "2 configurations of hyper-parameters were drawn once",
        "configuration probability learning rate 1 (winner) 75.0% 0.2 0 25.0% 0.1",
        "at the start and after the only step that moved them",
        f"skip conv {shape((3, 3))} none Stage 1",
        "Stage 1: 4 channels a node",
        "0.0% of the client-rounds of training were thrown away: nothing that was learnt in them is in a later trial",
    ):
        assert part in outline.text
    assert "emulator only Exact accuracy of what each trial trained" in outline.text
    assert "<h3>Search</h3>" not in page  # a column of dots: each trial trained one round
    assert "<h3>Final training of the winner</h3>" in page


def test_rounds_of_exploration_are_told_as_thrown_away(made):
    first, *others = joint_search(made).trials
    result = joint_search(made, trials=(replace(first, is_kept=False), *others))
    assert "50.0% of the client-rounds of training were thrown away" in Outline(render_report(made.run(result))).text


def test_a_model_that_begins_anew_is_told_to_have_nothing_of_the_searchs_training(made):
    result = joint_search(made, models=(made.model(trial=2, is_fresh=True),))
    text = Outline(render_report(made.run(result))).text
    assert (
        "0.0% of the client-rounds of training were thrown away: no later trial of the search began with what" in text
    )
    assert "No model has any of the rest either: final training began with fresh weights" in text


def test_a_joint_search_whose_winner_is_not_trained_on_has_no_curves(made):
    result = joint_search(made, curves=joint_search(made).curves[:2])
    assert (
        "each trial of the search trained the shared weights for one round"
        in Outline(render_report(made.run(result))).text
    )


def test_the_history_of_tuning_is_kept_with_the_result_and_left_out_where_there_is_none(made):
    result = joint_search(made)
    assert decode_record(type(result), encode_record(result)) == result
    assert b'"tuning"' not in encode_record(made.result())


def test_only_a_model_that_was_trained_on_is_told_so(made):
    lede = "After its final training it is right on"
    trained = joint_search(made, costs=(made.cost("final", 2, 9.0),))
    assert lede in Outline(render_report(made.run(trained))).text
    costs = (made.cost("final", 2, 1.0, "evaluate"), made.cost("final", 1, 9.0), made.cost("search", 2, 1.0))
    told = Outline(render_report(made.run(joint_search(made, costs=costs)))).text
    assert lede not in told
    assert "With its weights from the search it is right on" in told


def test_the_winners_colour_is_told_where_something_of_it_is_drawn(made):
    points = tuple(CurvePoint("search", trial, k, 0.1 * k) for trial in (0, 1) for k in (1, 2))
    costs = tuple(made.cost("search", trial, 1.0) for trial in (0, 1))
    page = render_report(made.run(joint_search(made, curves=points, costs=costs)))
    assert "<h3>Search</h3>" in page
    assert "Search, by trial" in page
    assert "in colour" not in page
    points, costs = (*points, CurvePoint("search", 2, 1, 0.5)), (*costs, made.cost("search", 2, 1.0))
    text = Outline(render_report(made.run(joint_search(made, curves=points, costs=costs)))).text
    assert "All trials, the line of the winner on top, thick and in colour. A trial" in text
    assert "The bar of the winner is in colour." in text
