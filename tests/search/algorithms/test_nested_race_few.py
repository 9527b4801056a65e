"""Platforms with too few clients for a race: what they ship, and who is told."""

from dataclasses import replace

import pytest

from search.algorithms import NestedRace
from search.algorithms.nested_race_entrants import entrants
from search.budget import Feasibility, Limits
from search.candidate import NOT_ASKED, Observation
from search.clients import Client
from tests.search.conftest import ONE_NETWORK

LIMITS = {"default": Limits(size_kib=6.0), "entry": Limits(size_kib=3.0)}


@pytest.fixture
def make_search(make_profile):
    """Races of platforms of device classes, each with so many clients of its own."""

    def make(clients=(), num_entrants=3, rounds=4, **nums):
        phones = tuple(make_profile(f"{name} phone", name, 0.01) for name in nums)
        own = tuple(Client(f"{name} {i}", 10 + i, f"{name} phone") for name, num in nums.items() for i in range(num))
        return NestedRace(ONE_NETWORK, Feasibility(phones, LIMITS, 8), own + clients, num_entrants, rounds)

    return make


def run(search):
    """The state at the end, and all trials by index."""
    state, asked = search.init(0), []
    while trials := search.ask(state, 100):
        asked += trials
        state = search.tell(
            state,
            [Observation(one, 0.5, num_examples=50, failed="" if one.is_scored else NOT_ASKED) for one in trials],
        )
        assert len(asked) < 100
    return state, asked


@pytest.mark.parametrize("num_few", [0, 1, 2])
def test_a_platform_with_few_clients_ships_its_favourite_as_the_others_left_it_and_asks_nobody(make_search, num_few):
    search = make_search(mid=6, entry=num_few)
    state, asked = run(search)
    winners = search.winners(state, ())
    shipped = asked[winners["entry phone"]]
    assert shipped.candidate.architecture == entrants(ONE_NETWORK, search.feasibility.platforms["entry phone"], 1)[0]
    assert (shipped.rounds, shipped.clients, shipped.is_scored) == (0, None, False)
    assert shipped.supernet == ONE_NETWORK.largest()
    assert shipped.index > max(trial.index for trial in asked if trial.rounds)  # nobody trains after it
    assert [trial for trial in asked if trial.clients is None] == [shipped]
    assert {name.split()[0] for trial in asked if trial.clients for name in trial.clients} == {"mid"}


def test_where_a_race_has_the_favourite_of_a_platform_with_few_clients_both_ship_what_was_scored(make_search):
    search = make_search(mid=6, high=1)  # of the same limits
    state, asked = run(search)
    favourites = [one for one in asked if one.candidate.architecture == state.races["high phone"][0].network]
    assert not favourites[-1].is_scored
    winners = search.winners(state, ())
    assert asked[winners["mid phone"]].is_scored
    assert winners["high phone"] == winners["mid phone"]


def test_the_races_of_the_others_are_as_they_are_alone(make_search):
    _, alone = run(make_search(mid=6))
    _, beside = run(make_search(mid=6, entry=2))
    assert [replace(trial, index=0) for trial in beside if trial.clients] == [replace(one, index=0) for one in alone]


def test_who_has_no_race_is_told(make_search):
    assert make_search(mid=3, entry=3).warnings == ()
    (warning,) = make_search(mid=3, entry=2, high=0).warnings
    assert warning.startswith("no race for entry phone, high phone: fewer than 3 clients each, so nobody could refute")
    assert warning.endswith("the search left it the weights that the other platforms' phones trained")
    (warning,) = make_search(mid=2, entry=1).warnings
    assert warning.endswith("the search left it weights that nobody trained")


def test_where_no_platform_has_a_race_each_ships_what_computes_most(make_search):
    search = make_search(mid=2, entry=1)
    state, asked = run(search)
    assert [(trial.rounds, trial.clients) for trial in asked] == [(0, None)] * 2
    assert search.winners(state, ()) == {"mid phone": 0, "entry phone": 1}


def test_with_one_entrant_a_platform_without_clients_has_no_score(make_search):
    search = make_search(mid=1, entry=0, num_entrants=1)
    state, asked = run(search)
    assert [(trial.is_scored, trial.clients) for trial in asked] == [(True, ("mid 0",)), (False, None)]
    assert search.winners(state, ()) == {"mid phone": 0, "entry phone": 1}
    assert search.warnings[0].startswith("no race for entry phone: no client, so")


def test_of_the_same_network_on_two_platforms_the_one_that_was_scored_ships(make_search):
    search = make_search(high=1, mid=6)  # of the same limits
    state, asked = run(search)
    (shipped,) = set(search.winners(state, ()).values())
    assert asked[shipped].is_scored


def test_clients_of_a_class_that_is_no_platforms_take_no_part_and_those_of_none_any(make_search):
    strangers = (Client("stranger", 10, "", "high"), Client("unknown", 10))
    _, asked = run(make_search(strangers, mid=5))
    names = {name for trial in asked for name in trial.clients}
    assert names == {f"mid {i}" for i in range(5)} | {"unknown"}
