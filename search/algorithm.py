"""What every search algorithm is: init, ask and tell over an explicit state that is saved as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeVar, runtime_checkable

from profiles.records import decode_record, encode_record
from search.budget import Feasibility
from search.candidate import HyperParameters, Observation, Trial

S = TypeVar("S")
T_contra = TypeVar("T_contra", contravariant=True)


class SearchAlgorithm(Protocol[S]):
    """A search that never runs its trials: the loop asks, runs them all, tells once, and saves the state.

    Trials are numbered in the order asked for. A trial that the loop tells nothing of gives its number and its place
    among `num_trials` back, unless a later one was told; so a loop that records trials tells a lost one as failed.
    """

    @property
    def state_type(self) -> type[S]:
        """The record that states are saved as."""

    def init(self, seed: int) -> S:
        """Make the state of a search that has asked nothing."""

    def ask(self, state: S, count: int) -> tuple[Trial, ...]:
        """Propose at most `count` trials, the same for the same state; none when the search is over.

        Raises:
            InfeasibleError: When no candidate meets the limits.
        """

    def tell(self, state: S, observations: Sequence[Observation]) -> S:
        """Take what came of the last trials asked for: of all, some or none, in any order.

        A search that is over has asked for nothing: to be told of none leaves it over.

        Raises:
            ValueError: When a trial is told twice.
        """

    def winners(self, state: S, observations: Sequence[Observation]) -> dict[str, int]:
        """Index of the trial that each platform ships, by the name of its profile; over all trials of a search.

        A search without profiles has one platform, called "".

        Raises:
            NoWinnerError: When no scored trial meets a platform's limits.
        """


@dataclass(frozen=True)
class TuningHistory:
    """How a search that drew its configurations once came to favour some of them, for the report.

    Attributes:
        configurations: All K.
        probabilities: Of each configuration at each of R moments, R x K; the last is how it ended.
        labels: What to call the moments.
    """

    configurations: tuple[HyperParameters, ...]
    probabilities: tuple[tuple[float, ...], ...]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        shape, wanted = {len(row) for row in self.probabilities}, {len(self.configurations)}
        if shape != wanted or len(self.labels) != len(self.probabilities):
            raise ValueError(
                f"probabilities must have a row a label ({len(self.labels)}) and in each a number a configuration "
                f"({len(self.configurations)}), got {len(self.probabilities)} rows of {sorted(shape)}"
            )


@runtime_checkable
class TunedAlgorithm(Protocol[T_contra]):
    """A search algorithm that has a history of tuning to tell of."""

    def tuning_history(self, state: T_contra) -> TuningHistory | None:
        """What it came to favour; None where it tuned nothing."""


@runtime_checkable
class HasWarnings(Protocol):
    """A search algorithm that knows what whoever ships its networks should know."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the result."""


class NoWinnerError(ValueError):
    """A search ended without a network for one of its platforms."""


def most_accurate(feasibility: Feasibility, observations: Sequence[Observation]) -> dict[str, int]:
    """For each platform the trial with the highest accuracy within its limits, the earliest of equals.

    Raises:
        NoWinnerError: When no scored trial is within a platform's limits.
    """
    scored = [one for one in observations if one.is_scored]
    winners = {}
    for name, limits in (feasibility.platforms or {"": feasibility}).items():
        fitting = [one for one in scored if limits.is_feasible(one.trial.candidate.architecture)]
        if not fitting:
            raise NoWinnerError(
                f"none of the {len(scored)} scored trials meets the limits{' of ' + name if name else ''}: "
                "raise its budget, or search longer"
            )
        best = max(fitting, key=lambda one: (one.accuracy, -one.trial.index))
        winners[name] = best.trial.index
    return winners


def named_for_all(feasibility: Feasibility, trial: int | None) -> dict[str, int]:
    """The one trial that a search named for every platform.

    Raises:
        NoWinnerError: It has named none.
    """
    if trial is None:
        raise NoWinnerError("the search ended before a network was found: resume it")
    return dict.fromkeys(feasibility.platforms or ("",), trial)


def save_state(state: object) -> bytes:
    """Write a state as canonical JSON."""
    return encode_record(state)


def load_state(algorithm: SearchAlgorithm[S], data: bytes) -> S:
    """Read a state that `save_state` wrote.

    Raises:
        RecordError: When it is not a state of this algorithm.
    """
    return decode_record(algorithm.state_type, data)


def sort_told(observations: Sequence[Observation], num_told: int) -> tuple[Observation, ...]:
    """Put observations in the order of their trials, so that whoever came first changes nothing.

    Args:
        num_told: Trials below this index are over.

    Raises:
        ValueError: When a trial is told twice.
    """
    told = tuple(sorted(observations, key=lambda observation: observation.trial.index))
    indices = [observation.trial.index for observation in told]
    for before, index in pairwise([num_told - 1, *indices]):
        if index <= before:
            raise ValueError(f"a trial must be told once and before the next are asked for, got trial {index} again")
    return told


def next_index(told: Sequence[Observation], num_told: int) -> int:
    """Index of the next trial; at least one more than before, so that a search whose phones all vanish ends."""
    return told[-1].trial.index + 1 if told else num_told + 1


def told_by_index(observations: Sequence[Observation], begin: int, end: int) -> dict[int, Observation | None]:
    """What came of the trials of a stage that are over now, by index and in its order; None of one that was lost.

    Args:
        begin, end: The trials of the stage that are not over, the second exclusive; equal when the search is over.

    Raises:
        ValueError: When a trial is told twice, or one that was not asked for.
    """
    told = sort_told(observations, begin)
    if told and told[-1].trial.index >= end:
        asked = f"trials {begin} to {end - 1} were" if begin < end else "the search is over and nothing was"
        raise ValueError(f"only trials that were asked for can be told: {asked}, got trial {told[-1].trial.index}")
    by_index = {observation.trial.index: observation for observation in told}
    return {index: by_index.get(index) for index in range(begin, min(next_index(told, begin), end))}
