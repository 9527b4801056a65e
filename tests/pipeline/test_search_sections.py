"""Table [search] of each algorithm makes that algorithm, with the settings that it was given."""

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from pipeline.privacy_sections import PrivacySection
from pipeline.run_sections import DataSection, RunFile, RunSection
from pipeline.search_problem import NamesClients, Problem
from pipeline.search_sections import ALGORITHMS
from search.algorithms import (
    ByRule,
    Feathers,
    FedEx,
    FedNas,
    MergedHalving,
    NestedRace,
    RandomSearch,
    RegularizedEvolution,
    SuccessiveHalving,
    uniform_width,
)
from search.algorithms.optuna_nsga2 import Nsga2
from search.algorithms.optuna_tpe import Tpe
from search.budget import Feasibility
from search.candidate import NOT_ASKED, HyperParameters, Observation
from search.cell_space import CellSpace
from search.clients import Client
from search.options import HyperParameterOptions, StageOptions, StemOptions
from search.space import SearchSpace

SPACE = SearchSpace(
    (1, 8, 8), 10, StemOptions((8,)), StageOptions(("depthwise",), (8,)), HyperParameterOptions((0.1,)), max_stages=1
)
FREE = Feasibility((), {}, 8)
CLIENTS = (Client("one", 10), Client("two", 20))
MADE = {
    "random_search": ({"trials": 7, "rounds": 2}, RandomSearch(SPACE, FREE, 7, 2)),
    "regularized_evolution": (
        {"trials": 7, "rounds": 2, "population_size": 5, "tournament_size": 3},
        RegularizedEvolution(SPACE, FREE, 7, 2, 5, 3),
    ),
    "fednas": (
        {"groups": 2, "keep": 3, "decay": 0.5},
        FedNas(SPACE, FREE, CLIENTS, groups=2, keep=3, decay=0.5),
    ),
    "nested_race": (
        {"entrants": 3, "rounds": 4, "cohorts": 4, "margin": 1.5},
        NestedRace(SPACE, FREE, CLIENTS, num_entrants=3, rounds=4, cohorts=4, margin=1.5),
    ),
    "uniform_width": ({"rounds": 3}, ByRule(SPACE, FREE, uniform_width, 3)),
    "successive_halving": (
        {"candidates": 9, "rounds": 2, "eta": 3},
        SuccessiveHalving(SPACE, FREE, num_candidates=9, rounds=2, eta=3),
    ),
    "nsga2": ({"trials": 7, "rounds": 2, "population_size": 4}, Nsga2(SPACE, FREE, 7, 2, population_size=4)),
}


OPTIONS = HyperParameterOptions((0.1, 0.2), local_steps=(1,), architecture_learning_rate=(0.3, 0.4))
CELLS = CellSpace((1, 8, 8), 10, ("skip", "conv_3"), 1, 4, (1,), OPTIONS)
DEFAULT = HyperParameters(0.5, local_steps=1, momentum=0.9, weight_decay=0.01, architecture_learning_rate=0.003)
MANY = tuple(Client(f"client {i}", 10) for i in range(7))
MADE_OF_CELLS = {
    "tpe": ({"trials": 7, "rounds": 2, "random": 3}, Tpe(CELLS, FREE, 7, 2, num_random=3)),
    "feathers": (
        {
            "rounds": 4,
            "evaluation_rounds": 3,
            "configurations": 5,
            "gamma": 2.0,
            "period": 3,
            "step": 0.5,
            "moves": "all",
        },
        Feathers(CELLS, FREE, 4, 3, 5, 2.0, 3, 0.5, "all"),
    ),
    "feathers, private": (
        {"rounds": 4, "period": 2, "step": 0.5, "moves": "all"},
        Feathers(CELLS, FREE, 4, period=2, step=0.5, moves="all"),
    ),
    "fedex": (
        {
            "rounds": 4,
            "order": "nas_then_tuning",
            "configurations": 5,
            "default": {
                "learning_rate": 0.5,
                "momentum": 0.9,
                "weight_decay": 0.01,
                "architecture_learning_rate": 0.003,
            },
            "moves": "all",
            "tuning_share": 0.25,
        },
        FedEx(CELLS, FREE, MANY, 4, 5, "nas_then_tuning", DEFAULT, "all", 0.25),
    ),
    "merged_halving": (
        {"candidates": 6, "networks": 2, "rounds": 2, "eta": 2, "group_size": 3, "sharpness": 1.0},
        MergedHalving(CELLS, FREE, MANY, 6, 2, 2, 2, 3, 1.0),
    ),
}


