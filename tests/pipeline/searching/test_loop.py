"""The loop over rounds that are made up: where trials start, what they share, what is told of them."""

import tomllib
from dataclasses import dataclass, replace

import numpy as np
import pytest
from safetensors.numpy import load

from device_runtime.vectors import write_vector
from device_runtime.wire import SPLITS
from pipeline.compile.artifact import initial_parameters
from pipeline.coordinator.blobs import BlobFolder
from pipeline.coordinator.plans import Run
from pipeline.coordinator.rounds import RoundResult
from pipeline.coordinator.store import Store
from pipeline.digits import SPEC
from pipeline.run_sections import RunFile
from pipeline.searching.artifacts import Artifacts
from pipeline.searching.loop import NOT_ASKED, Curves, Search, Unwatched
from pipeline.searching.trials import RoundFailedError, Trainer
from search.algorithm import NoWinnerError
from search.architecture import Architecture, Stem
from search.candidate import Candidate, HyperParameters, Trial
from search.slicing import inherit
from tests.pipeline.searching.conftest import ORDINARY

WIDE = Architecture((1, 8, 8), 10, Stem(4, 3, 3), head="global_average")
NARROW = replace(WIDE, stem=Stem(2, 3, 3))
HYPER = HyperParameters(0.1, local_epochs=1, batch_size=16)


@dataclass(frozen=True)
class Told:
    """Steps that were taken, and what was told of their trials."""

    step: int = 0
    accuracies: tuple[float, ...] = ()
    failed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listed:
    """Asks for steps that were written down before."""

    steps: tuple[tuple[Trial, ...], ...]
    state_type = Told

    def init(self, seed):
        return Told()

    def ask(self, state, count):
        return self.steps[state.step] if state.step < len(self.steps) else ()

    def tell(self, state, observations):
        accuracies = tuple(one.accuracy for one in observations)
        failed = tuple(one.failed for one in observations)
        return Told(state.step + 1, state.accuracies + accuracies, state.failed + failed)


class Choosy(Listed):
    """Ships the last trial, where it was scored."""

    def winners(self, state, observations):
        if observations[-1].failed:
            raise NoWinnerError("no network was scored")
        return {"": observations[-1].trial.index}


class MadeUpRounds:
    """Moves every parameter of a trial by one number a round, over a number of examples; others fail."""

    def __init__(self, folder, moves):
        self.store, self.blobs, self.run = Store("sqlite://"), BlobFolder(folder), Run("run", "emulated", "spec", 0)
        with self.store.transaction():
            self.store.add_run(self.run)
        self._moves, self.plans = moves, []

    def hold_all(self, plans):
        self.plans += plans
        return [self._hold(plan) for plan in plans]

    def started_from(self, trial):
        """Parameters f32[P] that a trial's first round began with."""
        return self._parameters(next(plan for plan in self.plans if plan.trial == trial))

    def _parameters(self, plan):
        return load(self.blobs.get(plan.parameters_sha256))["parameters"]

    def _hold(self, plan):
        if plan.kind == "evaluate":
            return RoundResult("r", "closed", 3, 10, metric_sums={"accuracy": 5.0 + plan.trial})
        if plan.trial not in self._moves:
            return RoundResult("r", "failed", reason="nobody came")
        move, num_examples = self._moves[plan.trial]
        values = np.full(len(self._parameters(plan)), move, np.float32)
        sha256 = self.blobs.put(write_vector("parameter_update", values))
        return RoundResult("r", "closed", 3, num_examples, aggregate_sha256=sha256)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    return Artifacts(tmp_path_factory.mktemp("artifacts"), SPEC, 16)


@pytest.fixture
def search(artifacts, tmp_path):
    """Run steps of trials; gives the search and its progress."""

    def run(*steps, algorithm=Listed, **moves):
        made = make(algorithm(steps), **moves)
        return made, made.run()

    def make(algorithm, **moves):
        run_file = RunFile.model_validate(tomllib.loads(ORDINARY))
        rounds = MadeUpRounds(tmp_path / "blobs", {int(name[1:]): move for name, move in moves.items()})
        trainer = Trainer(run_file, rounds, artifacts, dict.fromkeys(SPLITS, 6), {}, 0, lambda *_: None)
        return Search(algorithm, trainer, 3, 4, Unwatched(), Curves(None))

    run.make = make
    return run


