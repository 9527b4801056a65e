"""What a search knows, kept after every step: a record a step, so that saving takes no longer as it goes on."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipeline.coordinator.store import Store
from pipeline.run_result import CurvePoint
from pipeline.searching.sharing import KeptWeights
from profiles.records import from_plain
from search.candidate import Observation

_STATE = "search"  # key of the run's record


@dataclass(frozen=True)
class Step:
    """What one step added.

    Attributes:
        observations: Of its trials, in the order of their indices.
        weights: sha256 of each trial's parameters, in the same order; empty of one whose training went into shared
            weights and that nobody scored.
        curve: What the emulator knows of the trials' exact accuracies.
    """

    observations: tuple[Observation, ...]
    weights: tuple[str, ...]
    curve: tuple[CurvePoint, ...] = ()


@dataclass(frozen=True)
class Progress:
    """What a search knows so far.

    Attributes:
        state: Of the algorithm, as plain data.
        shared: The weights that trials share, by the id of their supernet's architecture.
    """

    state: Any
    steps: tuple[Step, ...] = ()
    shared: dict[str, KeptWeights] = field(default_factory=dict)
    is_over: bool = False

    @cached_property
    def observations(self) -> tuple[Observation, ...]:
        """Of all trials, in the order of their indices."""
        return tuple(one for step in self.steps for one in step.observations)

    @cached_property
    def weights(self) -> tuple[str, ...]:
        """As of a step, of all trials."""
        return tuple(one for step in self.steps for one in step.weights)

    @property
    def curve(self) -> tuple[CurvePoint, ...]:
        """As of a step, of all trials."""
        return tuple(point for step in self.steps for point in step.curve)


@dataclass(frozen=True)
class _Kept:
    """The record that tells how many steps there are, beside them."""

    state: Any
    shared: dict[str, KeptWeights]
    num_steps: int


def save_step(store: Store, run_id: str, progress: Progress) -> None:
    """Keep a progress whose last step is new, all or nothing; opens its own transaction."""
    num_steps = len(progress.steps)
    with store.transaction():
        store.put_record(run_id, f"{_STATE}/{num_steps - 1}", progress.steps[-1])
        store.put_record(run_id, _STATE, _Kept(progress.state, progress.shared, num_steps))


def load_progress(store: Store, run_id: str) -> Progress | None:
    """What was kept last; None before the first step. Opens its own transaction."""
    with store.transaction():
        found = store.get_record(run_id, _STATE)
        if found is None:
            return None
        kept = from_plain(_Kept, found)
        steps = [store.get_record(run_id, f"{_STATE}/{i}") for i in range(kept.num_steps)]
    return Progress(kept.state, tuple(from_plain(Step, step) for step in steps), kept.shared)
