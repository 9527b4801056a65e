"""A nested race: who enters, who trains which path on whose data, who is refuted, what each platform ships."""

from dataclasses import replace

import pytest

from search.algorithm import NoWinnerError, load_state, save_state
from search.algorithms import NestedRace
from search.algorithms.nested_race_bounds import Score, is_behind
from search.algorithms.nested_race_entrants import entrants
from search.budget import Feasibility, InfeasibleError, Limits
from search.candidate import Observation
from search.clients import Client
from tests.search.conftest import ONE_NETWORK

CLIENTS = tuple(Client(f"{i:02}", 10 + i) for i in range(12))
SPACE = ONE_NETWORK
LIMITS = {"default": Limits(size_kib=6.0), "entry": Limits(size_kib=3.0)}


@pytest.fixture
def make_search(make_profile):
    def make(*classes, clients=CLIENTS, **settings):
        phones = tuple(make_profile(f"{name} phone", name, 0.01) for name in classes or ["mid"])
        return NestedRace(SPACE, Feasibility(phones, LIMITS, 8), clients, **settings)

    return make


def observe(trials, accuracy, failed=()):
    return [
        Observation(trial, accuracy(trial), num_examples=100, failed="too few" if trial.index in failed else "")
        for trial in trials
        if trial.is_scored
    ]


def run(search, accuracy, failed=(), seed=0):
    """The state at the end, and the trials of each part of each round."""
    state, asked = search.init(seed), []
    while trials := search.ask(state, 100):
        asked.append(trials)
        state = search.tell(state, observe(trials, accuracy, failed) or [_not_asked(one) for one in trials])
        assert len(asked) < 100
    return state, asked


def _not_asked(trial):
    return Observation(trial, 0.0, failed="no score was asked for")


def even(trial):
    return 0.5


def shallow(trial):
    """Fewer stages are better, by far."""
    return 0.9 - 0.2 * len(trial.candidate.architecture.stages)


def networks(runners):
    return [runner.network for runner in runners]


def test_limits_that_nothing_meets_are_an_error_before_any_trial(make_profile):
    limits = Feasibility((make_profile("slow", "mid", 0.01),), {"mid": Limits(latency_ms=0.2)}, 8)
    with pytest.raises(InfeasibleError, match=r"every width 4 the network breaks latency_ms=0\.2 on slow needs"):
        NestedRace(SPACE, limits, CLIENTS).init(0)


def test_in_a_round_every_client_trains_one_path_and_over_the_rounds_every_path(make_search):
    _, asked = run(make_search(num_entrants=3, rounds=3), even)
    training, trained = asked[::2], {}
    for trials in training:
        assert sorted(name for trial in trials for name in trial.clients) == [one.name for one in CLIENTS]
        for trial in trials:
            assert (trial.rounds, trial.is_scored, trial.supernet) == (1, False, SPACE.largest())
            trained.setdefault(trial.candidate, []).extend(trial.clients)
    assert len(trained) == 3
    assert all(sorted(names) == [one.name for one in CLIENTS] for names in trained.values())


def test_who_begins_with_which_path_is_drawn_for_each_platform_and_seed(make_search):
    search = make_search("mid", "high", num_entrants=4)  # of the same limits
    drawn = [tuple(trial.candidate for trial in search.ask(search.init(seed), 100)) for seed in range(4)]
    assert {(len(one), len(set(one))) for one in drawn} == {(8, 4)}
    assert any(one[:4] != one[4:] for one in drawn)
    assert len(set(drawn)) > 1


def test_a_cohort_scores_all_networks_untrained_and_cohorts_take_turns(make_search):
    _, asked = run(make_search(num_entrants=3, rounds=6, cohorts=4), even)
    scoring = asked[1::2]
    assert all((trial.rounds, trial.is_scored, len(trials)) == (0, True, 3) for trials in scoring for trial in trials)
    cohorts = [{trial.clients for trial in trials} for trials in scoring]
    assert all(len(cohort) == 1 for cohort in cohorts)
    turn = [name for cohort in cohorts[:4] for names in cohort for name in names]
    assert sorted(turn) == [one.name for one in CLIENTS]
    assert cohorts[4:] == cohorts[:2]


