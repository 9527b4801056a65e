"""Table [search] of searches over networks of cells and hyper-parameters together."""

from math import ceil, log
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from device_runtime.accounting import ReleaseKind
from pipeline.search_problem import ALL_AT_ONCE, Problem, Times
from pipeline.section import Momentum, NonNegative, PositiveFloat32, PositiveInt, Section
from search.algorithm import SearchAlgorithm
from search.algorithms.feathers import Feathers, num_explored
from search.algorithms.fedex import FedEx, Order, parts_of
from search.algorithms.merged_halving import MergedHalving, groups_in_a_turn
from search.algorithms.successive_halving import rungs
from search.candidate import HyperParameters

if TYPE_CHECKING:
    from pipeline.run_sections import RunFile

JointMoves = Literal["alternate", "all"]


class FeathersSection(Section):
    """Table [search] of FEATHERS.

    Attributes:
        rounds: Of the search phase, exploration included.
        evaluation_rounds: Of the evaluation phase, likewise; without it [final] trains with the best configuration.
        configurations: K, drawn once from the lists of [training].
        gamma: So many times the entropy are explored in a round.
        period: n; the first of so many rounds explores.
        step: eta, of the rewards' moving means.
        moves: `alternate` takes a step on the architecture weights before each on the others; `all` takes both by one
            gradient, as the published private variant.
    """

    algorithm: Literal["feathers"]
    rounds: PositiveInt
    evaluation_rounds: Annotated[int, Field(ge=0)] = 0
    configurations: PositiveInt = 120
    gamma: Annotated[float, Field(gt=0, le=1000)] = 4.0
    period: PositiveInt = 10
    step: Annotated[float, Field(gt=0, le=1)] = 0.3
    moves: JointMoves = "alternate"

    @property
    def order(self) -> Order:
        """What comes first: the two come together."""
        return "joint"

    @property
    def parallel(self) -> int:
        """All trials of a round."""
        return ALL_AT_ONCE

    def make(self, problem: Problem) -> SearchAlgorithm[Any]:
        """The algorithm."""
        settings = self.configurations, self.gamma, self.period, self.step, self.moves
        return Feathers(problem.cells, problem.feasibility, self.rounds, self.evaluation_rounds, *settings)

    def planned(self, run_file: "RunFile") -> tuple[Times, ...]:
        """Explorations are widest while nothing is known; the network is scored once it has a name."""
        widest = num_explored(self.gamma, log(self.configurations), self.configurations)
        times: list[Times] = [("final", "metrics", 1)]
        phases: tuple[tuple[Literal["search", "final"], int], ...] = (
            ("search", self.rounds),
            ("final", self.evaluation_rounds),
        )
        for phase, rounds in phases:
            explorations = ceil(rounds / self.period)
            updates = explorations * widest + rounds - explorations
            times += [(phase, "update", updates), (phase, "reward", explorations * widest)]
            # In the client unit both kinds of step are one update.
            is_apart = run_file.privacy is None or run_file.privacy.unit == "example"
            if phase == "search" and self.moves == "alternate" and is_apart:
                times.append((phase, "architecture", updates))
        return tuple(one for one in times if one[2])


class DefaultSection(Section):
    """Table [search.default]: the configuration of rounds that are not tuned; the rest is the first of [training]'s."""

    learning_rate: PositiveFloat32
    momentum: Momentum
    weight_decay: NonNegative
    architecture_learning_rate: PositiveFloat32 | None = None
    architecture_weight_decay: NonNegative = 0.0

    def over(self, problem: Problem) -> HyperParameters:
        """As hyper-parameters."""
        first = {name: options[0] for name, options in problem.cells.hyper_parameters.choices().items()}
        return HyperParameters(**(first | self.model_dump()))


