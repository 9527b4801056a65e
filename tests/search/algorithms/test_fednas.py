"""FedNAS step by step: who trains, on whose data, who goes on, who wins, what each platform ships."""

from dataclasses import replace
from math import ceil, log2

import numpy as np
import pytest

from search.algorithm import NoWinnerError, load_state, save_state
from search.algorithms import FedNas
from search.budget import Feasibility, InfeasibleError, Limits
from search.candidate import Observation
from search.clients import Client, balance
from search.cost import cost_of
from search.options import HyperParameterOptions, StageOptions, StemOptions
from search.pruning import blocks_of, prune
from search.space import SearchSpace

CLIENTS = tuple(Client(f"{i:02}", 10 + i) for i in range(12))
SPACE = SearchSpace(
    input_shape=(1, 8, 8),
    num_classes=10,
    stem=StemOptions((64,)),
    stages=StageOptions(("depthwise",), (64,)),
    hyper_parameters=HyperParameterOptions((0.1,), local_steps=(1,)),
    max_stages=4,
    min_stages=4,
    heads=("global_average",),
)


LIMITS = {"default": Limits(size_kib=30.0)}


@pytest.fixture
def make_search(make_profile):
    def make(limits=LIMITS, profiles=("phone",), **settings):
        phones = tuple(make_profile(name, "mid", 0.01) for name in profiles)
        feasibility = Feasibility(phones, limits, 8)
        return FedNas(SPACE, feasibility, CLIENTS, **({"groups": 4, "keep": 2} | settings))

    return make


def parameters(network):
    return sum(stage.width for stage in network.stages) + network.stem.width


def score(trial, failed=()):
    """Wide networks are better, and earlier blocks matter more."""
    network = trial.candidate.architecture
    places = enumerate((*reversed(network.stages), network.stem), start=1)
    accuracy = sum(place * part.width for place, part in places) / 2000
    why = "too few reports" if trial.index in failed else ""
    return Observation(trial, accuracy, num_examples=100, failed=why)


def run(search, failed=(), parallel=100, seed=0):
    """The state at the end, and the trials of each ask."""
    state, asked = search.init(seed), []
    while trials := search.ask(state, parallel):
        asked.append(trials)
        state = search.tell(state, [score(trial, failed) for trial in trials])
        assert len(asked) < 200
    return state, asked


def test_the_first_network_is_scored_on_everybody_before_anything_is_pruned(make_search):
    _, asked = run(make_search())
    assert [(t.index, t.rounds, t.start_from, t.clients) for t in asked[0]] == [(0, 0, None, None)]
    assert asked[0][0].candidate.architecture == SPACE.largest()


def test_each_block_gives_a_candidate_that_trains_shortly_on_the_next_group(make_search):
    search = make_search()
    _, asked = run(search)
    groups = balance(CLIENTS, 4)
    blocks = blocks_of(SPACE.largest())
    assert len(asked[1]) == len(blocks) == 5
    for b, trial in enumerate(asked[1]):
        assert (trial.rounds, trial.start_from, trial.clients) == (2, 0, groups[b % 4])
        network = trial.candidate.architecture
        changed = [i for i, part in enumerate((network.stem, *network.stages)) if part.width != 64]
        assert changed == [b]
        assert search.feasibility.load(network) <= 0.9 * search.feasibility.load(SPACE.largest())


def test_the_best_go_on_from_their_own_weights_on_some_group(make_search):
    _, asked = run(make_search())
    best = sorted(asked[1], key=lambda t: -score(t).accuracy)[:2]
    assert [t.start_from for t in asked[2]] == [t.index for t in best]
    assert [t.candidate for t in asked[2]] == [t.candidate for t in best]
    assert {t.rounds for t in asked[2]} == {5}
    assert all(t.clients in balance(CLIENTS, 4) for t in asked[2])


def test_a_later_rounds_group_is_drawn_anew_for_each_step_stage_and_place(make_search):
    search = make_search(schedule="adaptive", rounds=3, keep=3)
    state, drawn, groups = search.init(0), [], balance(CLIENTS, 4)
    while trials := search.ask(state, 100):
        if trials[0].rounds == 1:
            drawn.append([groups.index(t.clients) for t in trials])
        state = search.tell(state, [Observation(t, 0.5, num_examples=100) for t in trials])  # nobody leads
    by_step_stage_and_place = np.array(drawn[:9]).reshape(3, 3, 3)
    for axis in range(3):
        assert np.diff(by_step_stage_and_place, axis=axis).any()


def test_the_winner_loses_least_for_what_it_saves(make_search):
    search = make_search()
    _, asked = run(search)
    before, load = score(asked[0][0]).accuracy, search.feasibility.load

    def price(trial):
        saved = load(SPACE.largest()) - load(trial.candidate.architecture)
        return (before - score(trial).accuracy + 1e-6) / (saved + 1e-5)

    winner = min(asked[2], key=price)
    assert {t.start_from for t in asked[3]} == {winner.index}