@pytest.mark.parametrize("name", sorted(MADE_OF_CELLS))
def test_a_section_of_cells_makes_its_algorithm_with_its_settings(name):
    settings, expected = MADE_OF_CELLS[name]
    name = name.partition(",")[0]
    section = ALGORITHMS[name].model_validate({"algorithm": name, **settings})
    assert section.make(Problem(CELLS, FREE, MANY)) == expected


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tpe", {"trials": 12, "rounds": 2}),
        ("feathers", {"rounds": 5, "evaluation_rounds": 4, "configurations": 5, "gamma": 2.0, "period": 2}),
        ("feathers", {"rounds": 3, "configurations": 3, "moves": "all"}),
        ("fedex", {"rounds": 3, "configurations": 4}),
        ("fedex", {"rounds": 3, "configurations": 4, "moves": "all", "order": "tuning_then_nas"}),
        ("fedex", {"rounds": 4, "order": "tuning"}),
        ("fedex", {"order": "nas", "rounds": 2, "default": {"learning_rate": 0.5, "momentum": 0.9, "weight_decay": 0}}),
        ("merged_halving", {"candidates": 7, "networks": 2, "rounds": 2, "eta": 2}),
        ("merged_halving", {"candidates": 9, "networks": 2, "group_size": 7}),
        ("merged_halving", {"candidates": 1, "networks": 1}),
    ],
)
def test_no_client_releases_more_than_was_planned_and_somebody_as_much(name, settings):
    section = ALGORITHMS[name].model_validate({"algorithm": name, **settings}, strict=False)
    algorithm = section.make(Problem(CELLS, FREE, MANY))
    state, seen = algorithm.init(0), {one.name: Counter() for one in MANY}
    named = set()
    while asked := algorithm.ask(state, 10**6):
        for trial in asked:
            if trial.clients is not None:
                named |= {"update"} | ({"reward"} if trial.reward else set())
            for client in trial.clients or seen:
                seen[client][trial.phase, "update"] += trial.rounds
                seen[client][trial.phase, "architecture"] += trial.rounds * (trial.moves == "alternate")
                seen[client][trial.phase, "reward"] += trial.reward is not None
                seen[client][trial.phase, "metrics"] += trial.is_scored
        told = [
            Observation(
                trial,
                accuracy=0.5,
                failed="" if trial.is_scored else NOT_ASKED,
                metrics={trial.reward: 0.0} if trial.reward else {},  # alike: what is explored stays wide
                num_rewarded=1,
                architecture_weights=(0.0,) * 4 if trial.candidate.architecture.is_supernet else (),
            )
            for trial in asked
        ]
        state = algorithm.tell(state, told)
    assert named == (section.named_kinds if isinstance(section, NamesClients) else set())
    run_file = emulated(len(MANY))
    planned = Counter()
    for phase, kind, times in section.planned(run_file):
        planned[phase, kind] += times
    most = Counter({key: max(one[key] for one in seen.values()) for one in seen.values() for key in one})
    assert +most == planned


def emulated(clients, kind="emulated"):
    """What a section looks at to plan."""
    data, run = DataSection.model_construct(clients=clients), RunSection.model_construct(kind=kind)
    return RunFile.model_construct(run=run, data=data)


@pytest.mark.parametrize(("kind", "clients"), [("real", 30), ("emulated", None)])
def test_where_nobody_knows_who_will_come_each_client_may_train_every_pair(kind, clients):
    """30 clients were three groups of 10; of 12 that check in, each is asked for all nine pairs, and so on."""
    settings = {"algorithm": "merged_halving", "candidates": 9, "group_size": 10}
    section = ALGORITHMS["merged_halving"].model_validate(settings)
    assert section.planned(emulated(clients, kind))[0] == ("search", "update", 9 + 3 * 3)
    assert section.planned(emulated(30))[0] == ("search", "update", 3 + 1 * 3)


