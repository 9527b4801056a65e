"""Table [search] of each algorithm makes that algorithm, with the settings that it was given."""

from functools import partial
from pathlib import Path

import pytest

from pipeline.search_sections import ALGORITHMS, Problem
from search.algorithms import (
    ByRule,
    FedNas,
    NestedRace,
    RandomSearch,
    RegularizedEvolution,
    SuccessiveHalving,
    uniform_width,
)
from search.algorithms.optuna_nsga2 import Nsga2
from search.budget import Feasibility
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
        {"entrants": 3, "rounds": 4, "cohorts": 2, "margin": 1.5},
        NestedRace(SPACE, FREE, CLIENTS, num_entrants=3, rounds=4, cohorts=2, margin=1.5),
    ),
    "uniform_width": ({"rounds": 3}, ByRule(SPACE, FREE, uniform_width, 3)),
    "successive_halving": (
        {"candidates": 9, "rounds": 2, "eta": 3},
        SuccessiveHalving(SPACE, FREE, num_candidates=9, rounds=2, eta=3),
    ),
    "nsga2": ({"trials": 7, "rounds": 2, "population_size": 4}, Nsga2(SPACE, FREE, 7, 2, population_size=4)),
}


@pytest.mark.parametrize("name", sorted(MADE))
def test_a_section_makes_its_algorithm_with_its_settings(name):
    settings, expected = MADE[name]
    section = ALGORITHMS[name].model_validate({"algorithm": name, **settings})
    assert section.make(Problem(SPACE, FREE, CLIENTS)) == expected


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


def test_sections_and_tests_are_of_the_same_algorithms():
    assert {*MADE, "random_pruning"} == set(ALGORITHMS)
