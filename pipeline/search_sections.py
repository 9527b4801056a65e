"""Table [search]: one record for each algorithm, with the settings that it has and no other."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from pipeline.joint_sections import FeathersSection, FedExSection, MergedHalvingSection, TpeSection
from pipeline.search_problem import ALL_AT_ONCE, Problem, Times
from pipeline.section import PositiveInt, Section
from search.algorithm import SearchAlgorithm
from search.algorithms.by_rule import ByRule, random_pruning, uniform_width
from search.algorithms.fednas import Blocks, FedNas, Schedule
from search.algorithms.nested_race import NestedRace
from search.algorithms.random_search import RandomSearch
from search.algorithms.regularized_evolution import RegularizedEvolution
from search.algorithms.successive_halving import SuccessiveHalving, rungs

if TYPE_CHECKING:
    from pipeline.run_sections import RunFile

Part = Annotated[float, Field(gt=0, le=1)]


class RandomSearchSection(Section):
    """Table [search] of random search.

    Attributes:
        trials: Candidates trained in total.
        rounds: Rounds that a trial trains.
        parallel: Trials that train side by side.
    """

    algorithm: Literal["random_search"]
    trials: PositiveInt
    rounds: PositiveInt
    parallel: PositiveInt = 1

    def make(self, problem: Problem) -> SearchAlgorithm[Any]:
        """The algorithm."""
        return RandomSearch(problem.space, problem.feasibility, self.trials, self.rounds)

    def planned(self, run_file: "RunFile") -> tuple[Times, ...]:  # noqa: ARG002
        """Every trial trains and is scored."""
        return ("search", "update", self.trials * self.rounds), ("search", "metrics", self.trials)


class EvolutionSection(Section):
    """Table [search] of regularised evolution.

    Attributes:
        trials: Candidates trained in total.
        rounds: Rounds that a trial trains.
        population_size, tournament_size: P and S.
        parallel: Trials that train side by side.
    """

    algorithm: Literal["regularized_evolution"]
    trials: PositiveInt
    rounds: PositiveInt
    population_size: PositiveInt
    tournament_size: PositiveInt
    parallel: PositiveInt = 1

    def make(self, problem: Problem) -> SearchAlgorithm[Any]:
        """The algorithm."""
        sizes = self.population_size, self.tournament_size
        return RegularizedEvolution(problem.space, problem.feasibility, self.trials, self.rounds, *sizes)

    def planned(self, run_file: "RunFile") -> tuple[Times, ...]:  # noqa: ARG002
        """Every trial trains and is scored."""
        return ("search", "update", self.trials * self.rounds), ("search", "metrics", self.trials)


class FedNasSection(Section):
    """Table [search] of FedNAS, which prunes the space's largest network until all limits are met.

    Attributes:
        groups: G, groups of clients of nearly equal data; each candidate trains on one. 1 trains it on everybody.
        pretrain_rounds: R_pre, rounds of every candidate of a step.
        keep: k, candidates that go on; without it all.
        rounds: R, further rounds of those, at most; 0 for none.
        schedule: Of these rounds: `constant`; `growing` on the way to the limits; `adaptive` goes on until the leader
            is two standard errors ahead.
        first_reduction: What the first step takes away, a part of the largest network's load.
        decay: Each step's reduction over the one before.
        blocks: Which have a candidate: `all`, or those that are `able` to give a step's reduction alone.
        parallel: Trials that train side by side.
    """

    algorithm: Literal["fednas"]
    groups: PositiveInt
    pretrain_rounds: PositiveInt = 2
    keep: PositiveInt | None = None
    rounds: Annotated[int, Field(ge=0)] = 5
    schedule: Schedule = "constant"
    first_reduction: Part = 0.1
    decay: Part = 0.96
    blocks: Blocks = "all"
    parallel: PositiveInt = 64

    def make(self, problem: Problem) -> SearchAlgorithm[Any]:
        """The algorithm."""
        settings = self.model_dump(exclude={"algorithm", "parallel"})
        return FedNas(problem.blocks, problem.feasibility, problem.clients, **settings)


class NestedRaceSection(Section):
    """Table [search] of a nested race: few parts of the space's largest network, within the limits, share its weights.

    Attributes:
        entrants: Networks in each platform's race.
        rounds: Of training, at most.
        cohorts: Groups of a platform's clients that take turns at scoring.
        margin: Standard errors that a network must be behind the leader to leave.
    """

    algorithm: Literal["nested_race"]
    entrants: PositiveInt = 10
    rounds: PositiveInt = 7
    cohorts: PositiveInt = 5
    margin: Annotated[float, Field(gt=0)] = 3.0

    @property
    def parallel(self) -> int:
        """All trials of a round: what they learn is shared when it is over, so fewer would be another search."""
        return ALL_AT_ONCE

    def make(self, problem: Problem) -> SearchAlgorithm[Any]:
        """The algorithm."""
        settings = self.entrants, self.rounds, self.cohorts, self.margin
        return NestedRace(problem.blocks, problem.feasibility, problem.clients, *settings)


class UniformWidthSection(Section):
    """Table [search] of uniform width scaling, which searches nothing: the control of every search.

    Attributes:
        rounds: Of each network with each combination of [training]'s lists; none where there is one combination.
        parallel: Trials that train side by side.
    """

    algorithm: Literal["uniform_width"]
    rounds: PositiveInt = 5
    parallel: PositiveInt = 64

    def make(self, problem: Problem) -> SearchAlgorithm[Any]:
        """The algorithm."""
        return ByRule(problem.blocks, problem.feasibility, uniform_width, self.rounds)


class RandomPruningSection(Section):
    """Table [search] of FedNAS's steps with random blocks, which asks no client: the control of FedNAS.

    Attributes:
        first_reduction, decay: As of FedNAS.
        rounds, parallel: As of uniform width scaling.
    """

    algorithm: Literal["random_pruning"]
    first_reduction: Part = 0.1
    decay: Part = 0.96
    rounds: PositiveInt = 5
    parallel: PositiveInt = 64

    def make(self, problem: Problem) -> SearchAlgorithm[Any]:
        """The algorithm."""
        rule = random_pruning(self.first_reduction, self.decay)
        return ByRule(problem.blocks, problem.feasibility, rule, self.rounds)


# Those whose networks are parts of the space's largest, of widths that the space need not list.
NARROWING = FedNasSection | NestedRaceSection | UniformWidthSection | RandomPruningSection


class SuccessiveHalvingSection(Section):
    """Table [search] of successive halving.

    Attributes:
        candidates: Drawn at random for the first rung.
        rounds: Of the first rung; each later rung trains `eta` times as many further ones as the one before.
        eta: One of so many goes on.
        parallel: Trials that train side by side.
    """

    algorithm: Literal["successive_halving"]
    candidates: PositiveInt
    rounds: PositiveInt = 1
    eta: Annotated[int, Field(ge=2)] = 2
    parallel: PositiveInt = 64

    def make(self, problem: Problem) -> SearchAlgorithm[Any]:
        """The algorithm."""
        return SuccessiveHalving(problem.space, problem.feasibility, self.candidates, self.rounds, self.eta)

    def planned(self, run_file: "RunFile") -> tuple[Times, ...]:  # noqa: ARG002
        """Every rung's candidates train for its rounds and are scored."""
        planned = rungs(self.candidates, self.rounds, self.eta)
        updates, scores = sum(going * rounds for going, rounds in planned), sum(going for going, _ in planned)
        return ("search", "update", updates), ("search", "metrics", scores)


