"""Random search: feasible candidates drawn from the space, each once.

Bergstra and Bengio, "Random Search for Hyper-Parameter Optimization", JMLR 13 (2012), section 1; over architectures a
control that is hard to beat: Li and Talwalkar, "Random Search and Reproducibility for Neural Architecture Search",
arXiv:1902.07638. One difference: a candidate over a device budget is never asked for.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from search.algorithm import most_accurate, next_index, sort_told
from search.budget import Feasibility, draw_feasible
from search.candidate import Candidate, Observation, Trial
from search.choices import pick
from search.space import Space

_DRAWS = 100  # in a row that were all seen, before the space is looked through
_SMALL_SPACE = 10_000  # candidates that are looked through in well under a second


@dataclass(frozen=True)
class RandomState:
    """Seed, finished rounds of ask and tell, trials over, and the candidates that were told."""

    seed: int
    step: int = 0
    num_told: int = 0
    seen: tuple[Candidate, ...] = ()
    schema: int = 1


@dataclass(frozen=True)
class RandomSearch:
    """Search by independent draws.

    The search is over before `num_trials` when no unseen candidate is left: certain in a space of up to 10,000
    candidates, in a larger one taken for granted after 100 feasible draws that were all seen.

    Attributes:
        feasibility: The limits that every candidate meets.
        num_trials: Trials in total.
        rounds: Rounds that a trial trains.
    """

    space: Space
    feasibility: Feasibility
    num_trials: int
    rounds: int

    @property
    def state_type(self) -> type[RandomState]:
        return RandomState

    def init(self, seed: int) -> RandomState:
        return RandomState(seed)

    def ask(self, state: RandomState, count: int) -> tuple[Trial, ...]:
        rng = np.random.default_rng((state.seed, state.step))
        seen = set(state.seen)
        trials: list[Trial] = []
        for index in range(state.num_told, min(state.num_told + count, self.num_trials)):
            candidate = self._draw_unseen(seen, rng)
            if candidate is None:
                break
            seen.add(candidate)
            trials.append(Trial(index, candidate, self.rounds))
        return tuple(trials)

    def tell(self, state: RandomState, observations: Sequence[Observation]) -> RandomState:
        told = sort_told(observations, state.num_told)
        return replace(
            state,
            step=state.step + 1,
            num_told=next_index(told, state.num_told),
            seen=(*state.seen, *(observation.trial.candidate for observation in told)),
        )

    def winners(self, state: RandomState, observations: Sequence[Observation]) -> dict[str, int]:  # noqa: ARG002
        return most_accurate(self.feasibility, observations)

    def _draw_unseen(self, seen: Set[Candidate], rng: np.random.Generator) -> Candidate | None:
        for _ in range(_DRAWS):
            candidate = draw_feasible(lambda: self.space.sample(rng), self.feasibility, self.space.smallest())
            if candidate not in seen:
                return candidate
        if self.space.size() > _SMALL_SPACE:
            return None
        unseen = [
            candidate
            for candidate in self.space.enumerate_candidates()
            if candidate not in seen and self.feasibility.is_feasible(candidate.architecture)
        ]
        return pick(unseen, rng) if unseen else None