def test_what_the_clients_do_not_refute_ships_in_the_order_of_what_it_computes(make_search):
    search = make_search(num_entrants=3, rounds=4)
    state, asked = run(search, even)
    assert networks(state.races["mid phone"]) == list(entrants(SPACE, search.feasibility, 3))
    last = asked[-1][0]
    assert search.winners(state, ()) == {"mid phone": last.index}
    assert last.candidate.architecture == state.races["mid phone"][0].network


def test_networks_far_behind_leave_after_three_scores_and_the_last_one_ends_the_race(make_search):
    search = make_search(num_entrants=4, rounds=20)
    state, asked = run(search, shallow)
    assert [len(trials) for trials in asked] == [4] * 6
    assert [len(one.network.stages) for one in state.races["mid phone"]] == [0]
    winner = search.winners(state, ())["mid phone"]
    assert next(trial for trial in asked[-1] if trial.index == winner).candidate.architecture.stages == ()


@pytest.mark.parametrize(("rounds", "left"), [(14, 2), (15, 1)])
def test_only_the_last_turn_of_the_cohorts_refutes(make_search, rounds, left):
    """From round 10 on one of two is behind; all five scores of a turn have to say so to reach six errors."""
    search = make_search(num_entrants=2, rounds=rounds, cohorts=5, margin=6.0)
    _, behind = entrants(SPACE, search.feasibility, 2)

    def accuracy(trial):
        is_late = trial.index >= 10 * 4  # two trials train in a round and two score
        return 0.5 if is_late and trial.candidate.architecture == behind else 0.8

    state, _ = run(search, accuracy)
    assert len(state.races["mid phone"]) == left


@pytest.mark.parametrize(("level", "left"), [(0.22, 3), (0.25, 1)])
def test_networks_that_still_guess_refute_nobody(make_search, level, left):
    """Of 10 classes; 15% of the way from 0.1 to 1 is 0.235."""

    def guess(trial):
        return level if len(trial.candidate.architecture.stages) == 1 else level / 4

    state, _ = run(make_search(num_entrants=3, rounds=4), guess)
    assert len(state.races["mid phone"]) == left


def test_who_is_left_trains_on_the_data_of_who_has_left(make_search):
    def deep_is_worst(trial):
        return 0.2 if len(trial.candidate.architecture.stages) == 3 else 0.8

    _, asked = run(make_search(num_entrants=3, rounds=4), deep_is_worst)
    assert [len(trials) for trials in asked] == [3, 3, 3, 3, 3, 3, 2, 2]
    assert sorted(name for trial in asked[6] for name in trial.clients) == [one.name for one in CLIENTS]


def test_each_platform_races_networks_within_its_own_limits_on_its_own_phones(make_search):
    clients = tuple(replace(one, profile=("entry phone", "high phone", "")[i % 3]) for i, one in enumerate(CLIENTS))
    search = make_search("entry", "high", clients=clients, num_entrants=2, rounds=4)
    profiles = {one.name: one.profile for one in clients}
    state, asked = run(search, shallow)
    for trial in (trial for trials in asked for trial in trials):
        for name in {profiles[client] for client in trial.clients} - {""}:
            assert search.feasibility.platforms[name].is_feasible(trial.candidate.architecture)
    assert sorted(name for trial in asked[0] for name in trial.clients) == sorted(profiles)  # none in two races
    assert {trial.supernet for trials in asked for trial in trials} == {SPACE.largest()}
    for name, index in search.winners(state, ()).items():
        shipped = next(trial for trials in asked for trial in trials if trial.index == index)
        assert search.feasibility.platforms[name].is_feasible(shipped.candidate.architecture)


def test_platforms_with_the_same_best_network_ship_one_model(make_search):
    search = make_search("mid", "high", num_entrants=2, rounds=2)  # of the same limits
    state, asked = run(search, even)
    last = [trial for trial in asked[-1] if trial.candidate.architecture == state.races["mid phone"][0].network]
    assert len(last) == 2
    assert search.winners(state, ()) == {"mid phone": last[1].index, "high phone": last[1].index}


