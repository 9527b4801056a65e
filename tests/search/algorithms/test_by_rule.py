"""The controls: what uniform width scaling and random pruning make of a network, and how their training is tuned."""

from dataclasses import replace
from itertools import pairwise

import pytest

from search.algorithm import NoWinnerError, load_state, save_state
from search.algorithms import ByRule, random_pruning, uniform_width
from search.budget import Feasibility, InfeasibleError, Limits
from search.candidate import Observation
from search.layers import num_parameters
from search.options import HyperParameterOptions, StemOptions
from search.pruning import blocks_of, width_of, with_width
from tests.search.conftest import ONE_NETWORK

SPACE = replace(ONE_NETWORK, max_stages=1)
TUNED = replace(SPACE, hyper_parameters=HyperParameterOptions((0.1, 0.2, 0.4), local_steps=(1,)))


def parameters_of(width):
    """Of SPACE's network with that width everywhere: convolution 3x3, depthwise 3x3, pointwise, linear; with biases."""
    return (9 * width + width) + (9 * width + width) + (width * width + width) + (10 * width + 10)


def kib(count):
    return 4 * count / 1024


@pytest.fixture
def make_feasibility(make_profile):
    def make(**budgets):
        profiles = tuple(make_profile(f"a {name} phone", name, 0.01) for name in budgets)
        return Feasibility(profiles, {name: Limits(size_kib=size) for name, size in budgets.items()}, 8)

    return make


def observe(trials, best=None):
    """The candidate with that learning rate is most accurate."""
    return [
        Observation(trial, 0.9 if trial.candidate.hyper_parameters.learning_rate == best else 0.1) for trial in trials
    ]


@pytest.mark.parametrize("width", [4, 8, 16, 24, 32])
def test_uniform_scaling_takes_the_widest_network_that_just_meets_the_limit(make_feasibility, width):
    assert num_parameters(SPACE.largest()) == parameters_of(32)
    found = uniform_width(SPACE.largest(), make_feasibility(mid=kib(parameters_of(width))), 0)
    assert [network.stem.width for network in found.values()] == [width]
    assert [network.stages[0].width for network in found.values()] == [width]
    assert list(found) == ["a mid phone"]


@pytest.mark.parametrize("width", [1592, 1584, 8])
def test_uniform_scaling_goes_by_half_percents(make_profile, width):
    network = replace(SPACE, stem=StemOptions((1600,)), max_stages=0).largest()
    size = kib(num_parameters(with_width(network, blocks_of(network)[0], width)))
    feasibility = Feasibility((make_profile("a phone", "mid", 0.01),), {"mid": Limits(size_kib=size)}, 8)
    assert uniform_width(network, feasibility, 0)["a phone"].stem.width == width


def test_a_limit_below_the_narrowest_network_is_an_error_with_its_need(make_feasibility):
    impossible = make_feasibility(mid=kib(parameters_of(4) - 1))
    with pytest.raises(InfeasibleError, match=r"size_kib=0\.\d+ on a mid phone needs 0\.\d+: raise it"):
        uniform_width(SPACE.largest(), impossible, 0)
    with pytest.raises(InfeasibleError, match=r"size_kib=0\.\d+ on a mid phone needs 0\.\d+: raise it"):
        random_pruning(0.1, 0.96)(SPACE.largest(), impossible, 0)


@pytest.mark.parametrize("rule", [uniform_width, random_pruning(0.1, 0.96)])
def test_without_limits_the_network_stays_the_largest(rule):
    assert rule(SPACE.largest(), Feasibility((), {}, 8), 0) == {"": SPACE.largest()}


def test_a_single_setting_is_scored_once_without_training(make_feasibility):
    search = ByRule(SPACE, make_feasibility(entry=kib(parameters_of(8)), mid=kib(parameters_of(16))), uniform_width, 5)
    state = search.init(0)
    trials = search.ask(state, 9)
    assert [(t.candidate.architecture.stem.width, t.rounds, t.start_from, t.clients) for t in trials] == [
        (8, 0, None, None),
        (16, 0, None, None),
    ]
    state = search.tell(state, observe(trials))
    assert search.ask(state, 9) == ()
    assert search.winners(state, observe(trials)) == {"a entry phone": 0, "a mid phone": 1}


