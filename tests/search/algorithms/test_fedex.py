"""FedEx by hand: its step on the distribution, who trains with what, and the orders that are its controls."""

from collections import Counter
from dataclasses import replace
from math import log, sqrt

import numpy as np
import pytest

from search.algorithms import FedEx
from search.algorithms.configurations import entropy_of, softmax
from search.algorithms.fedex import Told, _probabilities
from search.budget import Feasibility
from search.candidate import NOT_ASKED, HyperParameters, Observation
from search.cells import found_network
from search.clients import Client

FREE = Feasibility((), {}, 8)
CLIENTS = tuple(Client(f"client {i}", 10) for i in range(12))
WEIGHTS = tuple(i % 7 / 7 for i in range(50))
DEFAULT = HyperParameters(0.025, local_steps=1, architecture_learning_rate=0.003)


def play(search, loss, seed=0):
    state, rounds, states = search.init(seed), [], [search.init(seed)]
    while trials := search.ask(state, 100):
        told = [
            Observation(
                trial,
                0.5,
                metrics={"loss": loss(trial.candidate.hyper_parameters.learning_rate)} if trial.reward else {},
                num_rewarded=len(trial.clients or ()),
                architecture_weights=WEIGHTS if trial.candidate.architecture.is_supernet else (),
                failed="" if trial.is_scored else NOT_ASKED,
            )
            for trial in trials
        ]
        state = search.tell(state, told)
        rounds.append(trials)
        states.append(state)
    return rounds, states


def test_one_step_of_the_distribution_is_the_exponentiated_gradient_of_the_paper(cell_space):
    search = FedEx(cell_space, FREE, CLIENTS, rounds=2, num_configurations=3)
    state = replace(search.init(0), told=(Told(0, 2.0, 30), Told(2, 1.0, 10)), baseline=3.0, baseline_weight=2.0)
    after = search._tuned(state)
    # shares 3/4 and 1/4 of the examples, baseline 1.5, probabilities 1/3: gradients 9/8, 0 and -3/8, over the largest
    logits = -sqrt(2 * log(3)) * np.array([1.0, 0.0, -1 / 3])
    assert after.logits == pytest.approx(logits - logits.max())
    assert (after.baseline, after.baseline_weight) == (pytest.approx(0.9 * 3.0 + 1.75), pytest.approx(0.9 * 2 + 1))


def test_what_was_drawn_rarely_moves_the_distribution_the_more(cell_space):
    search = FedEx(cell_space, FREE, CLIENTS, rounds=2, num_configurations=3)
    told = (Told(0, 2.0, 10), Told(1, 2.0, 10), Told(2, 1.0, 10))
    after = search._tuned(replace(search.init(0), logits=(0.0, -2.0, -3.0), told=told))
    # Probabilities e^0, e^-2 and e^-3 over 1.185122: 0.843795, 0.114195, 0.042010; baseline (2 + 2 + 1) / 3 = 5/3.
    # Gradients 1/3 * (loss - 5/3) / probability: 1/9 / 0.843795 = 0.131680, 1/9 / 0.114195 = 0.972993 and
    # -2/9 / 0.042010 = -5.289738; over the largest 0.024894, 0.183940 and -1; times the step sqrt(2 ln 3) = 1.482304:
    # 0.036900, 0.272655 and -1.482304. Logits less these: -0.036900, -2.272655, -1.517696; less the largest of them:
    assert after.logits == pytest.approx((0.0, -2.235755, -1.480796), abs=2e-6)


def test_a_configuration_that_nobody_could_train_with_loses_as_the_worst_does(cell_space):
    search = FedEx(cell_space, FREE, CLIENTS, rounds=2, num_configurations=3)
    after = search._tuned(replace(search.init(0), told=(Told(0, None, 0), Told(1, 3.0, 5), Told(2, 1.0, 5))))
    assert after.logits[2] == max(after.logits)
    assert after.logits[0] < after.logits[2]
    nothing = search.init(0)
    assert search._tuned(replace(nothing, told=(Told(0, None, 0),))).logits == nothing.logits


