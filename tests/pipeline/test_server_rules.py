"""Which searches may tune the server's step, and what they are told that may not."""

import pytest

from pipeline.run_checks import broken_rules
from pipeline.run_sections import RunFile
from pipeline.search_sections import ALGORITHMS
from tests.pipeline.test_run_checks import CELLS, ON_SUM, ORDINARY, lines
from tests.pipeline.test_search_sections import MADE_OF_CELLS

SETTINGS = {
    "random_search": (ORDINARY, {"trials": 4, "rounds": 1}),
    "regularized_evolution": (ORDINARY, {"trials": 4, "rounds": 1, "population_size": 2, "tournament_size": 1}),
    "successive_halving": (ORDINARY, {"candidates": 6}),
    "nsga2": (ORDINARY, {"trials": 4, "rounds": 1, "population_size": 2}),
    "uniform_width": (ORDINARY, {}),
    "random_pruning": (ORDINARY, {}),
    "fednas": (ORDINARY, {"groups": 2}),
    "nested_race": (ORDINARY, {}),
    "tpe": (CELLS, {"trials": 4, "rounds": 1, "random": 2}),
    "feathers": (CELLS, {"rounds": 2}),
    "fedex": (CELLS, {"rounds": 2}),
    "merged_halving": (CELLS, {}),
}
REFUSED = {
    "fednas": "tunes no hyper-parameters",
    "nested_race": "makes one step of the server of what all networks learnt",
    "feathers": "takes one server's steps on weights that all configurations share, and rewards phones' own steps",
    "fedex": "makes one step of the server of what all configurations learnt",
}
RANGE = {"low": 0.1, "high": 1.0, "count": 7}
ADAM = {
    "server_optimizer": "fedadam",
    "server_learning_rate": RANGE,
    "server_momentum": [0.0, 0.9],
    "server_beta2": [0.9, 0.99],
    "server_epsilon": RANGE,
}


def told(name, **changes):
    """The rules that a run of an algorithm breaks once [training] has changes."""
    start, settings = SETTINGS[name]
    training = {**start["training"], "architecture_learning_rate": 0.01}
    return lines({**start, "search": {"algorithm": name, **settings}, "training": training}, "training", **changes)


def test_every_algorithm_may_tune_the_servers_step_or_is_told_why_not():
    assert set(SETTINGS) == set(ALGORITHMS)


@pytest.mark.parametrize("name", sorted(set(SETTINGS) - set(REFUSED)))
def test_a_search_whose_candidates_train_apart_tunes_the_servers_step(name):
    assert told(name, **ADAM) == []
    assert told(name, server_learning_rate=[0.5, 1.0], server_momentum=RANGE | {"high": 0.9}) == []


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_search_with_one_step_of_the_server_for_all_names_the_cure(name):
    (line,) = told(name, server_learning_rate=RANGE)
    assert line.startswith(
        f"[training] server_learning_rate has 7 options, and {name} {REFUSED[name]}; give one value, or choose "
        "'random_search', 'regularized_evolution'"
    )
    table = SETTINGS[name][0]
    assert ("'merged_halving'" in line, "'nsga2'" in line) == (table is CELLS, table is ORDINARY)
    assert told(name, server_learning_rate=0.5) == []
    several = [line for line in told(name, **ADAM) if " options, and " in line]
    assert [line.split()[1] for line in several] == [
        "server_learning_rate",
        "server_momentum",
        "server_beta2",
        "server_epsilon",
    ]


@pytest.mark.parametrize("order", ["nas", "tuning"])
def test_federated_darts_has_one_server_whatever_its_order(order):
    default = dict(MADE_OF_CELLS["fedex"][0]["default"])
    search = {"algorithm": "fedex", "rounds": 2, "order": order, "default": default}
    (line,) = lines({**CELLS, "search": search}, "training", server_momentum=[0.0, 0.5])
    assert line.startswith("[training] server_momentum has 2 options, and fedex makes one step")


def test_noise_on_the_sum_lets_the_servers_step_be_tuned():
    assert lines(ON_SUM, "training", server_learning_rate=[0.5, 1.0], server_momentum=[0.0, 0.9]) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"server_optimizer": "fedadam"}, "fedadam moves each value by about server_learning_rate; give one, e.g."),
        ({"server_beta2": [0.9]}, "server_beta2 belongs to fedadam; remove it or set server_optimizer"),
        ({"server_epsilon": RANGE}, "server_epsilon belongs to fedadam; remove it or set server_optimizer"),
    ],
)
def test_each_optimiser_has_its_own_hyper_parameters(changes, line):
    (found,) = lines(ORDINARY, "training", **changes)
    assert line in found


@pytest.mark.parametrize("value", [[0.5, 1.0], {"low": 0.5, "high": 1.0}])
def test_a_momentum_of_one_never_forgets(value):
    with pytest.raises(ValueError, match="less than 1"):
        RunFile.model_validate({**ORDINARY, "training": {**ORDINARY["training"], "server_momentum": value}})


@pytest.mark.parametrize("change", [{"server_momentum": 0.5}, {"server_optimizer": "fedadam"}])
def test_a_server_that_remembers_the_steps_of_one_network_trains_no_supernet(change):
    race = {**ORDINARY, "search": {"algorithm": "nested_race"}}
    assert broken_rules(RunFile.model_validate(race)) == []
    assert any(
        "nested_race averages parts of many: leave both out" in line for line in lines(race, "training", **change)
    )
