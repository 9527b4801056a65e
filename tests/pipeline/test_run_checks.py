import pytest

from pipeline.run_checks import broken_rules
from pipeline.run_file import parse_run_file
from pipeline.run_sections import RunFile

ORDINARY = {
    "run": {"name": "digits", "seed": 1, "kind": "emulated"},
    "data": {"source": "digits", "partition": "iid", "clients": 10},
    "space": {
        "kinds": ["depthwise"],
        "widths": [8],
        "depths": [1],
        "kernels": [3],
        "strides": [1],
        "heads": ["flatten"],
        "max_stages": 1,
    },
    "search": {"algorithm": "random_search", "trials": 4, "rounds": 1},
    "training": {"learning_rate": 0.1, "local_epochs": 1, "batch_size": 8},
    "final": {"rounds": 1},
    "round": {"cohort_size": 5, "min_reports": 3, "deadline_s": 60},
}
RELEASE = {"sample_rate": 0.5, "noise_multiplier": 1.0}
PRIVATE = {
    **ORDINARY,
    "training": {"learning_rate": 0.1, "local_steps": 2, "max_grad_norm": 1.0, "momentum": 0.5},
    "privacy": {
        "unit": "example",
        "noise_at": "device",
        "delta": 1e-5,
        "target_epsilon": 8.0,
        "update": RELEASE,
        "metrics": RELEASE,
        "test": RELEASE,
    },
}
ON_SUM = {
    **PRIVATE,
    "training": {"learning_rate": 0.1, "local_steps": 1, "max_grad_norm": 1.0},
    "privacy": {**PRIVATE["privacy"], "noise_at": "sum"},
    "round": {**ORDINARY["round"], "weighting": "examples"},
}


CELLS = {
    **{name: table for name, table in ORDINARY.items() if name != "space"},
    "cells": {"operations": ["none", "skip", "conv_3"], "nodes": 2, "width": 8, "strides": [1, 2]},
}


def lines(start, table, **changes):
    """The rules that `start` breaks once `table` has `changes`; None takes a key away."""
    section = {key: value for key, value in {**start.get(table, {}), **changes}.items() if value is not None}
    return broken_rules(RunFile.model_validate({**start, table: section}))


@pytest.mark.parametrize("start", [ORDINARY, PRIVATE, ON_SUM, CELLS])
def test_the_starting_points_break_no_rule(start):
    assert broken_rules(RunFile.model_validate(start)) == []


@pytest.mark.parametrize(
    ("table", "changes", "line"),
    [
        (
            "data",
            {"partition": "file", "clients": None},
            "digits come without clients; set partition to 'dirichlet' or 'iid'",
        ),
        ("data", {"partition": "file", "source": "npz:a.npz"}, "remove clients = 10"),
        ("data", {"clients": None}, "partition = 'iid' needs clients"),
        ("data", {"partition": "dirichlet"}, "needs alpha, its concentration, e.g. alpha = 0.5"),
        ("data", {"alpha": 0.5}, "alpha = 0.5 has no meaning for partition = 'iid'; remove it"),
        ("data", {"clients": 4}, "[round] cohort_size must be <= [data] clients = 4, got 5"),
        ("space", {"kernels": [3, 4]}, "[space] kernels must be odd, got [4]"),
        ("space", {"widths": [8, 16, 8]}, "[space] widths must list each option once, got [8, 16, 8]"),
        ("space", {"expansions": [4]}, "expansions = [4] needs 'inverted' in kinds"),
        (
            "fleet",
            {"straggler_factor": 2.0},
            "straggler_factor = 2 has no meaning without stragglers; remove it or set",
        ),
        (
            "fleet",
            {"profiles": ["pixel-4"], "population": "even"},
            "population = 'even' draws the phones that profiles would list: remove one of them",
        ),
        ("fleet", {"mean_spell_s": 60.0}, "mean_spell_s = 60 has no meaning for phones that are always there; remove"),
        ("round", {"min_reports": 6}, "[round] min_reports must be <= cohort_size = 5, got 6"),
        ("training", {"local_steps": 1}, "exactly one of local_steps and local_epochs"),
        ("training", {"local_epochs": None}, "exactly one of local_steps and local_epochs"),
        ("training", {"batch_size": None}, "needs batch_size, the examples of one step"),
    ],
)
def test_an_ordinary_run_is_told_what_to_change(table, changes, line):
    (told,) = lines(ORDINARY, table, **changes)
    assert line in told


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"space": None},
            "needs exactly one of [space], networks of blocks, and [cells], networks of cells; got neither",
        ),
        ({"cells": CELLS["cells"]}, "networks of blocks, and [cells], networks of cells; got both"),
    ],
)
def test_a_run_has_one_table_of_networks(given, line):
    (told,) = broken_rules(RunFile.model_validate({**ORDINARY, **given}))
    assert line in told


