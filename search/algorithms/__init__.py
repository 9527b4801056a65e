"""The search algorithms, one file each, by the names that a run file gives them."""

from collections.abc import Callable
from typing import Any

from search.algorithm import SearchAlgorithm
from search.algorithms.random_search import RandomSearch
from search.algorithms.regularized_evolution import RegularizedEvolution

# All take space, feasibility, num_trials and rounds, then settings of their own.
ALGORITHMS: dict[str, Callable[..., SearchAlgorithm[Any]]] = {
    "random_search": RandomSearch,
    "regularized_evolution": RegularizedEvolution,
}

__all__ = ["ALGORITHMS", "RandomSearch", "RegularizedEvolution"]