def test_each_platform_tunes_its_own_network(make_feasibility):
    search = ByRule(TUNED, make_feasibility(entry=kib(parameters_of(8)), mid=kib(parameters_of(16))), uniform_width, 5)
    state = search.init(0)
    trials = search.ask(state, 9)
    assert [t.candidate.hyper_parameters.learning_rate for t in trials] == [0.1, 0.2, 0.4] * 2
    assert {t.rounds for t in trials} == {5}
    told = [*observe(trials[:3], best=0.4), *observe(trials[3:], best=0.2)]
    told[0] = replace(told[0], accuracy=1.0, failed="too few reports")
    assert search.winners(search.tell(state, told), told) == {"a entry phone": 2, "a mid phone": 4}
    lost = [replace(one, failed="too few reports") if i >= 3 else one for i, one in enumerate(told)]
    with pytest.raises(NoWinnerError, match="no trial of the network of a mid phone was scored"):
        search.winners(search.tell(state, lost), lost)


def test_platforms_of_one_limit_share_their_network_and_its_trials(make_feasibility):
    size = kib(parameters_of(8))
    search = ByRule(TUNED, make_feasibility(entry=size, mid=size), uniform_width, 5)
    state = search.init(0)
    trials = search.ask(state, 9)
    assert len(trials) == 3
    told = observe(trials, best=0.2)
    assert search.winners(search.tell(state, told), told) == {"a entry phone": 1, "a mid phone": 1}


def test_random_pruning_narrows_blocks_until_the_limit_is_met_and_no_further(make_feasibility):
    feasibility = make_feasibility(entry=kib(500), mid=kib(900))
    found = random_pruning(0.1, 1.0)(SPACE.largest(), feasibility, 3)
    entry, mid = found["a entry phone"], found["a mid phone"]
    assert num_parameters(entry) <= 500 < num_parameters(mid) <= 900
    for large, small in pairwise((SPACE.largest(), mid, entry)):  # one way, on which both lie
        widths = [[width_of(one, block) for block in blocks_of(SPACE.largest())] for one in (large, small)]
        assert all(after <= before for before, after in zip(*widths, strict=True))


@pytest.mark.parametrize(("decay", "width"), [(0.5, 24), (1.0, 16)])
def test_each_step_takes_away_a_decaying_part_of_the_first_load(make_feasibility, decay, width):
    # A stem alone has 20 w + 10 parameters: 1290 at 64. A quarter less is at most 967, width 40 with 810. The next step
    # takes 161 (to at most 648, width 24) or without decay 322 (to at most 487, width 16).
    stem = replace(SPACE, stem=StemOptions((64,)), max_stages=0).largest()
    found = random_pruning(0.25, decay)(stem, make_feasibility(mid=kib(700)), 0)
    assert found["a mid phone"].stem.width == width


def test_random_pruning_draws_its_blocks_by_the_seed(make_feasibility):
    feasibility = make_feasibility(mid=kib(500))
    rule = random_pruning(0.1, 0.96)
    ways = [rule(SPACE.largest(), feasibility, seed)["a mid phone"] for seed in range(8)]
    assert ways == [rule(SPACE.largest(), feasibility, seed)["a mid phone"] for seed in range(8)]
    assert len(set(ways)) > 1


@pytest.mark.parametrize(("first", "decay", "name"), [(0.0, 0.5, "first_reduction"), (0.1, 1.5, "decay")])
def test_settings_are_refused_by_name(first, decay, name):
    with pytest.raises(ValueError, match=f"{name} must be > 0 and <= 1, got"):
        random_pruning(first, decay)
    with pytest.raises(ValueError, match="rounds must be >= 1, got 0"):
        ByRule(SPACE, Feasibility((), {}, 8), uniform_width, 0)


def test_a_saved_state_asks_for_the_trials_that_it_had_not_asked_for(make_feasibility):
    rule = ByRule(SPACE, make_feasibility(mid=kib(parameters_of(8)), entry=kib(parameters_of(4))), uniform_width, 5)
    state = rule.init(0)
    first = rule.ask(state, 1)
    state = load_state(rule, save_state(rule.tell(state, observe(first))))
    asked = [*first, *rule.ask(state, 2)]
    assert {trial.candidate.architecture.stem.width for trial in asked} == {4, 8}
