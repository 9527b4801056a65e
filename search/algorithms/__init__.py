"""The search algorithms, one file each; those that need Optuna are only in `optuna_nsga2` and `optuna_tpe`."""

from search.algorithms.by_rule import ByRule, random_pruning, uniform_width
from search.algorithms.feathers import Feathers
from search.algorithms.fedex import FedEx
from search.algorithms.fednas import FedNas
from search.algorithms.merged_halving import MergedHalving
from search.algorithms.nested_race import NestedRace
from search.algorithms.random_search import RandomSearch
from search.algorithms.regularized_evolution import RegularizedEvolution
from search.algorithms.successive_halving import SuccessiveHalving

__all__ = [
    "ByRule",
    "Feathers",
    "FedEx",
    "FedNas",
    "MergedHalving",
    "NestedRace",
    "RandomSearch",
    "RegularizedEvolution",
    "SuccessiveHalving",
    "random_pruning",
    "uniform_width",
]