@pytest.mark.parametrize(
    ("operations", "line"),
    [
        (["skip", "conv_3", "skip"], "[cells] operations must list each option once, got ['skip', 'conv_3', 'skip']"),
        ("none", "[cells] operations must have one beside 'none', or nothing would be computed"),
    ],
)
def test_a_supernet_has_something_to_choose_from(operations, line):
    assert lines(CELLS, "cells", operations=operations) == [line]


BY_ALGORITHM = {
    "fednas": {"groups": 2, "rounds": 1, "trials": None},
    "nested_race": {"rounds": 1, "trials": None},
    "uniform_width": {"trials": None},
    "random_pruning": {"trials": None},
    "nsga2": {"population_size": 2},
    "successive_halving": {"candidates": 2, "trials": None},
    "regularized_evolution": {"population_size": 2, "tournament_size": 1},
    "random_search": {},
}


@pytest.mark.parametrize(
    ("search", "line"),
    [
        (
            {"algorithm": "tpe", "trials": 5, "rounds": 1},
            "[search] random must be < trials = 5, got 10: nothing would be learnt from the random ones",
        ),
        (
            {"algorithm": "merged_halving", "networks": 300},
            "[search] networks must be <= 256, as many as are drawn for the ranking, got 300",
        ),
    ],
)
def test_settings_of_joint_searches_that_do_not_fit_are_named_by_the_users_key(search, line):
    (told,) = broken_rules(RunFile.model_validate({**CELLS, "search": search}))
    assert told.startswith(line)


@pytest.mark.parametrize(
    ("search", "rounds", "is_told"),
    [
        ({"algorithm": "feathers", "rounds": 2}, 0, True),
        ({"algorithm": "feathers", "rounds": 2}, 1, False),
        ({"algorithm": "feathers", "rounds": 2, "evaluation_rounds": 1}, 0, False),
        ({"algorithm": "fedex", "rounds": 2}, 0, True),
        ({"algorithm": "fedex", "rounds": 2, "order": "tuning"}, 0, False),
        ({"algorithm": "merged_halving"}, 0, False),
    ],
)
def test_a_network_that_nobody_trained_is_not_tested(search, rounds, is_told):
    cells = {**CELLS["cells"], "final_depth": 2}
    training = {**CELLS["training"], "architecture_learning_rate": 0.01}
    start = {**CELLS, "search": search, "training": training, "final": {"rounds": rounds}}
    line = (
        "[final] rounds = 0 would test a network that nobody trained, as final_depth = 2 leaves it no weights of a "
        "supernet of depth = 1: give [final] rounds, or final_depth = 1"
    )
    assert lines({**start, "cells": cells}, "run") == [line] * is_told
    assert lines(start, "run") == []


@pytest.mark.parametrize("name", sorted(BY_ALGORITHM))
def test_a_search_that_knows_blocks_alone_searches_no_cells(name):
    told = lines(CELLS, "search", algorithm=name, **BY_ALGORITHM[name])
    if name in ("random_search", "regularized_evolution", "successive_halving"):
        assert told == []
    else:
        (line,) = told
        assert line.startswith(
            f"[cells] {name} knows networks of blocks alone; put [space] in the place of [cells], or"
        )
        assert "'random_search', 'regularized_evolution'" in line


@pytest.mark.parametrize(
    ("population", "tournament", "line"),
    [
        (5, 2, "population_size must be <= trials = 4, got 5: evolution would never begin"),
        (3, 4, "tournament_size must be <= population_size = 3, got 4"),
    ],
)
def test_evolution_needs_sizes_that_fit_each_other(population, tournament, line):
    (told,) = lines(
        ORDINARY,
        "search",
        algorithm="regularized_evolution",
        population_size=population,
        tournament_size=tournament,
    )
    assert line in told


