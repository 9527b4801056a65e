"""The search algorithms, one file each; NSGA-II, which needs Optuna, is only in `optuna_nsga2`."""

from search.algorithms.by_rule import ByRule, random_pruning, uniform_width
from search.algorithms.fednas import FedNas
from search.algorithms.nested_race import NestedRace
from search.algorithms.random_search import RandomSearch
from search.algorithms.regularized_evolution import RegularizedEvolution
from search.algorithms.successive_halving import SuccessiveHalving

__all__ = [
    "ByRule",
    "FedNas",
    "NestedRace",
    "RandomSearch",
    "RegularizedEvolution",
    "SuccessiveHalving",
    "random_pruning",
    "uniform_width",
]