def test_the_reductions_shrink_by_the_decay(make_search):
    search = make_search(decay=0.5, first_reduction=0.2)
    state, asked = run(search)
    load, first = search.feasibility.load, search.feasibility.load(state.trace[0].network)
    num_reached = 0
    for i, (before, trials) in enumerate(zip(state.trace, asked[1::2], strict=False)):
        target = load(before.network) - first * 0.2 * 0.5**i
        by_block = [prune(before.network, block, load, target) for block in blocks_of(before.network)]
        assert [t.candidate.architecture for t in trials] == [one for one in by_block if one is not None]
        num_reached += sum(one is not None and load(one) <= target for one in by_block)
    assert num_reached > len(state.trace)


def test_without_its_optimisations_it_is_the_straightforward_search(make_search):
    _, asked = run(make_search(groups=1, keep=None, pretrain_rounds=20, rounds=0))
    assert all(t.rounds == 20 and t.clients is None for stage in asked[1:] for t in stage)
    assert all(len(stage) > 2 for stage in asked[1:-1])  # one stage a step, with all candidates


def test_centralised_netadapt_takes_the_best_ratio_of_every_block_at_each_step(make_search):
    """NetAdapt's published code: one candidate a block, short fine-tuning on all data, the best ratio goes on."""
    alone = (Client("everybody", 1000),)
    search = make_search(groups=1, keep=None, pretrain_rounds=4, rounds=0)
    search = replace(search, clients=alone)
    state, asked = run(search)
    assert [len(stage) for stage in asked[:2]] == [1, len(blocks_of(SPACE.largest()))]
    for step, (trials, after) in enumerate(zip(asked[1:], [*asked[2:], ()], strict=True), start=1):
        assert {(t.rounds, t.clients, t.start_from) for t in trials} == {(4, None, state.trace[step - 1].trial)}
        begun, load = state.trace[step - 1], search.feasibility.load

        def price(trial, begun=begun, load=load):
            saved = load(begun.network) - load(trial.candidate.architecture)
            return (begun.accuracy - score(trial).accuracy + 1e-6) / (saved + 1e-5)

        best = min(trials, key=price)
        assert (state.trace[step].trial, state.trace[step].network) == (best.index, best.candidate.architecture)
        assert {t.start_from for t in after} <= {best.index}
    assert state.ended == "all limits are met"


def test_of_the_able_blocks_alone_each_candidate_gives_the_steps_reduction(make_search):
    search = make_search(blocks="able")
    state, asked = run(search)
    load, first = search.feasibility.load, search.feasibility.load(state.trace[0].network)
    every, _ = run(make_search())
    numbers = []
    for i, (before, trials) in enumerate(zip(state.trace, asked[1::2], strict=False)):
        saved = [load(before.network) - load(t.candidate.architecture) for t in trials]
        wanted = first * search.first_reduction * search.decay**i
        assert min(saved) >= wanted / 2 ** max(0, ceil(log2(wanted / max(saved)))) - 1e-9
        numbers.append(len(trials))
    assert min(numbers) < len(blocks_of(SPACE.largest()))
    assert [one.network for one in state.trace] != [one.network for one in every.trace]


def test_growing_rounds_follow_the_way_to_the_limits(make_search):
    search = make_search({"default": Limits(size_kib=40.0)}, schedule="growing", rounds=8)
    state, asked = run(search)
    loads = [search.feasibility.load(entry.network) for entry in state.trace]
    assert loads == pytest.approx([2.001, 1.767, 1.562, 1.344, 1.127, 0.910], abs=1e-3)
    assert [stage[0].rounds for stage in asked[2::2]] == [1, 2, 4, 6, 7]  # of 8: 0, 1.9, 3.5, 5.2 and 6.98, rounded up


def test_adaptive_rounds_end_when_the_leader_is_two_standard_errors_ahead(make_search):
    search = make_search(schedule="adaptive", rounds=3)
    state = search.init(0)
    state = search.tell(state, [score(t) for t in search.ask(state, 9)])
    trials = search.ask(state, 9)
    # The error of 0.64 - 0.5 is sqrt((0.64 * 0.36 + 0.5 * 0.5) / 100) = 0.069.
    close = [Observation(t, 0.63 if t.index == 1 else 0.5, num_examples=100) for t in trials]
    clear = [Observation(t, 0.65 if t.index == 1 else 0.5, num_examples=100) for t in trials]
    assert {t.start_from for t in search.ask(search.tell(state, clear), 9)} == {1}  # the next step's, from the winner
    going = search.tell(state, close)
    for _ in range(3):
        trials = search.ask(going, 9)
        assert [(t.rounds, len(trials)) for t in trials] == [(1, 2), (1, 2)]
        going = search.tell(going, [Observation(t, 0.5, num_examples=100) for t in trials])
    assert len(search.ask(going, 9)) > 2


