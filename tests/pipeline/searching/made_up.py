"""Searches whose steps were written down before, over rounds that are made up."""

from dataclasses import dataclass, replace

import numpy as np
from safetensors.numpy import load

from device_runtime.segments import num_moving
from device_runtime.specs import Manifest
from device_runtime.vectors import write_vector
from pipeline.coordinator.blobs import BlobFolder
from pipeline.coordinator.plans import Run
from pipeline.coordinator.rounds import RoundResult
from pipeline.coordinator.store import Store
from pipeline.searching.rounds import RunClient
from profiles.records import decode_record
from search.algorithm import NoWinnerError
from search.architecture import Architecture, Cell, Edge, Stage, Stem
from search.candidate import Candidate, HyperParameters, Trial

HALVES = ("skip", "conv_1")
MIXED = Cell(((Edge(0, HALVES), Edge(1, HALVES)),))
SUPERNET = Architecture((1, 8, 8), 10, Stem(2, 3, 3), (Stage("cell", 2, cell=MIXED),), head="global_average")
WIDE = Architecture((1, 8, 8), 10, Stem(4, 3, 3), head="global_average")
NARROW = replace(WIDE, stem=Stem(2, 3, 3))
CLIENTS = {
    "a": RunClient("a", {"train": 9, "validation": 4, "test": 3}),
    "b": RunClient("b", {"train": 9, "validation": 0, "test": 3}),
}
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
    """Moves every parameter that a trial moves by one number a round, over a number of examples; others fail.

    Rewards are 3.0 in sum over 4 examples.
    """

    def __init__(self, folder, moves):
        folder.mkdir(exist_ok=True)
        self.store, self.blobs = Store(f"sqlite:///{folder / 'handheld.db'}", "OFF"), BlobFolder(folder / "blobs")
        self.run = Run("run", "emulated", "spec", 0)
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
        size = num_moving(decode_record(Manifest, self.blobs.get(plan.artifact_id)), plan.train.moves)
        sha256 = self.blobs.put(write_vector("parameter_update", np.full(size, move, np.float32)))
        result = RoundResult("r", "closed", 3, num_examples, aggregate_sha256=sha256)
        if plan.train.reward is None:
            return result
        return replace(result, metric_sums={plan.train.reward.release: 3.0}, num_scored=4)


def trial(index, architecture=WIDE, rounds=1, hyper=HYPER, **changes):
    return Trial(index, Candidate(architecture, hyper), rounds, **changes)


def learning(index, supernet=WIDE, **changes):
    """A trial that trains a supernet as a whole, and that nobody scores."""
    return trial(index, supernet, supernet=supernet, is_scored=False, **changes)


def named(index, supernet=WIDE, **changes):
    """A trial that asks nobody: it names a network, with the weights that its supernet has."""
    return trial(index, supernet, 0, supernet=supernet, is_scored=False, **changes)


def weights(search, progress, index):
    return search.model_of(progress, index).parameters
