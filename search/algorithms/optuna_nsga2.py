"""NSGA-II: breed networks that are accurate and light, by rank of the Pareto front and by crowding; Optuna's sampler.

"A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", doi:10.1109/4235.996017. Optuna's study is made anew at
each ask from what was told, so that it is never saved and a resumed search goes on as if it had not stopped. Two
differences: limits are known before anything is trained, so a network over one is drawn again instead of being trained
and then ranked last; a generation is full when as many trials were scored, whichever finished first.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import optuna

from search.algorithm import most_accurate, next_index, sort_told
from search.architecture import Architecture, Stage, Stem
from search.budget import Feasibility, draw_feasible
from search.candidate import Candidate, HyperParameters, Observation, Trial
from search.choices import Choices
from search.space import SearchSpace


@dataclass(frozen=True)
class Individual:
    """A scored candidate: the place of each gene's option among all of them, and its two objectives."""

    genes: dict[str, int]
    accuracy: float
    load: float


@dataclass(frozen=True)
class Nsga2State:
    """Seed, finished rounds of ask and tell, trials over, and all scored candidates, oldest first."""

    seed: int
    step: int = 0
    num_told: int = 0
    individuals: tuple[Individual, ...] = ()
    schema: int = 1


@dataclass(frozen=True)
class Nsga2:
    """Search for high accuracy and low load, the largest part of a limit that is needed.

    Without limits every load is 0 and accuracy alone is bred for. A candidate may be asked for again.

    Attributes:
        feasibility: The limits that every candidate meets.
        num_trials: Trials in total.
        rounds: Rounds that a trial trains.
        population_size: Scored trials a generation, fewer than there are trials; the first is drawn at random.
    """

    space: SearchSpace
    feasibility: Feasibility
    num_trials: int
    rounds: int
    population_size: int = 20

    def __post_init__(self) -> None:
        if not 2 <= self.population_size < self.num_trials:
            raise ValueError(
                f"population_size must be >= 2 and < trials = {self.num_trials}, got {self.population_size}: "
                "the first generation is drawn at random, and no other would be bred"
            )

    @property
    def state_type(self) -> type[Nsga2State]:
        return Nsga2State

    def init(self, seed: int) -> Nsga2State:
        return Nsga2State(seed)

    def ask(self, state: Nsga2State, count: int) -> tuple[Trial, ...]:
        indices = range(state.num_told, min(state.num_told + count, self.num_trials))
        if not indices:
            return ()
        study = self._study(state)

        def draw() -> Candidate:
            return self._candidate(study.ask(self._distributions).params)

        smallest = self.space.smallest()
        return tuple(Trial(i, draw_feasible(draw, self.feasibility, smallest), self.rounds) for i in indices)

    def tell(self, state: Nsga2State, observations: Sequence[Observation]) -> Nsga2State:
        told = sort_told(observations, state.num_told)
        individuals = tuple(self._individual(one) for one in told if one.is_scored)
        return replace(
            state,
            step=state.step + 1,
            num_told=next_index(told, state.num_told),
            individuals=(*state.individuals, *individuals),
        )

    def winners(self, state: Nsga2State, observations: Sequence[Observation]) -> dict[str, int]:  # noqa: ARG002
        return most_accurate(self.feasibility, observations)

    def _study(self, state: Nsga2State) -> optuna.Study:
        logging.getLogger("optuna").setLevel(logging.WARNING)  # or it tells of every study
        seed = int(np.random.SeedSequence((state.seed, state.step)).generate_state(1)[0])
        sampler = optuna.samplers.NSGAIISampler(population_size=self.population_size, seed=seed)
        study = optuna.create_study(directions=("maximize", "minimize"), sampler=sampler)
        for place, one in enumerate(state.individuals):
            generation = {sampler._get_generation_key(): place // self.population_size}
            study.add_trial(
                optuna.trial.create_trial(
                    params=dict(one.genes),
                    distributions=dict(self._distributions),
                    values=(one.accuracy, one.load),
                    system_attrs=generation,
                )
            )
        return study

    def _individual(self, observation: Observation) -> Individual:
        candidate = observation.trial.candidate
        return Individual(self._genes(candidate), observation.accuracy, self.feasibility.load(candidate.architecture))

    @cached_property
    def _choices(self) -> Choices:
        """Options by gene; every stage has its genes in every individual, whether the network is so deep or not."""
        space = self.space
        stage = {"kind": space.stages.kinds, **space.stages.choices("inverted")}
        return {
            "num_stages": tuple(range(space.min_stages, space.max_stages + 1)),
            "head": space.heads,
            "normalization": space.normalizations,
            "activation": space.activations,
            **_named("stem", space.stem.choices()),
            **_named("training", space.hyper_parameters.choices()),
            **{name: v for i in range(space.max_stages) for name, v in _named(f"stages.{i}", stage).items()},
        }

    @cached_property
    def _distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """Of the genes that have a choice."""
        return {
            name: optuna.distributions.CategoricalDistribution(tuple(range(len(options))))
            for name, options in self._choices.items()
            if len(options) > 1
        }

    def _candidate(self, genes: dict[str, int]) -> Candidate:
        fields = {name: options[genes.get(name, 0)] for name, options in self._choices.items()}
        network = Architecture(
            self.space.input_shape,
            self.space.num_classes,
            Stem(**_part("stem", fields)),
            tuple(_stage(_part(f"stages.{i}", fields)) for i in range(fields["num_stages"])),
            **{name: fields[name] for name in ("head", "normalization", "activation")},
        )
        return Candidate(network, HyperParameters(**_part("training", fields)))

    def _genes(self, candidate: Candidate) -> dict[str, int]:
        """The genes that make the candidate; where it has no such stage those of its last, for its deeper children."""
        network = candidate.architecture
        fields = {"num_stages": len(network.stages), **_named("stem", vars(network.stem)), **vars(network)}
        fields |= _named("training", vars(candidate.hyper_parameters))
        for i in range(self.space.max_stages):
            stage = network.stages[min(i, len(network.stages) - 1)] if network.stages else None
            fields |= {} if stage is None else _named(f"stages.{i}", vars(stage))
        return {name: _place(fields.get(name), self._choices[name]) for name in self._distributions}


def _named(part: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {f"{part}.{name}": value for name, value in fields.items()}


def _part(part: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(f"{part}."): value for name, value in fields.items() if name.startswith(f"{part}.")}


def _stage(fields: dict[str, Any]) -> Stage:
    return Stage(**(fields | ({"expansion": 1} if fields["kind"] == "depthwise" else {})))


def _place(value: Any, options: tuple[Any, ...]) -> int:
    """Of an option; 0 of what a network has none of: a depthwise block's expansion, the stages of one without any."""
    return options.index(value) if value in options else 0