@pytest.mark.parametrize("settings", [{"algorithm": "feathers", "rounds": 2}, {"algorithm": "fedex", "rounds": 2}])
def test_in_the_client_unit_both_kinds_of_step_are_one_update(settings):
    """So that such a run has no [privacy.architecture]."""
    section, kinds = ALGORITHMS[settings["algorithm"]].model_validate(settings), {}
    for unit in ("example", "client"):
        privacy = PrivacySection.model_construct(unit=unit)
        kinds[unit] = {kind for _, kind, _ in section.planned(emulated(7).model_copy(update={"privacy": privacy}))}
    assert kinds["example"] - kinds["client"] == {"architecture"}
    assert "update" in kinds["client"]


@pytest.mark.parametrize("name", sorted(MADE))
def test_a_section_makes_its_algorithm_with_its_settings(name):
    settings, expected = MADE[name]
    section = ALGORITHMS[name].model_validate({"algorithm": name, **settings})
    assert section.make(Problem(SPACE, FREE, CLIENTS)) == expected


def test_a_search_of_one_kind_of_networks_refuses_a_space_of_the_other():
    blocks, cells = Problem(SPACE, FREE, CLIENTS), Problem(CELLS, FREE, CLIENTS)
    assert (blocks.blocks, cells.cells) == (SPACE, CELLS)
    with pytest.raises(TypeError, match=r"networks of blocks alone: put \[space\] in the place of \[cells\]"):
        ALGORITHMS["uniform_width"].model_validate({"algorithm": "uniform_width"}).make(cells)
    with pytest.raises(TypeError, match=r"supernets of cells alone: put \[cells\] in the place of \[space\]"):
        _ = blocks.cells
    section = ALGORITHMS["random_search"].model_validate({"algorithm": "random_search", "trials": 7, "rounds": 2})
    assert section.make(cells) == RandomSearch(CELLS, FREE, 7, 2)


def test_random_pruning_is_made_with_its_steps():
    section = ALGORITHMS["random_pruning"].model_validate({"algorithm": "random_pruning", "decay": 0.5, "rounds": 3})
    made = section.make(Problem(SPACE, FREE, CLIENTS))
    assert isinstance(made.rule, partial)
    assert (made.rule.args, made.rounds) == ((0.1, 0.5), 3)


def test_the_manual_has_a_heading_and_every_setting_of_each_algorithm():
    manual = Path(__file__).parents[2].joinpath("docs", "search.md").read_text(encoding="utf-8")
    parts = {part.partition("\n")[0]: part for part in manual.split("\n## ")[1:]}
    assert set(parts) == set(ALGORITHMS)
    for name, section in ALGORITHMS.items():
        for setting in set(section.model_fields) - {"algorithm", "parallel"}:
            assert f"`{setting}`" in parts[name], (name, setting)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("random_search", {"trials": 7, "rounds": 2}),
        ("regularized_evolution", {"trials": 9, "rounds": 2, "population_size": 5, "tournament_size": 3}),
        ("nsga2", {"trials": 7, "rounds": 2, "population_size": 4}),
        ("successive_halving", {"candidates": 1, "rounds": 2}),
        ("successive_halving", {"candidates": 3, "rounds": 1}),
        ("successive_halving", {"candidates": 13, "rounds": 2, "eta": 2}),
        ("successive_halving", {"candidates": 10, "rounds": 1, "eta": 3}),
    ],
)
def test_a_search_trains_and_scores_as_often_as_it_planned(name, settings):
    section = ALGORITHMS[name].model_validate({"algorithm": name, **settings})
    algorithm = section.make(Problem(replace(SPACE, stem=StemOptions(tuple(range(1, 20)))), FREE, CLIENTS))
    state, trials = algorithm.init(0), []
    while asked := algorithm.ask(state, 3):
        trials += asked
        state = algorithm.tell(state, [Observation(trial, 0.5 + trial.index / 100) for trial in asked])
    assert section.planned(None) == (
        ("search", "update", sum(trial.rounds for trial in trials)),
        ("search", "metrics", len(trials)),
    )


def test_sections_and_tests_are_of_the_same_algorithms():
    assert {*MADE, *MADE_OF_CELLS, "random_pruning"} - {"feathers, private"} == set(ALGORITHMS)