def test_a_search_of_several_platforms_goes_on_from_its_saved_state_as_if_it_had_not_stopped(make_search):
    search = make_search("mid", "entry", num_entrants=2, rounds=4)  # JSON keeps names in another order
    state, restored = search.init(0), search.init(0)
    while trials := search.ask(state, 3):
        assert search.ask(restored, 3) == trials
        told = observe(trials, shallow)
        state = search.tell(state, told)
        restored = load_state(search, save_state(search.tell(restored, told)))
    assert search.ask(restored, 3) == ()
    assert search.winners(restored, ()) == search.winners(state, ())


def test_a_race_of_one_costs_one_evaluation(make_search):
    search = make_search(num_entrants=1, cohorts=1)
    state, asked = run(search, even)
    ((trial,),) = asked
    assert (trial.rounds, len(trial.clients)) == (0, len(CLIENTS))
    assert search.winners(state, ()) == {"mid phone": trial.index}


def test_a_round_whose_scores_fail_refutes_nobody_and_what_was_never_scored_is_not_shipped(make_search):
    search = make_search(num_entrants=2, rounds=2)
    state, asked = run(search, shallow, failed=range(100))
    assert len(asked) == 4
    with pytest.raises(NoWinnerError, match="no network of mid phone was ever scored"):
        search.winners(state, ())
    favourite = asked[1][0].index
    state, _ = run(search, shallow, failed=set(range(100)) - {favourite})
    assert search.winners(state, ()) == {"mid phone": favourite}


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"num_entrants": 0}, "num_entrants must be >= 1, got 0"),
        ({"rounds": 0}, "rounds must be >= 1, got 0"),
        ({"cohorts": 0}, "cohorts must be >= 1, got 0"),
        ({"cohorts": 2}, "cohorts must be >= 3 where several networks race, got 2: a bound looks at one score of each"),
        ({"margin": 0.0}, "margin must be > 0, got 0"),
        ({"clients": ()}, "no client is left for any race"),
        ({"clients": (Client("a", 10, "", "high"),)}, "no client is left for any race: .* of the device classes that"),
    ],
)
def test_settings_out_of_range_are_refused(make_search, settings, match):
    with pytest.raises(ValueError, match=match):
        make_search(**settings)


def scores(*accuracies, num_examples=100):
    return [Score(round_, accuracy, num_examples) for round_, accuracy in enumerate(accuracies)]


@pytest.mark.parametrize(
    ("its", "leaders", "expected"),
    [
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), False),  # equal
        ((0.5, 0.5, 0.5), (0.7, 0.7, 0.7), True),  # 0.2 with an error of sqrt(0.2 * 0.8 / 300) = 0.023
        ((0.5, 0.5, 0.5), (0.51, 0.51, 0.51), False),  # 0.01 with one of 0.0057: sampling alone may have done that
        ((0.5, 0.5, 0.5), (0.9, 0.4, 0.6), False),  # cohorts disagree: 0.133 with one of 0.145
        ((0.2, 0.5, 0.8), (0.4, 0.7, 0.99), True),  # cohorts differ, and the pairs do not
        ((0.1, 0.1), (0.9, 0.9), False),  # too few
    ],
)
def test_a_network_is_behind_where_its_paired_difference_is_two_errors_below_zero(its, leaders, expected):
    assert is_behind(scores(*its), scores(*leaders), margin=2.0) is expected


def test_only_rounds_that_scored_both_are_compared():
    leader = scores(0.9, 0.9, 0.9, 0.9)
    assert is_behind(scores(0.5, 0.5, 0.5), leader, 2.0)
    assert not is_behind([*scores(0.5, 0.5), Score(9, 0.1, 100)], leader, 2.0)


def test_pairs_weigh_as_much_as_their_examples():
    its, leader = scores(0.5, 0.5, 0.5), scores(0.9, 0.9, 0.5)
    assert not is_behind(its, leader, 2.0)
    tiny = [*its[:2], replace(its[2], num_examples=1)]
    assert is_behind(tiny, [*leader[:2], replace(leader[2], num_examples=1)], 2.0)