class FedExSection(Section):
    """Table [search] of FedEx, and of federated DARTS without tuning.

    Attributes:
        rounds: Of the search.
        order: What comes first, or alone; `nas` is federated DARTS with `default`.
        configurations: K, drawn once from the lists of [training].
        default: Of rounds that are not tuned; needed where the search of the architecture comes first or alone.
        moves: As of FEATHERS.
        tuning_share: Of the rounds, those that tune, where the two follow each other.
    """

    algorithm: Literal["fedex"]
    rounds: PositiveInt
    order: Order = "joint"
    configurations: PositiveInt = 27
    default: DefaultSection | None = None
    moves: JointMoves = "alternate"
    tuning_share: Annotated[float, Field(gt=0, lt=1)] = 0.5

    @property
    def named_kinds(self) -> frozenset[ReleaseKind]:
        """A round that tunes names who trains with each configuration."""
        return frozenset() if self.order == "nas" else frozenset({"update", "reward"})

    @property
    def parallel(self) -> int:
        """All trials of a round: what they learn is shared when it is over."""
        return ALL_AT_ONCE

    def make(self, problem: Problem) -> SearchAlgorithm[Any]:
        """The algorithm."""
        return FedEx(
            problem.cells,
            problem.feasibility,
            problem.clients,
            self.rounds,
            self.configurations,
            self.order,
            None if self.default is None else self.default.over(problem),
            self.moves,
            self.tuning_share,
        )

    def planned(self, run_file: "RunFile") -> tuple[Times, ...]:
        """Everybody trains in every round, and tells its loss where the round tunes."""
        parts = parts_of(self.order, self.rounds, self.moves, self.tuning_share)
        tuned = sum(part.rounds for part in parts if part.is_tuned)
        times: list[Times] = [("search", "update", self.rounds), ("search", "reward", tuned), ("search", "metrics", 1)]
        if run_file.privacy is None or run_file.privacy.unit == "example":
            in_turns = sum(part.rounds for part in parts if part.moves == "alternate")
            times.append(("search", "architecture", in_turns))
        return tuple(one for one in times if one[2])


class MergedHalvingSection(Section):
    """Table [search] of merged halving.

    Attributes:
        candidates: Pairs of a network and a configuration in the first rung.
        networks: Networks among them.
        rounds: Of the first rung; each later rung trains `eta` times as many as the one before.
        eta: One of so many goes on.
        group_size: Clients that train a pair; a third of them where left out.
        sharpness: How much the better ones weigh in the mean of a rung's weights; 0 for alike.
    """

    algorithm: Literal["merged_halving"]
    candidates: PositiveInt = 27
    networks: PositiveInt = 9
    rounds: PositiveInt = 1
    eta: Annotated[int, Field(ge=2)] = 3
    group_size: PositiveInt | None = None
    sharpness: NonNegative = 2.0

    @property
    def named_kinds(self) -> frozenset[ReleaseKind]:
        """A round of training names its group; whoever comes scores."""
        return frozenset({"update"})

    @property
    def parallel(self) -> int:
        """All pairs of a rung."""
        return ALL_AT_ONCE

    def make(self, problem: Problem) -> SearchAlgorithm[Any]:
        """The algorithm."""
        settings = self.candidates, self.networks, self.rounds, self.eta, self.group_size, self.sharpness
        return MergedHalving(problem.cells, problem.feasibility, problem.clients, *settings)

    def planned(self, run_file: "RunFile") -> tuple[Times, ...]:
        """A client trains one pair of each turn of the groups, and scores all."""
        updates = scores = 0
        for going, rounds in rungs(self.candidates, self.rounds, self.eta):
            updates, scores = updates + ceil(going / self._num_groups(run_file)) * rounds, scores + going
        return ("search", "update", updates), ("search", "metrics", scores + 1)

    def _num_groups(self, run_file: "RunFile") -> int:
        """In a turn; where nobody knows how many clients there will be, as in every real run, the fewest."""
        clients = run_file.data.clients
        if clients is None or run_file.run.kind == "real":
            return 1
        return groups_in_a_turn(clients, self.group_size)


class TpeSection(Section):
    """Table [search] of TPE.

    Attributes:
        trials: Candidates trained in total.
        rounds: Rounds that a trial trains.
        random: Trials drawn at random before densities decide.
        parallel: Trials that train side by side.
    """

    algorithm: Literal["tpe"]
    trials: PositiveInt
    rounds: PositiveInt
    random: PositiveInt = 10
    parallel: PositiveInt = 1

    def make(self, problem: Problem) -> SearchAlgorithm[Any]:
        """The algorithm."""
        from search.algorithms.optuna_tpe import Tpe  # noqa: PLC0415  (0.4 s that no other command waits for)

        return Tpe(problem.cells, problem.feasibility, self.trials, self.rounds, self.random)

    def planned(self, run_file: "RunFile") -> tuple[Times, ...]:  # noqa: ARG002
        """Every trial trains and is scored."""
        return ("search", "update", self.trials * self.rounds), ("search", "metrics", self.trials)
