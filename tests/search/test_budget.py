from dataclasses import replace

import numpy as np
import pytest

from search.architecture import Architecture, Stage, Stem
from search.budget import Feasibility, InfeasibleError, Limits, Violation, draw_feasible
from search.candidate import Candidate, HyperParameters
from search.cost import cost_of

NETWORK = Architecture((1, 8, 8), 10, Stem(8, stride=2))
CANDIDATE = Candidate(NETWORK, HyperParameters(0.1))


@pytest.fixture
def phones(make_profile):
    return (make_profile("slow-phone", "entry", 0.001), make_profile("fast-phone", "high", 1.0))


def test_without_limits_everything_is_feasible(phones):
    assert Feasibility(phones, {}, 8).is_feasible(NETWORK)
    assert Feasibility(phones, {"default": Limits()}, 8).violations(NETWORK) == ()


@pytest.mark.parametrize("limit", ["latency_ms", "training_step_ms", "memory_mib", "size_kib"])
def test_a_cost_equal_to_the_limit_meets_it_and_one_above_breaks_it(phones, limit):
    cost = cost_of(NETWORK, phones[0], 8)
    value = cost.peak_memory_mib if limit == "memory_mib" else vars(cost)[limit]
    assert Feasibility(phones[:1], {"default": Limits(**{limit: value})}, 8).is_feasible(NETWORK)
    tight = Feasibility(phones[:1], {"default": Limits(**{limit: value * 0.99})}, 8)
    assert not tight.is_feasible(NETWORK)
    assert tight.violations(NETWORK) == (Violation("slow-phone", limit, value * 0.99, value),)


def test_each_class_has_limits_of_its_own_and_default_those_of_the_others(phones):
    tight = Limits(latency_ms=0.001)
    assert [v.profile for v in Feasibility(phones, {"entry": tight}, 8).violations(NETWORK)] == ["slow-phone"]
    assert [v.profile for v in Feasibility(phones, {"default": tight}, 8).violations(NETWORK)] == [
        "slow-phone",
        "fast-phone",
    ]
    # A class with a table of its own takes nothing from `default`.
    budgets = {"entry": Limits(size_kib=1000.0), "default": tight}
    assert [v.profile for v in Feasibility(phones, budgets, 8).violations(NETWORK)] == ["fast-phone"]


def test_memory_grows_with_the_chunk(phones):
    limits = {"default": Limits(memory_mib=cost_of(NETWORK, phones[0], 8).peak_memory_mib)}
    assert Feasibility(phones, limits, 8).is_feasible(NETWORK)
    assert not Feasibility(phones, limits, 32).is_feasible(NETWORK)


def test_the_first_feasible_draw_is_taken(phones):
    wide = replace(CANDIDATE, architecture=replace(NETWORK, stem=Stem(64)))
    draws = iter([wide, wide, CANDIDATE, wide])
    feasibility = Feasibility(phones, {"default": Limits(size_kib=20.0)}, 8)
    assert draw_feasible(lambda: next(draws), feasibility, NETWORK) == CANDIDATE
    assert next(draws) == wide


def impossible(phones, limits: Limits, draws: list[Architecture], smallest: Architecture) -> str:
    """The message after every network was drawn ten times."""
    candidates = iter([replace(CANDIDATE, architecture=network) for network in draws] * 10)
    feasibility = Feasibility(phones, {"default": limits}, 8)
    with pytest.raises(InfeasibleError) as caught:
        draw_feasible(lambda: next(candidates), feasibility, smallest, attempts=10 * len(draws))
    return str(caught.value)


def test_an_impossible_budget_names_limit_profile_smallest_value_and_a_width_that_would_do(phones):
    # The call takes 0.5 ms, 1e6 multiply-accumulates a second: 8 filters of 9 weights at 16 places and 10 * 128 more.
    message = impossible(phones, Limits(latency_ms=2.0), [replace(NETWORK, stem=Stem(64)), NETWORK], NETWORK)
    assert message == (
        "no candidate met budget latency_ms=2.0 on slow-phone in 20 draws; the smallest needs 2.94; "
        "raise it or allow width 4"
    )


def test_a_limit_of_the_value_in_the_message_is_met(phones):
    needed = cost_of(NETWORK, phones[0], 8).training_step_ms
    message = impossible(phones, Limits(training_step_ms=needed * 0.999), [NETWORK], NETWORK)
    told = float(message.split("the smallest needs ")[1].split(";")[0])
    assert needed <= told < needed * 1.01
    assert Feasibility(phones, {"default": Limits(training_step_ms=told)}, 8).is_feasible(NETWORK)


def test_of_several_impossible_limits_the_farthest_is_named(phones):
    message = impossible(phones, Limits(latency_ms=2.0, size_kib=0.1), [NETWORK], NETWORK)
    assert "met budget size_kib=0.1 on slow-phone in 10 draws" in message


def test_limits_that_only_clash_are_told_as_such(phones):
    small_but_slow = Architecture((1, 8, 8), 10, Stem(8), (Stage("depthwise", 4),), head="global_average")
    fast_but_large = NETWORK
    limits = Limits(latency_ms=3.0, size_kib=2.0)
    message = impossible(phones, limits, [small_but_slow, fast_but_large], fast_but_large)
    assert message == (
        # 72 + 8 + 1280 + 10 parameters of 4 bytes.
        "no candidate met all budgets at once in 20 draws, though each was met by some; "
        "of the nearest size_kib=2.0 on slow-phone needs 5.36, size_kib=2.0 on fast-phone needs 5.36; "
        "raise it or allow width 2"
    )


@pytest.mark.parametrize(
    ("latency_ms", "cure"),
    [(0.4, "raise it: the space's smallest network would not meet it at width 1 either"), (2.95, "larger options")],
)
def test_a_cure_that_would_not_help_is_not_offered(phones, latency_ms, cure):
    message = impossible(phones, Limits(latency_ms=latency_ms), [replace(NETWORK, stem=Stem(64))], NETWORK)
    assert cure in message
    assert "allow width" not in message


def test_a_space_is_drawn_from_under_its_limits(small_space, phones):
    rng = np.random.default_rng(0)
    feasibility = Feasibility(phones, {"default": Limits(size_kib=3.0)}, 8)
    drawn = [draw_feasible(lambda: small_space.sample(rng), feasibility, small_space.smallest()) for _ in range(50)]
    assert all(cost_of(candidate.architecture, phones[0], 8).size_kib <= 3.0 for candidate in drawn)
    assert not all(feasibility.is_feasible(c.architecture) for c in small_space.enumerate_candidates())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Limits(latency_ms=0.0), "latency_ms must be > 0, got 0.0; leave it out for no limit"),
        (lambda: Limits(size_kib=float("nan")), "size_kib must be > 0, got nan"),
        (lambda: Feasibility((), {"hihg": Limits()}, 8), "a budget must be of entry, .*default, got 'hihg'"),
        (lambda: Feasibility((), {}, 0), "batch_size must be >= 1, got 0"),
    ],
)
def test_an_impossible_setting_names_value_and_rule(make, message):
    with pytest.raises(ValueError, match=message):
        make()
