import pytest

from bench import joint_search
from bench.joint_search import (
    AFTER,
    DEFAULT,
    NETWORKS,
    OURS,
    compare,
    fixed,
    methods,
    networks_row,
    place,
    random_networks,
)
from bench.search_rows import NEEDS
from bench.search_runs import tasks_of
from pipeline.run_file import parse_run_file

TEXT = joint_search.RUN_FILE.read_text(encoding="utf-8")


def row(seed, accuracy, thrown=0.0, **more):
    costs = {"client_rounds": 10, "client_seconds": 50.0, "bytes": 1000, "evaluations": 1}
    model = {"trial": 3, "test_accuracy": accuracy, **{need: {"phone": 0.3} for need in NEEDS}}
    trainings = {"3": {"learning_rate": 0.05, "momentum": 0.5, "weight_decay": 0.001, "batch_size": 8}}
    fixed_fields = {"search": costs, "final": costs, "models": [model], "num_trials": 4, "steps": [], "commit": "abc"}
    return {"seed": seed, "run_file": TEXT, "thrown_away": thrown, "trainings": trainings, **fixed_fields, **more}


def test_every_method_is_a_run_file_that_can_be_run():
    for method, count in methods():
        (task,) = tasks_of(TEXT, [method], [1])
        run = parse_run_file(task.run_file)
        assert run.search.algorithm == method.search["algorithm"]
        assert count in {5, 20}
    assert [method.name for method, count in methods() if count == 20] == [OURS, AFTER]


def test_random_networks_are_trained_as_the_found_one_is():
    (method,) = random_networks([row(4, 0.9)])
    run = parse_run_file(tasks_of(TEXT, [method], [4])[0].run_file)
    assert (run.training.learning_rate, run.training.momentum, run.training.weight_decay) == ((0.05,), (0.5,), (0.001,))
    assert (run.search.trials, run.search.rounds, run.final.rounds) == (20, 40, 1)


def test_the_default_has_one_configuration():
    run = parse_run_file(TEXT.replace(joint_search.LISTS, fixed(DEFAULT)))
    assert run.training.learning_rate == (0.025,)
    assert run.training.momentum == (0.9,)


def test_the_place_among_random_networks_counts_equals_by_half():
    found = row(0, 0.9, final_curves={"3": [0.1, 0.5]})
    assert place(found, {"curves": {"0": [0.9, 0.4], "1": [0.0, 0.5], "2": [0.6], "3": [0.5, 0.2]}}) == 0.625


class Made:
    """A sitting whose runs are made up: of four random networks so many, by seed, are worse than the found one."""

    def __init__(self, worse):
        self.worse, self.asked = worse, []

    def rows(self, tasks):
        self.asked += tasks
        (task,) = tasks
        worse = self.worse[task.seed]
        return [{"seed": task.seed, "curves": {str(i): [0.4 if i < worse else 0.6] for i in range(4)}}]


@pytest.mark.parametrize(
    ("worse", "mean", "is_met"),
    [
        ((4, 4), 1.0, True),
        ((4, 3), 0.875, True),
        ((3, 3), 0.75, False),  # above the bar, not on it
        ((4, 2), 0.75, False),
        ((3, 2), 0.625, False),
        ((2, 2), 0.5, False),
        ((0, 0), 0.0, False),
    ],
)
def test_the_found_networks_are_better_than_three_quarters_of_the_random_ones_on_average(worse, mean, is_met):
    sitting = Made(dict(zip((4, 7), worse, strict=True)))
    ours = [row(seed, 0.9, final_curves={"3": [0.5]}) for seed in (4, 7)]
    (told,), (bar,) = networks_row(sitting, ours, TEXT)
    assert (bar.value, bar.bar, bar.met) == (mean, 0.75, is_met)
    assert (told["method"], told["seeds"], told["place"]) == (NETWORKS, 2, mean)
    assert told["places"] == {4: worse[0] / 4, 7: worse[1] / 4}
    assert [(task.seed, task.method) for task in sitting.asked] == [
        (seed, f"{NETWORKS}, seed {seed}") for seed in (4, 7)
    ]


def test_without_a_found_network_nothing_is_said_of_its_place():
    assert networks_row(Made({}), [], TEXT) == ([], [])


def test_the_primary_bar_is_the_bound_of_the_paired_difference():
    same = {OURS: [row(i, 0.9 + i / 1000) for i in range(20)], AFTER: [row(i, 0.9 + i / 1000) for i in range(20)]}
    compared, bars = compare(same)
    assert [bar.met for bar in bars] == [True, True, True, True]
    assert compared[0]["accuracy"]["bound"] == pytest.approx(0.0)
    worse = {**same, OURS: [row(i, 0.88 + i / 1000, thrown=0.2) for i in range(20)]}
    assert [bar.met for bar in compare(worse)[1]] == [True, True, False, False]
    few = {name: own[:5] for name, own in same.items()}
    assert [bar.met for bar in compare(few)[1]] == [True, False, True, True]
    costs = {**same[AFTER][0]["search"], "client_seconds": 40.0}
    dear = {**same, AFTER: [{**one, "search": costs} for one in same[AFTER]]}
    assert [bar.met for bar in compare(dear)[1]] == [False, True, True, True]