def test_every_client_trains_once_a_round_with_a_configuration_of_its_own_and_nothing_is_thrown_away(cell_space):
    rounds, states = play(FedEx(cell_space, FREE, CLIENTS, rounds=3, num_configurations=4), lambda rate: rate)
    for trials in rounds[:-1]:
        assert Counter(name for trial in trials for name in trial.clients) == Counter(one.name for one in CLIENTS)
        assert all(t.is_kept and t.reward == "loss" and t.moves == "alternate" for t in trials)
        assert len({t.candidate.hyper_parameters for t in trials}) == len(trials) <= 4
    (named,) = rounds[-1]
    assert named.candidate.architecture == found_network(cell_space, WEIGHTS)
    assert (named.rounds, named.supernet) == (0, cell_space.supernet())
    assert len(states[-1].history) == 3


def test_the_distribution_settles_on_what_loses_least_and_then_only_that_is_drawn(cell_space):
    search = FedEx(cell_space, FREE, CLIENTS, rounds=40, num_configurations=3)
    rounds, states = play(search, lambda rate: abs(rate - 0.3))
    best = min(search.configurations(states[0]), key=lambda one: abs(one.learning_rate - 0.3))
    assert rounds[-1][0].candidate.hyper_parameters.learning_rate == best.learning_rate
    assert [len(trials) for trials in rounds[-5:]] == [1] * 5
    assert _probabilities((0.0, -20.0, -30.0)).tolist() == [1.0, 0.0, 0.0]


def test_a_settled_distribution_stays_and_asks_for_no_loss_any_more(cell_space):
    search = FedEx(cell_space, FREE, CLIENTS, rounds=60, num_configurations=3)
    rounds, states = play(search, lambda rate: abs(rate - 0.3))
    settled = next(i for i, state in enumerate(states) if entropy_of(softmax(np.array(state.logits))) <= 1e-4)
    assert 0 < settled < 58
    for trials in rounds[settled:-1]:
        (trial,) = trials
        assert (trial.reward, trial.is_kept, len(trial.clients)) == (None, True, len(CLIENTS))
        assert trial.candidate.hyper_parameters == rounds[settled][0].candidate.hyper_parameters
    assert {state.logits for state in states[settled:]} == {states[settled].logits}
    assert all(trial.reward == "loss" for trials in rounds[:settled] for trial in trials)
    late = replace(states[settled], told=(Told(0, 9.0, 120),))
    assert search._tuned(late) == late


def test_the_first_rounds_baseline_is_its_own_mean(cell_space):
    search = FedEx(cell_space, FREE, CLIENTS, rounds=2, num_configurations=3)
    after = search._tuned(replace(search.init(0), told=(Told(0, 3.0, 10), Told(1, 1.0, 10), Told(2, 2.0, 10))))
    assert after.logits == pytest.approx((-2 * sqrt(2 * log(3)), 0.0, -sqrt(2 * log(3))))
    assert (after.baseline, after.baseline_weight) == (2.0, 1.0)


def test_orders_differ_in_what_trains_when_and_with_which_configuration(cell_space):
    supernet, found = cell_space.supernet(), found_network(cell_space, WEIGHTS)

    def what(order, rounds=4):
        search = FedEx(cell_space, FREE, CLIENTS, rounds, 5, order, DEFAULT)
        played, _ = play(search, lambda rate: rate)
        kinds = []
        for trials in played[:-1]:
            network = trials[0].candidate.architecture
            name = {supernet: "supernet", found: "found"}.get(network, "drawn")
            hyper = trials[0].candidate.hyper_parameters
            trained = "default" if hyper == DEFAULT else "tuned" if trials[0].reward else "best"
            kinds.append((name, trials[0].moves, trained))
        return kinds, played

    assert what("nas_then_tuning")[0] == [("supernet", "alternate", "default")] * 2 + [("found", "all", "tuned")] * 2
    kinds, played = what("tuning_then_nas")
    assert kinds == [("supernet", "weights", "tuned")] * 2 + [("supernet", "alternate", "best")] * 2
    assert played[0][0].candidate.hyper_parameters.architecture_learning_rate is None
    assert played[2][0].candidate.hyper_parameters.architecture_learning_rate == 0.1
    kinds, played = what("nas")
    assert kinds == [("supernet", "alternate", "default")] * 4
    assert played[-1][0].candidate.hyper_parameters.learning_rate == DEFAULT.learning_rate
    kinds, played = what("tuning")
    assert {kind[1:] for kind in kinds} == {("all", "tuned")}
    networks = {trial.candidate.architecture for trials in played for trial in trials}
    assert len(networks) == 1
    assert played[0][0].candidate in cell_space or not next(iter(networks)).is_supernet


