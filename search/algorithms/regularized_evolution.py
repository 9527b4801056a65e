"""Regularised evolution: mutate the best of a random few, forget the oldest.

"Regularized Evolution for Image Classifier Architecture Search", arXiv:1802.01548, Algorithm 1.
Three differences: a candidate over a device budget is never asked for; a tournament's members are drawn without
repetition; hyper-parameters mutate beside the architecture.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from search.algorithm import most_accurate, next_index, sort_told
from search.budget import Feasibility, InfeasibleError, draw_feasible
from search.candidate import Candidate, Observation, Trial
from search.space import Space


@dataclass(frozen=True)
class EvolutionState:
    """Seed, finished rounds of ask and tell, trials over, and the living observations, oldest first."""

    seed: int
    step: int = 0
    num_told: int = 0
    population: tuple[Observation, ...] = ()
    schema: int = 1


@dataclass(frozen=True)
class RegularizedEvolution:
    """Search by ageing evolution.

    Attributes:
        feasibility: The limits that every candidate meets.
        num_trials: Trials in total.
        rounds: Rounds that a trial trains.
        population_size: P in the paper; as many scored trials are drawn at random first.
        tournament_size: S in the paper; 1 makes this a random walk.
    """

    space: Space
    feasibility: Feasibility
    num_trials: int
    rounds: int
    population_size: int = 50
    tournament_size: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.tournament_size <= self.population_size:
            raise ValueError(
                f"tournament_size must be >= 1 and <= population_size = {self.population_size}, "
                f"got {self.tournament_size}"
            )

    @property
    def state_type(self) -> type[EvolutionState]:
        return EvolutionState

    def init(self, seed: int) -> EvolutionState:
        return EvolutionState(seed)

    def ask(self, state: EvolutionState, count: int) -> tuple[Trial, ...]:
        rng = np.random.default_rng((state.seed, state.step))
        indices = range(state.num_told, min(state.num_told + count, self.num_trials))
        return tuple(Trial(index, self._propose(state, rng), self.rounds) for index in indices)

    def tell(self, state: EvolutionState, observations: Sequence[Observation]) -> EvolutionState:
        told = sort_told(observations, state.num_told)
        scored = (observation for observation in told if observation.is_scored)
        population = (*state.population, *scored)[-self.population_size :]
        return replace(state, step=state.step + 1, num_told=next_index(told, state.num_told), population=population)

    def winners(self, state: EvolutionState, observations: Sequence[Observation]) -> dict[str, int]:  # noqa: ARG002
        return most_accurate(self.feasibility, observations)

    def _propose(self, state: EvolutionState, rng: np.random.Generator) -> Candidate:
        smallest = self.space.smallest()
        if len(state.population) == self.population_size:
            try:
                return draw_feasible(lambda: self._mutate(state, rng), self.feasibility, smallest)
            except InfeasibleError:
                pass  # nobody alive has a feasible neighbour, which a space of islands allows: begin elsewhere
        return draw_feasible(lambda: self.space.sample(rng), self.feasibility, smallest)

    def _mutate(self, state: EvolutionState, rng: np.random.Generator) -> Candidate:
        drawn = rng.choice(len(state.population), self.tournament_size, replace=False)
        parent = max((state.population[i] for i in drawn), key=lambda observation: observation.accuracy)
        return self.space.mutate(parent.trial.candidate, rng)
