"""TPE: draw where densities of good candidates are high and those of bad ones low; Optuna's sampler over cell networks.

"Algorithms for Hyper-Parameter Optimization", NeurIPS 2011, section 4. Hyper-parameters are places in their lists of
options, in order; sources and operations of edges are categories. The study is made anew at each ask from what was
told, so that it is never saved and a resumed search goes on as if it had not stopped. A network over a limit is drawn
again and never asked for.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import optuna

from search.algorithm import most_accurate, next_index, sort_told
from search.architecture import Cell, Edge
from search.budget import Feasibility, draw_feasible
from search.candidate import Candidate, HyperParameters, Observation, Trial
from search.cell_space import CellSpace

_FAILED = 0.0  # accuracy of a candidate that could not be trained: Optuna learns to stay away


@dataclass(frozen=True)
class Point:
    """A candidate that is over: the places of its options, and its accuracy."""

    genes: dict[str, int]
    accuracy: float


@dataclass(frozen=True)
class TpeState:
    """Seed, finished rounds of ask and tell, trials over, and what came of them, oldest first."""

    seed: int
    step: int = 0
    num_told: int = 0
    points: tuple[Point, ...] = ()
    schema: int = 1


@dataclass(frozen=True)
class Tpe:
    """Search over networks of cells and hyper-parameters together.

    Attributes:
        feasibility: The limits that every candidate meets.
        num_trials: Trials in total.
        rounds: Rounds that a trial trains.
        num_random: Trials before densities decide.
    """

    space: CellSpace
    feasibility: Feasibility
    num_trials: int
    rounds: int
    num_random: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.num_random < self.num_trials:
            raise ValueError(
                f"num_random must be >= 1 and < trials = {self.num_trials}, got {self.num_random}: nothing would be "
                "learnt from the random ones"
            )

    @property
    def state_type(self) -> type[TpeState]:
        return TpeState

    def init(self, seed: int) -> TpeState:
        return TpeState(seed)

    def ask(self, state: TpeState, count: int) -> tuple[Trial, ...]:
        indices = range(state.num_told, min(state.num_told + count, self.num_trials))
        if not indices:
            return ()
        study = self._study(state)

        def draw() -> Candidate:
            return self._candidate(study.ask(self._distributions).params)

        return tuple(
            Trial(i, draw_feasible(draw, self.feasibility, self.space.smallest()), self.rounds) for i in indices
        )

    def tell(self, state: TpeState, observations: Sequence[Observation]) -> TpeState:
        told = sort_told(observations, state.num_told)
        points = tuple(
            Point(self._genes(one.trial.candidate), one.accuracy if one.is_scored else _FAILED) for one in told
        )
        step, num_told = state.step + 1, next_index(told, state.num_told)
        return replace(state, step=step, num_told=num_told, points=(*state.points, *points))

    def winners(self, state: TpeState, observations: Sequence[Observation]) -> dict[str, int]:  # noqa: ARG002
        return most_accurate(self.feasibility, observations)

    def _study(self, state: TpeState) -> optuna.Study:
        logging.getLogger("optuna").setLevel(logging.WARNING)  # or it tells of every study
        seed = int(np.random.SeedSequence((state.seed, state.step)).generate_state(1)[0])
        sampler = optuna.samplers.TPESampler(n_startup_trials=self.num_random, seed=seed)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for one in state.points:
            distributions = dict(self._distributions)
            study.add_trial(
                optuna.trial.create_trial(params=dict(one.genes), distributions=distributions, value=one.accuracy)
            )
        return study

    @cached_property
    def _options(self) -> dict[str, tuple[Any, ...]]:
        """Options by gene: of each node of each stage the sources kept, and an operation for each of these."""
        space = self.space
        operations = tuple(one for one in space.operations if one != "none")
        options: dict[str, tuple[Any, ...]] = {}
        for stage in range(len(space.strides)):
            for node in range(space.nodes):
                place = f"stages.{stage}.{node}"
                options[f"{place}.sources"] = tuple(combinations(range(2 + node), space.edges_kept))
                options |= {f"{place}.{edge}": operations for edge in range(space.edges_kept)}
        return options

    @cached_property
    def _trainings(self) -> dict[str, tuple[Any, ...]]:
        """Options by hyper-parameter, those that have an order in it."""
        choices = self.space.hyper_parameters.choices()
        return {name: options if len(options) == 1 else tuple(sorted(options)) for name, options in choices.items()}

    @cached_property
    def _distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """Of the genes that have a choice."""
        categories = {
            name: optuna.distributions.CategoricalDistribution(tuple(range(len(options))))
            for name, options in self._options.items()
            if len(options) > 1
        }
        ordered = {
            f"training.{name}": optuna.distributions.IntDistribution(0, len(options) - 1)
            for name, options in self._trainings.items()
            if len(options) > 1
        }
        return {**categories, **ordered}

    def _candidate(self, genes: dict[str, int]) -> Candidate:
        space = self.space
        fields = {name: options[genes.get(name, 0)] for name, options in self._options.items()}

        def edges(place: str) -> tuple[Edge, ...]:
            sources = fields[f"{place}.sources"]
            return tuple(Edge(source, (fields[f"{place}.{i}"],)) for i, source in enumerate(sources))

        cells = [
            Cell(tuple(edges(f"stages.{stage}.{node}") for node in range(space.nodes)))
            for stage in range(len(space.strides))
        ]
        training = {name: options[genes.get(f"training.{name}", 0)] for name, options in self._trainings.items()}
        return Candidate(space.network(cells), HyperParameters(**training))

    def _genes(self, candidate: Candidate) -> dict[str, int]:
        fields: dict[str, Any] = {}
        for i, stage in enumerate(candidate.architecture.stages):
            for node, edges in enumerate(stage.cell.nodes if stage.cell else ()):
                fields[f"stages.{i}.{node}.sources"] = tuple(edge.source for edge in edges)
                fields |= {f"stages.{i}.{node}.{k}": edge.operations[0] for k, edge in enumerate(edges)}
        known = {**self._options, **{f"training.{name}": options for name, options in self._trainings.items()}}
        fields |= {f"training.{name}": value for name, value in vars(candidate.hyper_parameters).items()}
        return {name: known[name].index(fields[name]) for name in self._distributions}
