from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from profiles.records import decode_record, encode_record
from search.architecture import Architecture, Stage, Stem
from search.candidate import Candidate
from search.layers import layers_of, num_parameters
from search.options import HyperParameterOptions, StageOptions, StemOptions
from search.space import SearchSpace

ONE = SearchSpace(
    (1, 8, 8), 10, StemOptions((4,)), StageOptions(("depthwise",), (4, 8)), HyperParameterOptions((0.1,)), max_stages=0
)


def num_changes(before: Candidate, after: Candidate) -> int:
    """Fields that differ, a kind and its expansion as one; stages that were added or removed are counted."""
    one, other = before.architecture, after.architecture
    fields = num_differing(replace(one, stem=other.stem, stages=other.stages), other)
    fields += num_differing(one.stem, other.stem) + num_differing(before.hyper_parameters, after.hyper_parameters)
    return fields + stack_changes(one.stages, other.stages)


def stack_changes(one: tuple[Stage, ...], other: tuple[Stage, ...]) -> int:
    if len(one) == len(other):
        return sum(map(stage_changes, one, other))
    longer, shorter = sorted((one, other), key=len, reverse=True)
    is_one_removed = any((*longer[:i], *longer[i + 1 :]) == shorter for i in range(len(longer)))
    return 1 if is_one_removed else 99


def stage_changes(one: Stage, other: Stage) -> int:
    if one.kind != other.kind:
        one, other = replace(one, expansion=1), replace(other, expansion=1)
    return num_differing(one, other)


def num_differing(one: object, other: object) -> int:
    return sum(vars(other)[name] != value for name, value in vars(one).items())


@given(st.data(), st.integers(0, 2**32))
def test_samples_are_of_the_space_and_every_one_is_a_network(spaces, data, seed):
    space = data.draw(spaces)
    candidate = space.sample(np.random.default_rng(seed))
    assert candidate in space
    assert layers_of(candidate.architecture)[-1].output_shape == (space.num_classes,)
    assert space.sample(np.random.default_rng(seed)) == candidate


@given(st.data(), st.integers(0, 2**32))
def test_a_mutation_changes_exactly_one_thing_and_stays_in_the_space(spaces, data, seed):
    space, rng = data.draw(spaces), np.random.default_rng(seed)
    candidate = space.sample(rng)
    for _ in range(5):
        mutated = space.mutate(candidate, rng)
        assert mutated in space
        assert num_changes(candidate, mutated) == (1 if space.size() > 1 else 0)
        candidate = mutated


@given(st.data(), st.integers(0, 2**32))
def test_a_hyper_parameter_moves_to_an_option_beside_its_own(spaces, data, seed):
    rates = (0.8, 0.1, 0.4, 0.2)
    space = replace(data.draw(spaces), hyper_parameters=HyperParameterOptions(rates))
    rng = np.random.default_rng(seed)
    before = space.sample(rng)
    after = space.mutate(before, rng)
    ranks = [sorted(rates).index(candidate.hyper_parameters.learning_rate) for candidate in (before, after)]
    assert abs(ranks[0] - ranks[1]) == (before.architecture == after.architecture)


@given(st.data())
def test_the_size_is_the_number_of_different_candidates(spaces, data):
    space = data.draw(spaces)
    assume(space.size() <= 1000)
    candidates = list(space.enumerate_candidates())
    assert space.size() == len(candidates) == len(set(candidates))
    assert all(candidate in space for candidate in candidates)


def test_sampling_and_mutating_reach_every_candidate(small_space):
    rng = np.random.default_rng(0)
    everything = set(small_space.enumerate_candidates())
    assert len(everything) == 60
    assert {small_space.sample(rng) for _ in range(2000)} == everything
    candidate = small_space.sample(rng)
    assert {candidate := small_space.mutate(candidate, rng) for _ in range(3000)} == everything


def test_each_number_of_stages_is_drawn_about_as_often(large_space):
    # Not each candidate: nearly all of them have the most stages.
    rng = np.random.default_rng(0)
    lengths = Counter(len(large_space.sample(rng).architecture.stages) for _ in range(800))
    assert lengths.keys() == {0, 1, 2, 3}
    assert min(lengths.values()) > 150


def test_a_large_space_is_counted_without_listing_it(large_space):
    num_stages = 3 * 2 * 2 * 2 * (1 + 3)
    assert large_space.size() == (1 + num_stages + num_stages**2 + num_stages**3) * 12 * 2 * 24
    assert next(large_space.enumerate_candidates()) in large_space


def test_a_space_of_one_candidate_gives_it_back():
    rng = np.random.default_rng(0)
    (candidate,) = ONE.enumerate_candidates()
    assert ONE.size() == 1
    assert ONE.mutate(candidate, rng) == candidate == ONE.sample(rng)


def test_the_smallest_and_the_largest_network_bound_the_others(small_space):
    sizes = [num_parameters(candidate.architecture) for candidate in small_space.enumerate_candidates()]
    assert num_parameters(small_space.smallest()) == min(sizes)
    assert num_parameters(small_space.largest()) == max(sizes)


def test_the_smallest_takes_the_largest_stride_and_the_largest_the_smallest(large_space):
    assert large_space.smallest() == Architecture((1, 8, 8), 10, Stem(4, 3, 2))
    stage = Stage("inverted", 32, depth=2, kernel=5, stride=1, expansion=4)
    assert large_space.largest() == Architecture((1, 8, 8), 10, Stem(16, 5, 1), (stage,) * 3, normalization="group")


@given(st.data())
def test_a_space_survives_the_round_trip(spaces, data):
    space = data.draw(spaces)
    assert decode_record(SearchSpace, encode_record(space)) == space


@pytest.mark.parametrize(
    "change",
    [
        {"stem": Stem(5)},
        {"stages": (Stage("depthwise", 4),)},
        {"head": "global_average"},
        {"normalization": "group"},
        {"activation": "hard_swish"},
        {"input_shape": (3, 8, 8)},
        {"num_classes": 11},
    ],
)
def test_a_candidate_of_elsewhere_is_not_mutated(change):
    (candidate,) = ONE.enumerate_candidates()
    other = replace(candidate, architecture=replace(candidate.architecture, **change))
    with pytest.raises(ValueError, match="must be of the search space"):
        ONE.mutate(other, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_stages": 1}, "min_stages must be >= 0 and <= max_stages = 0, got 1"),
        ({"min_stages": -1}, "min_stages must be >= 0"),
        ({"heads": ()}, "head needs at least one option"),
        ({"activations": ("relu", "relu")}, "activation must list each option once"),
        ({"input_shape": (1, 0, 8)}, "input_shape must be"),
        ({"num_classes": 1}, "num_classes must be >= 2, got 1"),
    ],
)
def test_an_impossible_space_names_value_and_rule(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(ONE, **changes)
