"""NSGA-II: its genes are the space's candidates, its children are bred from the Pareto front's parents."""

from dataclasses import replace

import numpy as np
import pytest

from search.algorithms.optuna_nsga2 import Individual, Nsga2
from search.budget import Feasibility, Limits
from search.candidate import Observation, Trial

FREE = Feasibility((), {}, 8)


@pytest.fixture
def feasibility(make_profile):
    return Feasibility((make_profile("phone", "mid", 0.01),), {"mid": Limits(size_kib=100.0)}, 8)


@pytest.mark.parametrize("seed", range(3))
def test_genes_make_the_candidate_that_they_were_read_from(large_space, small_space, seed):
    rng = np.random.default_rng(seed)
    for space in (large_space, small_space):
        search = Nsga2(space, FREE, 21, 1)
        for _ in range(20):
            candidate = space.sample(rng)
            assert search._candidate(search._genes(candidate)) == candidate


def test_only_what_has_a_choice_is_a_gene(small_space):
    genes = Nsga2(small_space, FREE, 21, 1)._genes(next(small_space.enumerate_candidates()))
    assert sorted(genes) == ["head", "num_stages", "stages.0.kind", "stages.0.width", "stem.width",
                             "training.learning_rate"]  # fmt: skip


def test_what_is_told_is_kept_as_genes_accuracy_and_load(small_space, feasibility):
    search = Nsga2(small_space, feasibility, 10, 1, population_size=9)
    candidates = list(small_space.enumerate_candidates())[:3]
    told = [Observation(Trial(i, one, 1), 0.1 * i) for i, one in enumerate(candidates)]
    told[1] = replace(told[1], failed="too few reports")
    state = search.tell(search.init(0), told)
    assert state.num_told == 3
    assert state.individuals == tuple(
        Individual(search._genes(one), 0.1 * i, feasibility.load(one.architecture))
        for i, one in enumerate(candidates)
        if i != 1
    )


def test_children_take_every_gene_from_a_parent_but_for_mutations(large_space):
    """Parents are of two kinds without a gene in common; by chance alone genes would be neither's in most places.

    Better ones without a gene of theirs become parents when their generation of four is full.
    """
    search = Nsga2(large_space, FREE, 1000, 1, population_size=4)
    genes = {name: len(one.choices) for name, one in search._distributions.items()}
    first, last = dict.fromkeys(genes, 0), {name: count - 1 for name, count in genes.items()}
    good = tuple(Individual(one, 0.9, 0.1) for one in (first, last) * 2)
    bad = tuple(Individual({name: count // 2 for name, count in genes.items()}, 0.1, 0.9) for _ in range(4))
    better = tuple(replace(one, accuracy=0.95, load=0.05) for one in bad)
    middle = [name for name, count in genes.items() if count > 2]

    def children_after(newest):
        study = search._study(replace(search.init(0), individuals=(*good, *bad, *newest)))
        return [study.ask(search._distributions).params for _ in range(40)]

    def strange(children):
        return np.mean([child[name] not in (first[name], last[name]) for child in children for name in middle])

    children = children_after(better[:3])
    assert strange(children) < 0.15
    assert {child["num_stages"] for child in children} >= {0, 3}
    assert strange(children_after(better)) > 0.85


def test_the_first_generation_is_drawn_at_random(large_space):
    search = Nsga2(large_space, FREE, 1000, 1, population_size=30)
    state = search.init(0)
    trials = search.ask(state, 30)
    assert {len(trial.candidate.architecture.stages) for trial in trials} == {0, 1, 2, 3}
    assert len({trial.candidate for trial in trials}) == 30


def test_it_finds_lighter_networks_of_one_accuracy_than_random_draws_do(large_space, feasibility):
    """Only a stem of 16 is accurate: the lightest such network has no stage and the narrowest kernel."""
    found = []
    for population_size in (10, 100):  # the second does not leave its first generation, which is random
        search = Nsga2(large_space, feasibility, 1000, 1, population_size)
        state = search.init(0)
        for _ in range(5):
            trials = search.ask(state, 10)
            told = [Observation(t, float(t.candidate.architecture.stem.width == 16)) for t in trials]
            state = search.tell(state, told)
        found.append(np.mean([one.load for one in state.individuals if one.accuracy == 1.0]))
    assert found[0] < 0.8 * found[1]


@pytest.mark.parametrize("population_size", [1, 10, 11])
def test_a_population_without_a_pair_or_a_second_generation_is_refused(small_space, population_size):
    with pytest.raises(ValueError, match=f"population_size must be >= 2 and < trials = 10, got {population_size}: "):
        Nsga2(small_space, FREE, 10, 1, population_size)
