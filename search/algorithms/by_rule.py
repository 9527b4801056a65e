"""Networks by a rule that asks no client; trials only tune how they train. The controls of every search.

Two rules: uniform width scaling (the width multiplier of "MobileNets", arXiv:1704.04861, section 3.3), and FedNAS's way
to the limits with each step's block drawn at random. A search that is not better than both has not paid.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from search.algorithm import NoWinnerError, next_index, sort_told
from search.architecture import Architecture
from search.budget import Feasibility, InfeasibleError
from search.candidate import Candidate, HyperParameters, Observation, Trial
from search.choices import combine, pick
from search.pruning import reduce_one_block, scale_widths
from search.space import SearchSpace

_FACTORS = 200  # of uniform width, from 1 down in equal steps

# From the space's largest network, all limits and a seed to each platform's network, by the name of its profile.
Rule = Callable[[Architecture, Feasibility, int], dict[str, Architecture]]


@dataclass(frozen=True)
class ByRuleState:
    """Seed, each platform's network by the name of its profile, and trials over."""

    seed: int
    networks: dict[str, Architecture]
    num_told: int = 0
    schema: int = 1


@dataclass(frozen=True)
class ByRule:
    """Train each platform's network with every combination of hyper-parameters, and ship the best.

    A trial a network and combination. Where there is one combination nothing is tuned: each network's one trial trains
    nothing and costs one evaluation of fresh weights, so that final training begins from these.

    Attributes:
        feasibility: The limits; each platform's network is made for its own, and without any is the largest.
        rounds: Rounds that a trial trains where several combinations are compared.
    """

    space: SearchSpace
    feasibility: Feasibility
    rule: Rule
    rounds: int

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds must be >= 1, got {self.rounds}")

    @property
    def state_type(self) -> type[ByRuleState]:
        return ByRuleState

    def init(self, seed: int) -> ByRuleState:
        return ByRuleState(seed, self.rule(self.space.largest(), self.feasibility, seed))

    def ask(self, state: ByRuleState, count: int) -> tuple[Trial, ...]:
        combinations = [HyperParameters(**fields) for fields in combine(self.space.hyper_parameters.choices())]
        # By name: a saved state's platforms are in this order, whichever they had before. They may share a network.
        networks = dict.fromkeys(state.networks[name] for name in sorted(state.networks))
        candidates = [Candidate(network, training) for network in networks for training in combinations]
        rounds = self.rounds if len(combinations) > 1 else 0
        begin = state.num_told
        return tuple(Trial(begin + i, one, rounds) for i, one in enumerate(candidates[begin : begin + count]))

    def tell(self, state: ByRuleState, observations: Sequence[Observation]) -> ByRuleState:
        told = sort_told(observations, state.num_told)
        return replace(state, num_told=next_index(told, state.num_told))

    def winners(self, state: ByRuleState, observations: Sequence[Observation]) -> dict[str, int]:
        winners = {}
        for name, network in state.networks.items():
            own = [one for one in observations if one.is_scored and one.trial.candidate.architecture == network]
            if not own:
                raise NoWinnerError(f"no trial of the network{' of ' + name if name else ''} was scored: begin anew")
            winners[name] = max(own, key=lambda one: (one.accuracy, -one.trial.index)).trial.index
        return winners


def uniform_width(network: Architecture, feasibility: Feasibility, seed: int) -> dict[str, Architecture]:  # noqa: ARG001
    """For each platform all widths scaled by the largest factor, in half percents, that meets its limits.

    Raises:
        InfeasibleError: When none does.
    """
    scaled = tuple(scale_widths(network, step / _FACTORS) for step in range(_FACTORS, 0, -1))
    return _first_within(dict.fromkeys(scaled), feasibility)


def random_pruning(first_reduction: float, decay: float) -> Rule:
    """FedNAS's steps until all limits are met, but the block of each step drawn at random: one way a seed.

    Args:
        first_reduction, decay: As of `FedNas`.

    Raises:
        ValueError: When one is not in (0, 1].
        InfeasibleError: From the rule, when a limit cannot be met.
    """
    for name, part in (("first_reduction", first_reduction), ("decay", decay)):
        if not 0 < part <= 1:
            raise ValueError(f"{name} must be > 0 and <= 1, got {part}")
    return partial(_prune_randomly, first_reduction, decay)


def _prune_randomly(
    first_reduction: float, decay: float, network: Architecture, feasibility: Feasibility, seed: int
) -> dict[str, Architecture]:
    rng = np.random.default_rng(seed)
    trace, reduction = [network], feasibility.load(network) * first_reduction
    while feasibility.load(trace[-1]) > 1:
        candidates = reduce_one_block(trace[-1], feasibility.load, reduction)
        if not candidates:
            break
        trace.append(pick(candidates, rng))
        reduction *= decay
    return _first_within(trace, feasibility)


def _first_within(networks: Iterable[Architecture], feasibility: Feasibility) -> dict[str, Architecture]:
    """For each platform the first network, of ever smaller ones, that meets its limits."""
    *_, smallest = networks
    found = {}
    for name, limits in (feasibility.platforms or {"": feasibility}).items():
        network = next((one for one in networks if limits.is_feasible(one)), None)
        if network is None:
            broken = limits.violations(smallest)[0]
            raise InfeasibleError(f"the narrowest network still breaks {broken}: raise it, or offer fewer stages")
        found[name] = network
    return found