def test_nsga2_breeds_only_after_its_first_generation():
    assert lines(ORDINARY, "search", algorithm="nsga2", population_size=3) == []
    (told,) = lines(ORDINARY, "search", algorithm="nsga2", population_size=4)
    assert "population_size must be < trials = 4, got 4: nothing would be bred" in told
    (told,) = lines(ORDINARY, "search", algorithm="nsga2", population_size=3, parallel=4)
    assert "parallel must be < trials = 4, got 4: all would be drawn before one was scored" in told


def test_a_search_whose_releases_cannot_be_planned_is_not_private():
    assert lines(ORDINARY, "search", algorithm="fednas", groups=2, trials=None, rounds=0) == []
    (told,) = lines(PRIVATE, "search", algorithm="fednas", groups=2, trials=None, rounds=0)
    assert "[privacy] what fednas will release cannot be planned" in told
    assert "choose 'random_search', 'regularized_evolution'," in told
    for name, settings in (("nsga2", {"population_size": 2}), ("random_search", {})):
        assert lines(PRIVATE, "search", algorithm=name, **settings) == []


def test_a_real_run_has_no_fleet():
    (told,) = lines({**ORDINARY, "fleet": {"profiles": ["low"]}}, "run", kind="real")
    assert told == "[fleet] belongs to emulated runs: real phones bring their own profiles; remove it"


def test_phones_that_come_and_go_have_spells():
    assert lines(ORDINARY, "fleet", availability=0.5, mean_spell_s=60.0) == []


@pytest.mark.parametrize(
    ("table", "changes", "line"),
    [
        ("training", {"local_steps": None}, "a private run needs local_steps"),
        ("training", {"max_grad_norm": None}, "needs max_grad_norm: without a clip noise protects nothing"),
        ("training", {"max_grad_norm": [1.0, 1e-13]}, "must be in [1e-12, 1e+30], got [1.0, 1e-13]"),
        ("training", {"max_grad_norm": 1e31}, "a private max_grad_norm must be in [1e-12, 1e+30], got [1e+31]"),
        ("training", {"local_epochs": 1}, "remove local_epochs = [1]"),
        ("training", {"batch_size": 8}, "draws by [privacy.update] sample_rate; remove batch_size = [8]"),
        ("space", {"heads": ["global_average"]}, "[space] heads must offer 'flatten' where noise_at = 'device'"),
    ],
)
def test_a_private_run_is_told_what_to_change(table, changes, line):
    (told,) = lines(PRIVATE, table, **changes)
    assert line in told


@pytest.mark.parametrize(
    ("table", "changes", "line"),
    [
        ("training", {"local_steps": 3}, "set local_steps = 1, got [3]"),
        ("training", {"local_steps": [1, 2]}, "set local_steps = 1, got [1, 2]"),
        ("training", {"max_grad_norm": [0.5, 1.0]}, "needs one max_grad_norm for all clients, got [0.5, 1.0]"),
        ("training", {"momentum": 0.9}, "set momentum = 0 and use server_momentum, got [0.9]"),
        ("training", {"proximal": [0.0, 0.1]}, "FedProx pulls nothing; set proximal = 0, got [0.0, 0.1]"),
        ("round", {"weighting": "uniform"}, "set weighting = 'examples'"),
    ],
)
def test_noise_on_the_sum_is_one_step_with_one_clip_weighted_by_examples(table, changes, line):
    (told,) = lines(ON_SUM, table, **changes)
    assert line in told


def test_noise_on_the_sum_allows_a_global_average():
    assert lines(ON_SUM, "space", heads=["global_average"]) == []


def test_broken_rules_reach_the_reader_with_the_name_of_the_file():
    text = "\n".join(
        [
            '[run]\nname = "a"\nseed = 1\nkind = "real"\n[fleet]\nprofiles = ["low"]',
            '[data]\nsource = "digits"\npartition = "iid"\n[final]\nrounds = 1',
            '[space]\nkinds = "depthwise"\nwidths = 8\ndepths = 1\nkernels = 3\nstrides = 1\nheads = "flatten"',
            'max_stages = 0\n[search]\nalgorithm = "random_search"\ntrials = 1\nrounds = 1',
            "[training]\nlearning_rate = 0.1\nlocal_epochs = 1\nbatch_size = 8",
            "[round]\ncohort_size = 1\nmin_reports = 1\ndeadline_s = 1",
        ]
    )
    with pytest.raises(ValueError, match=r"my\.toml: \[data\] .*\nmy\.toml: \[fleet\]"):
        parse_run_file(text, "my.toml")
