"""Weights that trials share: what goes back, the server's step along it, and what a killed search remembers."""

from dataclasses import replace

import numpy as np
import pytest

from device_runtime.segments import positions_of
from device_runtime.terms import ARCHITECTURE
from pipeline.compile.artifact import initial_parameters
from search.candidate import NOT_ASKED
from search.slicing import places
from tests.pipeline.searching.conftest import KilledError
from tests.pipeline.searching.made_up import HYPER, NARROW, SUPERNET, WIDE, Listed, learning, named, trial, weights


def test_what_trials_of_a_supernet_learn_goes_back_as_the_mean_where_they_overlap(search):
    step = (trial(0, WIDE, supernet=WIDE), trial(1, NARROW, supernet=WIDE))
    made, _ = search(step, (trial(2, WIDE, supernet=WIDE),), t0=(1.0, 30), t1=(4.0, 10), t2=(0.0, 1))
    fresh = initial_parameters(WIDE, 3)
    assert np.array_equal(made.trainer.rounds.started_from(0), fresh)
    moved = made.trainer.rounds.started_from(2) - fresh
    both, wide_alone = (30 * 1.0 + 10 * 4.0) / 40, 1.0
    kernels, biases, classifier = moved[: 4 * 9].reshape(4, 9), moved[36:40], moved[40:80].reshape(10, 4)
    for filters in (kernels, biases[:, None], classifier.T):
        assert np.allclose(filters[:2], both, atol=1e-6)
        assert np.allclose(filters[2:], wide_alone, atol=1e-6)
    assert np.allclose(moved[80:], both, atol=1e-6)  # biases of the classes, which both have


def test_a_trial_of_a_supernet_that_fails_changes_no_shared_weight(search):
    step = (trial(0, WIDE, supernet=WIDE), trial(1, NARROW, supernet=WIDE))
    made, progress = search(step, (trial(2, WIDE, supernet=WIDE),), t0=(1.0, 30), t2=(0.0, 1))
    assert np.allclose(made.trainer.rounds.started_from(2), initial_parameters(WIDE, 3) + 1, atol=1e-6)
    assert "nobody came" in progress.observations[1].failed


def test_each_supernet_has_shared_weights_of_its_own(search):
    steps = (learning(0, WIDE), learning(1, NARROW)), (learning(2, NARROW),), (named(3, WIDE), named(4, NARROW))
    made, progress = search(*steps, t0=(1.0, 30), t1=(0.5, 10), t2=(0.25, 10))
    assert np.allclose(weights(made, progress, 3), initial_parameters(WIDE, 3) + 1, atol=1e-6)
    assert np.allclose(weights(made, progress, 4), initial_parameters(NARROW, 3) + 0.75, atol=1e-6)


def test_what_a_trial_learns_that_is_not_kept_changes_no_shared_weight(search):
    steps = (learning(0, is_kept=False), learning(1)), (learning(2, is_kept=False),), (named(3),)
    made, progress = search(*steps, t0=(9.0, 30), t1=(0.5, 10), t2=(9.0, 10))
    assert np.allclose(weights(made, progress, 3), initial_parameters(WIDE, 3) + 0.5, atol=1e-6)


MOMENTUM = replace(HYPER, server_momentum=0.5, server_learning_rate=2.0)
ADAM = replace(HYPER, server_momentum=0.9, server_learning_rate=0.1, server_beta2=0.5, server_epsilon=1.0)


@pytest.mark.parametrize(
    ("hyper", "moved"),
    [
        # v = 1, then 0.5 * 1 + 2; two times each.
        (MOMENTUM, 2 * 1.0 + 2 * 2.5),
        # m = 0.1, then 0.29; v = 0.5 * 1 + 0.5 * 1, then 0.5 * 1 + 0.5 * 4.
        (ADAM, 0.1 * 0.1 / (1 + 1) + 0.1 * 0.29 / (2.5**0.5 + 1)),
    ],
    ids=["momentum", "adam"],
)
def test_the_servers_optimiser_takes_one_step_along_the_mean_and_remembers_the_steps_before(search, hyper, moved):
    first = learning(0, hyper=hyper), learning(1, hyper=hyper)
    made, progress = search(first, (learning(2, hyper=hyper),), (named(3),), t0=(0.5, 30), t1=(2.5, 10), t2=(2.0, 5))
    assert np.allclose(weights(made, progress, 3) - initial_parameters(WIDE, 3), moved, atol=1e-6)


@pytest.mark.parametrize(("hyper", "killed_after"), [(MOMENTUM, 1), (MOMENTUM, 3), (ADAM, 2)])
def test_a_search_goes_on_from_its_last_step_with_the_weights_and_the_servers_memory(search, hyper, killed_after):
    steps = [(learning(i, hyper=hyper),) for i in range(4)]
    steps.append((named(4),))
    moves = {f"t{i}": (0.5 + i, 10) for i in range(4)}
    made = search.make(Listed(tuple(steps)), **moves)
    begun = search.make(Listed(tuple(steps)), folder="killed", **moves)
    hold_all = begun.trainer.rounds.hold_all

    def killing(plans):
        if plans[0].trial == killed_after:
            raise KilledError
        return hold_all(plans)

    begun.trainer.rounds.hold_all = killing
    with pytest.raises(KilledError):
        begun.run()
    begun.trainer.rounds.store.close()
    resumed = search.make(Listed(tuple(steps)), folder="killed", **moves)
    progress, expected = resumed.run(), made.run()
    assert progress == expected
    assert [plan.trial for plan in resumed.trainer.rounds.plans] == list(range(killed_after, 4))
    assert np.array_equal(weights(resumed, progress, 4), weights(made, expected, 4))