def test_the_tuned_network_of_nas_then_tuning_starts_from_weights_of_its_own(cell_space):
    search = FedEx(cell_space, FREE, CLIENTS, 2, 3, "nas_then_tuning", DEFAULT)
    rounds, _ = play(search, lambda rate: rate)
    assert {trial.supernet for trial in rounds[1]} == {found_network(cell_space, WEIGHTS)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rounds": 1, "order": "tuning_then_nas"}, "rounds must be >= 2 for order 'tuning_then_nas', got 1"),
        ({"clients": ()}, "clients must be >= 1, got 0: wait for some"),
        ({"num_configurations": 0}, "num_configurations must be >= 1, got 0"),
        ({"order": "nas"}, "order 'nas' trains with a default configuration: give one"),
    ],
)
def test_settings_are_refused_by_name(cell_space, settings, message):
    with pytest.raises(ValueError, match=message):
        FedEx(cell_space, FREE, **{"clients": CLIENTS, "rounds": 2, **settings})


def test_the_history_of_tuning_has_the_distribution_before_each_tuned_round_and_at_the_end(cell_space):
    search = FedEx(cell_space, FREE, CLIENTS, rounds=6, num_configurations=3, order="nas_then_tuning", default=DEFAULT)
    _, states = play(search, loss=lambda rate: rate)
    history = search.tuning_history(states[-1])
    assert history.labels == ("round 4", "round 5", "round 6", "end")
    assert history.configurations == search.configurations(states[-1])
    assert history.probabilities[0] == pytest.approx((1 / 3,) * 3)
    assert history.probabilities[-1] == pytest.approx(_probabilities(states[-1].logits))
    assert len(set(history.probabilities)) == 4
    assert all(sum(row) == pytest.approx(1) for row in history.probabilities)


def test_a_search_that_tunes_nothing_has_no_history_of_it(cell_space):
    search = FedEx(cell_space, FREE, CLIENTS, rounds=2, order="nas", default=DEFAULT)
    _, states = play(search, loss=lambda rate: rate)
    assert search.tuning_history(states[-1]) is None


def test_clients_draw_anew_in_every_round(cell_space):
    search = FedEx(cell_space, FREE, CLIENTS, rounds=2, num_configurations=4)
    state = search.init(0)
    draws = [search._drawn(replace(state, first_trial=index)) for index in range(3)]
    assert draws[0] == search._drawn(state)
    assert draws[0] != draws[1] != draws[2] != draws[0]


@pytest.mark.parametrize(("share", "tuned"), [(0.25, 2), (0.5, 4), (0.75, 6), (0.99, 7), (0.01, 1)])
@pytest.mark.parametrize("order", ["nas_then_tuning", "tuning_then_nas"])
def test_a_share_of_the_rounds_tunes(cell_space, order, share, tuned):
    search = FedEx(cell_space, FREE, CLIENTS, 8, 3, order, DEFAULT, "all", share)
    rounds, _ = play(search, lambda rate: rate)
    assert [bool(trials[0].reward) for trials in rounds[:-1]].count(True) == tuned
    assert bool(rounds[0][0].reward) == (order == "tuning_then_nas")
    assert {trials[0].moves for trials in rounds if not trials[0].reward} == {"all"}