class Nsga2Section(Section):
    """Table [search] of NSGA-II, for high accuracy and low load.

    Attributes:
        trials: Candidates trained in total.
        rounds: Rounds that a trial trains.
        population_size: Scored trials a generation, fewer than `trials`.
        parallel: Trials that train side by side.
    """

    algorithm: Literal["nsga2"]
    trials: PositiveInt
    rounds: PositiveInt
    population_size: Annotated[int, Field(ge=2)] = 20
    parallel: PositiveInt = 1

    def make(self, problem: Problem) -> SearchAlgorithm[Any]:
        """The algorithm."""
        from search.algorithms.optuna_nsga2 import Nsga2  # noqa: PLC0415  (0.4 s that no other command waits for)

        return Nsga2(problem.blocks, problem.feasibility, self.trials, self.rounds, self.population_size)

    def planned(self, run_file: "RunFile") -> tuple[Times, ...]:  # noqa: ARG002
        """Every trial trains and is scored."""
        return ("search", "update", self.trials * self.rounds), ("search", "metrics", self.trials)


SearchSection = (
    RandomSearchSection
    | EvolutionSection
    | FedNasSection
    | NestedRaceSection
    | UniformWidthSection
    | RandomPruningSection
    | SuccessiveHalvingSection
    | Nsga2Section
    | TpeSection
    | FeathersSection
    | FedExSection
    | MergedHalvingSection
)
# By the names that run files give them.
ALGORITHMS: dict[str, type[Section]] = {
    "random_search": RandomSearchSection,
    "regularized_evolution": EvolutionSection,
    "fednas": FedNasSection,
    "nested_race": NestedRaceSection,
    "uniform_width": UniformWidthSection,
    "random_pruning": RandomPruningSection,
    "successive_halving": SuccessiveHalvingSection,
    "nsga2": Nsga2Section,
    "tpe": TpeSection,
    "feathers": FeathersSection,
    "fedex": FedExSection,
    "merged_halving": MergedHalvingSection,
}
# They prune widths, take parts of the largest network, or breed blocks' options.
OF_BLOCKS = (FedNasSection, NestedRaceSection, Nsga2Section, RandomPruningSection, UniformWidthSection)
# They train supernets of cells, or read a network's edges.
OF_CELLS = (FeathersSection, FedExSection, MergedHalvingSection, TpeSection)