def trial(index, architecture=WIDE, rounds=1, **changes):
    return Trial(index, Candidate(architecture, HYPER), rounds, **changes)


def weights(search, progress, index):
    return search.model_of(progress, index).parameters


def test_a_trial_of_the_same_network_starts_from_the_weights_as_they_are(search):
    made, progress = search((trial(0),), (trial(1, rounds=2, start_from=0),), t0=(0.5, 9), t1=(0.25, 9))
    fresh = initial_parameters(WIDE, 3)
    assert np.array_equal(made.trainer.rounds.started_from(0), fresh)
    assert np.array_equal(made.trainer.rounds.started_from(1), fresh + np.float32(0.5))
    assert np.array_equal(weights(made, progress, 1), fresh + np.float32(0.5) + np.float32(0.25) + np.float32(0.25))


def test_a_trial_of_a_smaller_network_inherits_the_strongest_filters(search):
    made, progress = search((trial(0),), (trial(1, NARROW, start_from=0),), t0=(0.5, 9), t1=(0.25, 9))
    large = weights(made, progress, 0)
    started = made.trainer.rounds.started_from(1)
    assert np.array_equal(started, inherit(WIDE, large, NARROW, "strongest"))
    filters = large[: 4 * 9].reshape(4, 9)
    strongest = sorted(np.argsort(-np.linalg.norm(filters, axis=1))[:2])
    assert np.array_equal(started[: 2 * 9].reshape(2, 9), filters[strongest])


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


def test_trials_of_two_supernets_are_refused(search):
    step = (trial(0, WIDE, supernet=WIDE), trial(1, NARROW, supernet=NARROW))
    with pytest.raises(ValueError, match="share the weights of one supernet"):
        search(step, t0=(1.0, 30), t1=(1.0, 30))


def test_a_trial_without_rounds_is_scored_as_it_is(search):
    made, progress = search((trial(0),), (trial(1, rounds=0, start_from=0),), t0=(0.5, 9))
    assert [plan.kind for plan in made.trainer.rounds.plans if plan.trial == 1] == ["evaluate"]
    assert progress.observations[1].accuracy == pytest.approx(0.6)
    assert np.array_equal(weights(made, progress, 1), weights(made, progress, 0))


def test_a_trial_that_asks_for_no_score_is_trained_and_costs_no_evaluation(search):
    made, progress = search((trial(0, is_scored=False), trial(1)), t0=(0.5, 9), t1=(0.5, 9))
    assert {plan.trial for plan in made.trainer.rounds.plans if plan.kind == "evaluate"} == {1}
    assert [one.failed for one in progress.observations] == [NOT_ASKED, ""]
    assert np.array_equal(weights(made, progress, 0), weights(made, progress, 1))


def test_a_trial_that_fails_is_told_as_failed_and_the_search_goes_on(search):
    made, progress = search((trial(0), trial(1)), (trial(2, start_from=0),), t1=(0.5, 9), t2=(0.25, 9))
    lost, scored, later = progress.observations
    assert not lost.is_scored
    assert "round search/0/train/0 failed 3 times" in lost.failed
    assert (scored.accuracy, scored.num_examples) == (pytest.approx(0.6), 10)
    assert later.is_scored
    assert np.array_equal(made.trainer.rounds.started_from(2), initial_parameters(WIDE, 3))  # it learnt nothing
    assert progress.state["failed"] == [lost.failed, "", ""]


def test_a_step_whose_failures_leave_no_network_is_tried_again_when_the_search_goes_on(search):
    made = search.make(Choosy(((trial(0),), (trial(1),))), t0=(1.0, 10))
    with pytest.raises(RoundFailedError, match=r"no network was scored: .*nobody came"):
        made.run()
    made.trainer.rounds._moves[1] = (1.0, 10)  # now they come
    progress = made.run()
    assert [one.failed for one in progress.observations] == ["", ""]
    assert made.winners(progress) == {"": 1}


def test_a_failure_that_leaves_a_network_ends_nothing(search):
    failing = (trial(0),), (trial(1), trial(2))
    made, progress = search(*failing, algorithm=Choosy, t0=(1.0, 10), t2=(1.0, 10))
    assert [bool(one.failed) for one in progress.observations] == [False, True, False]
    assert made.winners(progress) == {"": 2}