def test_trials_side_by_side_are_one_step_of_one_server(search):
    with pytest.raises(ValueError, match="trial 1 must have the server's hyper-parameters of those before it"):
        search((learning(0), learning(1, hyper=MOMENTUM)), t0=(1.0, 30), t1=(1.0, 30))


def test_a_supernet_keeps_the_kind_of_optimiser_that_it_began_with(search):
    with pytest.raises(ValueError, match=r"which carries \[2, 0\] vectors, got \[1, 0\]"):
        search((learning(0),), (learning(1, hyper=ADAM),), t0=(1.0, 30), t1=(1.0, 30))


def test_a_trial_that_names_a_network_asks_nobody_and_has_its_supernets_weights(search):
    made, progress = search((learning(0),), (named(1, is_kept=True),), t0=(0.5, 9))
    assert [plan.trial for plan in made.trainer.rounds.plans] == [0]
    name = progress.observations[1]
    assert (name.failed, name.bytes_up, name.client_seconds) == (NOT_ASKED, 0, 0)
    assert np.allclose(weights(made, progress, 1), initial_parameters(WIDE, 3) + 0.5, atol=1e-6)


def test_a_trial_whose_training_is_its_supernets_has_no_weights_of_its_own(search):
    made, progress = search((learning(0), trial(1, supernet=WIDE)), t0=(0.5, 9), t1=(1.5, 27))
    assert np.allclose(weights(made, progress, 1), initial_parameters(WIDE, 3) + 1.5, atol=1e-6)
    with pytest.raises(ValueError, match="trial 0 has no weights of its own: they were its supernet's"):
        weights(made, progress, 0)


def test_a_trial_of_merged_weights_starts_from_the_mean_of_those_that_hold_each(search):
    merged = trial(2, NARROW, 2, supernet=WIDE, merged=((0, 3.0), (1, 1.0)), is_kept=False, is_scored=False)
    later = trial(3, WIDE, 0, supernet=WIDE, merged=((2, 1.0),))
    made, progress = search(
        (trial(0, WIDE), trial(1, NARROW)), (merged,), (later,), t0=(1.0, 9), t1=(5.0, 9), t2=(0.5, 9)
    )
    wide, narrow = initial_parameters(WIDE, 3) + 1, initial_parameters(NARROW, 3) + 5
    inside = places(WIDE, NARROW, "first")
    assert np.allclose(made.trainer.rounds.started_from(2), (3 * wide[inside] + narrow) / 4, atol=1e-6)
    expected = initial_parameters(WIDE, 3)  # where the narrow network holds nothing
    expected[inside] = weights(made, progress, 2)
    assert np.array_equal(weights(made, progress, 3), expected)
    assert np.allclose(weights(made, progress, 2), (3 * wide[inside] + narrow) / 4 + 1, atol=1e-6)


STEPPING = replace(MOMENTUM, architecture_learning_rate=0.1, server_learning_rate=1.0)


def test_what_moves_is_stepped_and_the_rest_stays_with_its_momentum(search, artifacts):
    """Weights, then architecture weights, then both: half of the last own step comes again."""
    steps = [
        (learning(0, SUPERNET, hyper=STEPPING, moves="weights"),),
        (learning(1, SUPERNET, hyper=STEPPING, moves="architecture"),),
        (learning(2, SUPERNET, hyper=STEPPING, moves="alternate"),),
        (named(3, SUPERNET),),
    ]
    made, progress = search(*steps, t0=(1.0, 9), t1=(2.0, 9), t2=(4.0, 9))
    moved = weights(made, progress, 3) - initial_parameters(SUPERNET, 3)
    chosen = np.zeros(len(moved), bool)
    chosen[positions_of(artifacts.get(SUPERNET).manifest, {ARCHITECTURE})] = True
    assert chosen.sum() == 4
    assert np.allclose(moved[~chosen], 1 + (0.5 * 1 + 4), atol=1e-6)
    assert np.allclose(moved[chosen], 2 + (0.5 * 2 + 4), atol=1e-6)


def test_an_observation_tells_the_architecture_weights_after_its_step(search):
    hyper = replace(HYPER, architecture_learning_rate=0.1)
    explored = learning(1, SUPERNET, hyper=hyper, is_kept=False)
    steps = (learning(0, SUPERNET, hyper=hyper), explored), (learning(2, SUPERNET, moves="weights"),), (trial(3),)
    _, progress = search(*steps, t0=(0.5, 9), t1=(7.0, 9), t2=(7.0, 9), t3=(1.0, 9))
    found = [one.architecture_weights for one in progress.observations]
    assert found == [(0.5,) * 4, (0.5,) * 4, (0.5,) * 4, ()]