def test_three_right_of_three_are_not_taken_for_certain(make_search):
    search = make_search(schedule="adaptive", rounds=3)
    state = search.init(0)
    state = search.tell(state, [score(t) for t in search.ask(state, 9)])
    for num_examples, is_decided in ((3, False), (300, True)):
        told = [
            Observation(t, 1.0, num_examples=num_examples) if t.index == 1 else Observation(t, 0.9, num_examples=100)
            for t in search.ask(state, 9)
        ]
        further = search.ask(search.tell(state, told), 9)
        assert (len(further) > 2) == is_decided  # the next step's candidates, or two that go on
        assert {t.start_from for t in further} == ({1} if is_decided else {1, 2})


def test_a_failed_candidate_is_out_and_a_step_without_any_ends_the_search(make_search):
    search = make_search()
    _, asked = run(search, failed=(5,))
    assert 5 not in [t.start_from for t in asked[2]]
    state, asked = run(search, failed=range(1, 100))
    assert len(asked) == 2
    assert state.ended == "every candidate of step 1 failed"
    with pytest.raises(NoWinnerError, match="limits of phone: every candidate of step 1 failed"):
        search.winners(state, ())


def test_a_reduction_that_no_block_can_give_alone_is_halved(make_search):
    search = make_search(first_reduction=0.6, blocks="able")
    state, _ = run(search)
    assert state.ended == "all limits are met"
    assert len(state.trace) > 2  # one step would have taken 60%


def test_a_network_narrower_than_pruning_goes_is_not_taken_for_a_wider_one(make_search):
    narrow = replace(SPACE, stem=StemOptions((3,)), stages=StageOptions(("depthwise",), (3,)))
    (phone,) = make_search().feasibility.profiles
    size = cost_of(narrow.largest(), phone, 8).size_kib
    search = replace(make_search({"default": Limits(size_kib=1.001 * size)}), space=narrow)
    state, _ = run(search)
    assert (state.ended, search.winners(state, ())) == ("all limits are met", {"phone": 0})


def test_each_platform_ships_the_first_network_within_its_own_limits(make_search):
    limits = {"default": Limits(size_kib=30.0), "mid": Limits(size_kib=60.0)}
    search = make_search(limits, ("tight", "wide"))
    tight, wide = search.feasibility.profiles
    tight = replace(tight, device_class="entry")
    search = replace(search, feasibility=replace(search.feasibility, profiles=(tight, wide)))
    state, asked = run(search)
    winners = search.winners(state, ())
    sizes = {name: asked_size(asked, trial) for name, trial in winners.items()}
    assert sizes["tight"] <= 30 < sizes["wide"] <= 60
    before = [entry for entry in state.trace if entry.trial < winners["wide"]]
    assert all(not search.feasibility.platforms["wide"].is_feasible(entry.network) for entry in before)


def asked_size(asked, index):
    from search.layers import num_parameters  # noqa: PLC0415

    trial = next(t for stage in asked for t in stage if t.index == index)
    return 4 * num_parameters(trial.candidate.architecture) / 1024


@pytest.mark.parametrize("parallel", [1, 3])
def test_asking_for_fewer_at_a_time_changes_no_trial(make_search, parallel):
    search = make_search(schedule="adaptive")
    state, asked = run(search)
    alone, one_by_one = run(search, parallel=parallel)
    assert [t for stage in asked for t in stage] == [t for stage in one_by_one for t in stage]
    assert alone == state


def test_a_search_goes_on_from_its_saved_state_and_another_seed_draws_other_groups(make_search):
    search = make_search()
    state = search.init(0)
    while trials := search.ask(state, 3):
        state = search.tell(state, [score(t) for t in trials])
        assert load_state(search, save_state(state)) == state
    groups = [[t.clients for stage in run(search, seed=seed)[1][2::2] for t in stage] for seed in (0, 1)]
    assert groups[0] != groups[1]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"pretrain_rounds": 0}, "pretrain_rounds must be >= 1, got 0"),
        ({"keep": 0}, "keep must be >= 1, got 0"),
        ({"rounds": -1}, "rounds must be >= 0, got -1"),
        ({"first_reduction": 0.0}, "first_reduction must be > 0 and <= 1, got 0.0"),
        ({"decay": 1.5}, "decay must be > 0 and <= 1, got 1.5"),
        ({"groups": 13}, r"groups must be in \[1, 12 clients\], got 13"),
    ],
)
def test_settings_are_refused_by_name(make_search, settings, error):
    with pytest.raises(ValueError, match=error):
        make_search(**settings)


def test_a_space_with_a_choice_of_hyper_parameters_is_refused(make_search):
    space = replace(SPACE, hyper_parameters=HyperParameterOptions((0.1, 0.2), local_steps=(1,)))
    with pytest.raises(ValueError, match="give learning_rate one value, got"):
        replace(make_search(), space=space)


def test_no_limit_or_an_impossible_one_is_an_error_before_any_client_is_asked(make_search):
    with pytest.raises(InfeasibleError, match=r"there are none: add \[budgets.default\]"):
        make_search({}).init(0)
    with pytest.raises(InfeasibleError, match=r"with every width 4 the network still breaks size_kib=0\.5 on phone"):
        make_search({"default": Limits(size_kib=0.5)}).init(0)
